"""Stands in for `vinf serve`: takes its arguments, serves the scripted generation, and obeys one word of its own.

Run as a program: the first argument is what to do: "serve", "die" or "never" (is ready); "deaf" and "deaf_never" do not
stop when asked to.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path


def main(word, *arguments):
    named = [argument for argument in arguments if argument != "--no-spare"]
    options = dict(zip(named[::2], named[1::2], strict=True))
    assert options["--listen"] == "127.0.0.1:0"
    assert options["--metrics"] == "off"
    stop = threading.Event()

    def on_term(*_):
        os.write(1, b"asked to stop\n")
        if not word.startswith("deaf"):
            stop.set()

    signal.signal(signal.SIGTERM, on_term)
    print("line one of the log", flush=True)
    if word == "die":
        print(f"cannot serve {options.get('--model')}", file=sys.stderr)
        return 7
    if not word.endswith("never"):
        from tests.client.fakes import FakeServer

        server = FakeServer()
        server.clips = ((0, 4), (4, 3))
        ready = {"listen": server.address, "metrics": "", "pid": os.getpid()}
        Path(options["--ready-file"]).write_text(json.dumps(ready))
    stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
