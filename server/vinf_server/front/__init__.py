"""The process that clients talk to: asyncio, durable, and free of torch."""
