"""`vinf doctor`: what is wrong between here and a server, and what to do about it."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from rich.console import Console
from rich.text import Text

from vinf_client._access import Access, is_loopback
from vinf_client._client import Client
from vinf_client._errors import ClientClosedError
from vinf_client.cli.common import Parser, client_of, print_json, reached_by
from vinf_client.cli.exit_codes import EXIT_FAILED
from vinf_client.cli.following import run_interruptible
from vinf_client.cli.interrupts import Interruptible
from vinf_client.cli.network_checks import Finding, check_network
from vinf_client.cli.server_checks import ServerChecks, check_generation
from vinf_client.cli.values import duration

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_NAME_WIDTH = 13
_EXAMPLES = """
vinf doctor
vinf doctor --server gpu.example.org:50051 --tls-ca ca.crt --token-file token
vinf doctor --no-generation --json | jq -r '.checks[] | select(.status != "ok") | .mend'
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "doctor",
        "Check everything between here and a server, from the address to a small generation, and say what to mend. "
        "The exit code is 0 when nothing failed, else 1.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--no-generation", action="store_true", help="make no small video")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="DURATION",
        help="how long the small video may take, the queue included (default: 60s)",
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: every check with its status, and what to mend")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_interruptible(parser.prog, lambda interruptible: _examine(arguments, interruptible))


def _examine(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> int:
    server, access = reached_by(arguments)
    findings = []
    console = Console()
    with ExitStack() as stack:
        client = stack.enter_context(client_of(arguments))  # refuses what cannot be an address, or a token
        interruptible.on_stop(client.close)
        stopping = _Stopping(interruptible)
        for found in _checks(arguments, server, access, client, stopping):
            stopping.check()
            findings.append(found)
            if not arguments.json:
                _print(console, found)
    healthy = all(found.status != "fail" for found in findings)
    if arguments.json:
        print_json({"server": server, "healthy": healthy, "checks": findings})
    return 0 if healthy else EXIT_FAILED


def _checks(
    arguments: argparse.Namespace,
    server: str,
    access: Access,
    client: Client,
    stopping: "_Stopping",
) -> Iterator[Finding]:
    """Yield what each check finds, until one makes the others pointless."""
    found = None
    for found in check_network(server, access):
        yield found
    if found is None or found.status == "fail":
        return
    failed = False
    options = [("grpc.enable_http_proxy", 0)] if is_loopback(server) else []
    with access.channel(server, options) as channel:
        stopping.on_stop(channel.close)
        for found in ServerChecks(channel, server, access.metadata).run():
            yield found
            failed = failed or found.status == "fail"
    if arguments.no_generation:
        yield Finding("generation", "skip", "not asked for")
    elif failed:
        yield Finding("generation", "skip", "not tried: mend the above first")
    else:
        yield check_generation(client, timeout=arguments.timeout, on_start=stopping.on_stop)


class _Stopping:
    """Tells what a check found because it was cut short from what it found."""

    def __init__(self, interruptible: Interruptible[int | None]) -> None:
        self._interruptible = interruptible
        self._stopped = False

    def on_stop(self, stop: Callable[[], object]) -> None:
        """Have `stop` called when a signal arrives."""

        def stop_and_know() -> None:
            self._stopped = True
            stop()

        self._interruptible.on_stop(stop_and_know)

    def check(self) -> None:
        """Return when no signal arrived.

        Raises:
            ClientClosedError: one did.
        """
        if self._stopped:
            raise ClientClosedError("interrupted")


def _print(console: Console, found: Finding) -> None:
    line = Text.assemble(
        (f"{found.status:<5}", _STYLES[found.status]), (f"{found.name:<{_NAME_WIDTH}}", "bold"), found.text
    )
    console.print(line, soft_wrap=True)
    if found.mend:
        console.print(Text(f"{'':<5}{'':<{_NAME_WIDTH}}→ {found.mend}"), soft_wrap=True)
