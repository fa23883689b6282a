"""The `vinf` command."""

from vinf_client.cli.dispatch import main

__all__ = ["main"]
