"""`vinf worker`: adds this host's devices to a server on another host."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from vinf_server.cli import CommandParser, default_ranks
from vinf_server.config import DEVICES, ServeConfig
from vinf_server.devices import count_visible_gpus
from vinf_server.flag_values import Address, ConfigError
from vinf_server.hosts_config import add_security_flags, check_encrypted, check_local_addr, read_security_flags
from vinf_server.logs import LOG_FORMATS, configure_logs
from vinf_server.worker_host import JoinRefusedError, WorkerConfig, WorkerHost

_log = logging.getLogger(__name__)

EXIT_USAGE = 2


def build_parser() -> argparse.ArgumentParser:
    """Every flag, with its default in the help text."""
    parser = CommandParser(
        prog="vinf worker",
        description="Add this host's devices to a server that runs on another host, started with vinf serve --nnodes "
        "N. The server says what the ranks compute; the model must be installed here, too.",
        epilog="exit codes: 0 stopped by a signal · 2 a mistake in the configuration, a wrong token, or another "
        "version than the server's. While the server cannot be reached it is tried again and again",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--join", required=True, metavar="HOST:PORT", help="where the server lets hosts join, its --link")
    add("--ranks", type=int, default=None, metavar="N", help="ranks on this host (default: CUDA devices, else 2)")
    add("--device", choices=DEVICES, default="auto", help="what they compute on; the same on all hosts (default: auto)")
    add("--log-format", choices=LOG_FORMATS, default="text", help="how this host logs: lines of text, or of JSON")
    add("--insecure", action="store_true", help="allow a join token and frames to travel in plain text")
    add_security_flags(parser.add_argument_group("the way to the server"), "a copy of the server's")
    add("--rank-module", default="vinf_server.rank", help=argparse.SUPPRESS)
    add("--agent-module", default="vinf_server.agent_shim", help=argparse.SUPPRESS)
    return parser


def parse_config(argv: list[str] | None) -> WorkerConfig:
    """Read the arguments, look at the machine, and check both together."""
    arguments = build_parser().parse_args(argv)
    gpus = 0 if arguments.device == "cpu" else count_visible_gpus(os.environ)
    join = Address.parse(arguments.join, flag="--join")
    security = read_security_flags(arguments)
    if security.token_file is None and security.tls is None:
        raise ConfigError("--join-token-file", "is missing: copy the server's token here, or use --link-tls-cert")
    check_encrypted(join, security, insecure=arguments.insecure, flag="--join")
    check_local_addr(arguments.local_addr)
    ranks = ServeConfig(
        ranks=arguments.ranks if arguments.ranks is not None else default_ranks(gpus),
        device=arguments.device,
        visible_gpus=gpus,
        rank_module=arguments.rank_module,
        agent_module=arguments.agent_module,
        log_format=arguments.log_format,
    )
    return WorkerConfig(join=join, security=security, ranks=ranks, local_addr=arguments.local_addr)


def main(argv: list[str] | None = None) -> int:
    """Stay joined until SIGINT or SIGTERM; returns the exit code."""
    try:
        config = parse_config(argv)
    except ConfigError as error:
        print(f"vinf worker: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    configure_logs(config.ranks.log_format, "worker")
    try:
        asyncio.run(WorkerHost(config).run())
    except (ConfigError, JoinRefusedError) as error:
        if config.ranks.log_format == "json":
            _log.critical("%s", error)
        else:
            print(f"vinf worker: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
