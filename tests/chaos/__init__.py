"""Random faults, mutated requests and long runs against a real server, and what must hold afterwards."""
