"""`vinf top`: what a server does, live."""

import argparse
import os
import select
import sys
import threading
import time

from rich.console import Console
from rich.live import Live

from vinf_client._client import Client
from vinf_client._errors import ClientClosedError, TransportError, VinfError
from vinf_client.cli.common import Parser, client_of, print_json, server_of
from vinf_client.cli.exit_codes import EXIT_USAGE
from vinf_client.cli.following import run_interruptible
from vinf_client.cli.interrupts import Interruptible
from vinf_client.cli.overview import Monitor, Overview, figures, render
from vinf_client.cli.terminal import keys_at_once
from vinf_client.cli.values import duration

_KEY_POLL = 0.1  # seconds
_LATE = 2.0  # seconds without an answer after which the screen says so
_JOIN = 2.0  # seconds
_EXAMPLES = """
vinf top
vinf top --once
vinf top --json --interval 10s >> server.jsonl
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "top",
        "Show ranks, throughput, queue and running generations of a server, live; q or Ctrl-C leaves. A server that "
        "restarts is waited for.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--once", action="store_true", help="print once and return")
    parser.add_argument(
        "--interval", type=duration, default=1.0, metavar="DURATION", help="time between refreshes (default: 1s)"
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON a refresh")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    live = not (arguments.once or arguments.json)
    if live and not (sys.stdout.isatty() and sys.stdin.isatty()):
        print(
            "vinf top: needs a terminal; --once prints once, --json one line a refresh",
            file=sys.stderr,
        )
        return EXIT_USAGE

    return run_interruptible(parser.prog, lambda interruptible: _look(arguments, interruptible))


def _look(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> None:
    stopped = threading.Event()
    with client_of(arguments) as client:
        interruptible.on_stop(client.close)
        interruptible.on_stop(stopped.set)
        monitor = Monitor(client, server_of(arguments))
        overview = monitor.look()  # who misspelt the address shall not look at an empty screen
        if arguments.json:
            _print_lines(monitor, overview, arguments, stopped)
        elif arguments.once:
            console = Console()
            console.print(render(overview, width=console.width))
        else:
            _show(monitor, overview, client, arguments.interval, stopped)


def _print_lines(monitor: Monitor, overview: Overview, arguments: argparse.Namespace, stopped: threading.Event) -> None:
    print_json(figures(overview))
    while not (arguments.once or stopped.wait(arguments.interval)):
        try:
            print_json(figures(monitor.look()))
        except ClientClosedError:
            return
        except VinfError as error:
            print_json({"connected": False, "server": monitor.server, "error": str(error)})


def _show(monitor: Monitor, overview: Overview, client: Client, interval: float, stopped: threading.Event) -> None:
    watcher = _Watcher(monitor, overview, interval)
    console = Console()
    first = render(overview, width=console.width)
    try:
        with keys_at_once() as keyboard, Live(first, console=console, screen=True, auto_refresh=False) as live:
            while not (stopped.is_set() or _pressed(keyboard) & set("qQ")):
                picture = render(watcher.overview, width=console.width, problem=watcher.problem)
                live.update(picture, refresh=True)
    finally:
        client.close()
        watcher.close()


class _Watcher:
    """Asks the server in a thread of its own, so that a silent one does not keep the keys waiting."""

    def __init__(self, monitor: Monitor, overview: Overview, interval: float) -> None:
        self.overview = overview
        self._monitor = monitor
        self._interval = interval
        self._error: VinfError | None = None
        self._asked_at: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vinf-top", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why what is shown is old; empty when it is not."""
        asked_at = self._asked_at
        if self._error is not None and not isinstance(self._error, TransportError):
            return str(self._error)
        if self._error is not None or (asked_at is not None and time.monotonic() - asked_at > _LATE):
            return "no connection, retrying"
        return ""

    def close(self) -> None:
        """Stop asking."""
        self._closing.set()
        self._thread.join(_JOIN)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._asked_at = time.monotonic()
            try:
                self.overview = self._monitor.look()
                self._error = None
            except ClientClosedError:
                return
            except VinfError as error:
                self._error = error
            self._asked_at = None


def _pressed(keyboard: int) -> set[str]:
    """Wait a moment for keys."""
    if not select.select([keyboard], [], [], _KEY_POLL)[0]:
        return set()
    try:
        return set(os.read(keyboard, 64).decode("ascii", "replace"))
    except OSError:  # the terminal is gone
        return {"q"}
