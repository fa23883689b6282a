"""The public services: one short method an RPC."""
