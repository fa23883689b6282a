"""The asynchronous client, on gRPC's own asyncio stack."""
