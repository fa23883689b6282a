"""The process on each device: the only place where gRPC and vinf_core meet."""
