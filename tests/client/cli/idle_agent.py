"""An agent that starts no ranks, and waits to be ended."""

import signal


def main(argv: list[str]) -> int:
    signal.pause()
    return 0
