"""The service: a front that never imports torch, and the ranks it launches."""

import os

# Before grpc is imported anywhere: otherwise it writes a line for every stranger whose handshake fails.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
