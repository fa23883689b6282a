"""Python SDK and the `vinf` command."""
