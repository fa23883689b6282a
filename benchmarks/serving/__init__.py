"""Measurements of a server from outside: the only benchmarks that know gRPC and the front."""
