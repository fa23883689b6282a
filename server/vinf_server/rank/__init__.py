"""The process on each device: the only place where gRPC and vinf_core meet."""

from vinf_core.quiet import quiet_imports

# Here, since a rank may begin in three of these modules, and a log of JSON has no other lines.
quiet_imports()
