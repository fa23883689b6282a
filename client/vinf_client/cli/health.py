"""`vinf health`: one health check of a server, with an exit code for container engines, balancers and scripts.

Probes run every few seconds beside ranks that need the processor, so this loads neither numpy nor the rest of the
client. The exit codes are those of grpc_health_probe.
"""

import argparse
import sys
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vinf_client._channel import channel_options
from vinf_client._errors import RpcTimeoutError, TransportError, VinfError
from vinf_client._translate import translated
from vinf_client.cli.common import Parser, print_error, print_json, reached_by
from vinf_client.cli.exit_codes import EXIT_INTERRUPTED
from vinf_client.cli.values import duration

READY_SERVICE = "vinf.v1.VideoGenerationService"

_EXIT_USAGE, _EXIT_UNREACHABLE, _EXIT_CALL_FAILED, _EXIT_NOT_SERVING = 1, 2, 3, 4
_TIMEOUT = 3.0  # seconds
_EXIT_CODES = """\
exit codes:
  0    the service is SERVING
  1    an option, or the file of settings, is not valid
  2    no server there, or the connection broke
  3    the call failed, or took too long; the service is not known, or this is no gRPC server
  4    the service is not SERVING
  130  interrupted by Ctrl-C
0 to 4 are those of grpc_health_probe."""
_EXAMPLES = """
vinf health
vinf health --service '' --timeout 1s
vinf health --server gpu.example.org:50051 --tls-ca ca.crt --json | jq -r .status
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a health check found.

    Attributes:
        server: its address.
        service: whose health was asked for; empty: the server's own.
        healthy: whether the status is SERVING.
        status: the server's word; empty when it gave none.
        error: why it gave none; empty when it did.
    """

    server: str
    service: str
    healthy: bool
    status: str = ""
    error: str = ""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "health",
        "Ask a server once, over grpc.health.v1, whether it is ready to make videos. No token is needed.",
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
        usage_code=_EXIT_USAGE,
    )
    parser.add_argument(
        "--service",
        default=READY_SERVICE,
        metavar="NAME",
        help=f"whose health; '' asks whether the server is alive at all, ranks or not (default: {READY_SERVICE})",
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=_TIMEOUT,
        metavar="DURATION",
        help=f"how long all of it may take (default: {_TIMEOUT:g}s)",
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: server, service, healthy, status, error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        server, access = reached_by(arguments)
        access.check(server)
        channel = access.channel(server, channel_options(server))
    except VinfError as error:
        print_error(parser.prog, error)
        return _EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    try:
        with channel:
            return _report(arguments, _ask(channel, server, arguments.service, arguments.timeout))
    except VinfError as error:
        if arguments.json:
            print_json(Answer(server, arguments.service, healthy=False, error=str(error)))
        print_error(parser.prog, error)
        unreachable = isinstance(error, TransportError) and not isinstance(error, RpcTimeoutError)
        return _EXIT_UNREACHABLE if unreachable else _EXIT_CALL_FAILED
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _ask(channel: grpc.Channel, server: str, service: str, timeout: float) -> Answer:
    request = health_pb2.HealthCheckRequest(service=service)
    with translated(server):
        reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    status = health_pb2.HealthCheckResponse.ServingStatus
    name = status.Name(reply.status) if reply.status in status.values() else str(reply.status)
    return Answer(server, service, healthy=reply.status == status.SERVING, status=name)


def _report(arguments: argparse.Namespace, answer: Answer) -> int:
    if arguments.json:
        print_json(answer)
    elif answer.healthy:
        print(answer.status)
    else:
        of_what = f"the service {answer.service}" if answer.service else "the server"
        print(f"vinf health: {of_what} at {answer.server} is {answer.status}", file=sys.stderr)
    return 0 if answer.healthy else _EXIT_NOT_SERVING
