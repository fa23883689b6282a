"""`vinf serve`: starts the front and the group of ranks."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from vinf_server.config import DEVICES, DTYPES, ServeConfig, default_data_dir
from vinf_server.devices import count_visible_gpus
from vinf_server.flag_values import Address, ConfigError, RankMesh, RankWeights, parse_duration, parse_size
from vinf_server.hosts_config import add_serve_flags, read_serve_flags
from vinf_server.logs import LOG_FORMATS, configure_logs
from vinf_server.model_choice import check_model, read_model_options

_log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2

_DEFAULT_CPU_RANKS = 2


class CommandParser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error of the command is reported."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message.removeprefix('argument ')}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.nargs == 0 or action.default in (None, "", [])
        return action.help if says_nothing else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Every flag, with its default in the help text."""
    parser = CommandParser(
        prog="vinf serve",
        description="Serve long video from a diffusion model that a group of ranks runs together.",
        epilog="exit codes: 0 stopped by a signal · 1 an address or the data directory is taken, or the ranks cannot "
        "be kept running · 2 a mistake in the configuration · 128 + n stopped at once by a second signal n",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        default="sprites",
        metavar="MODEL",
        help="what the ranks load: a name that vinf models lists, a folder, or OWNER/NAME on the hub",
    )
    add(
        "--model-base",
        default="",
        metavar="BASE",
        help="folder, or OWNER/NAME on the hub, with autoencoder, text encoder, tokenizer and scheduler, where the "
        "model's own files lack them (default: where the model's authors say)",
    )
    add("--revision", default="", metavar="REV", help="branch, tag or commit of the model on the hub (default: main)")
    add(
        "--model-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the model, as vinf models NAME lists them; can be given several times",
    )
    add("--offline", action="store_true", help="never ask the hub: only files that are on this machine count")
    add("--ranks", type=int, default=None, metavar="N", help="processes in the group (default: CUDA devices, else 2)")
    add(
        "--cfg-ranks",
        type=int,
        default=1,
        metavar="N",
        help="ranks that share the two halves of the guidance of one clip, 1 or 2; --ranks must be a multiple of "
        "--cfg-ranks times --context-ranks, and what is left are clips",
    )
    add(
        "--context-ranks",
        type=int,
        default=1,
        metavar="N",
        help="ranks that share the tokens of one clip, for models with one attention over space and time, whose number "
        "of heads it must divide",
    )
    add("--listen", default="127.0.0.1:50051", metavar="HOST:PORT", help="where clients connect; port 0 picks one")
    add("--metrics", default="127.0.0.1:9464", metavar="HOST:PORT", help="where Prometheus scrapes, or off")
    add("--web", default="off", metavar="HOST:PORT", help="where browsers find a page to watch; port 0 picks one")
    add(
        "--web-names",
        default="",
        metavar="NAMES",
        help="names besides the machine's own, with commas between, that browsers ask for the page by, such as that of "
        "a proxy before it",
    )
    add("--data-dir", type=Path, default=default_data_dir(), metavar="DIR", help="generations, frames and logs")
    add(
        "--disk-budget",
        default="auto",
        metavar="SIZE",
        help="what frames and checkpoints may take of the disk, such as 200GB or 1.5TiB, in [1MiB, 1048576TiB]; auto: "
        "what it has, a twentieth and at most 1GiB excepted. A generation that would not fit is refused",
    )
    add(
        "--keep-for",
        default="7d",
        metavar="TIME",
        help="how long a generation that has ended and its frames are kept, such as 7d, 12h, 30m, 90s or forever",
    )
    add("--keep-count", type=int, default=1000, metavar="N", help="generations that have ended and are kept, at most")
    add("--device", choices=DEVICES, default="auto", help="what the ranks compute on")
    add("--dtype", choices=DTYPES, default="float32", help="what the ranks compute in")
    add("--deterministic", action="store_true", help="bit-identical frames on a GPU, at some cost in speed")
    add(
        "--no-spare",
        dest="spare",
        action="store_false",
        help="keep no second group of processes ready for when a rank is lost: 430 MB less memory, some seconds more "
        "until it is replaced",
    )
    add(
        "--rank-weights",
        default=None,
        metavar="W",
        help="what the lengths of the ranks' clips go by: a number for each, such as 2,1; measured, their speeds in "
        "earlier generations; even; or auto, even where all devices have the same name and measured otherwise "
        "(default: auto, with --deterministic even)",
    )
    add(
        "--memory-budget",
        default="auto",
        metavar="SIZE",
        help="memory that each rank may hold, such as 8GiB, 500MB or a number of bytes, in [64MiB, 16TiB]; auto: what "
        "its device has. A generation that would take more is refused",
    )
    add(
        "--skip-negligible-context",
        action="store_true",
        help="leave out, and do not send, the context that a phase damps by a phase bias of 8 or more: less work, and "
        "a frame left out weighs at most e^-bias of a favoured one with an equal score (default: off, exact)",
    )
    add("--max-waiting", type=int, default=64, metavar="N", help="generations that may wait")
    add(
        "--max-waiting-per-client",
        type=int,
        default=0,
        metavar="N",
        help="of these, how many may be of one client that is known by name; 0: all",
    )
    add(
        "--max-creates-per-minute",
        type=int,
        default=600,
        metavar="N",
        help="generations a client may create in a minute, counted by its name or else by its host; 0: no limit",
    )
    add("--insecure", action="store_true", help="allow an address that other machines can reach, without encryption")
    add("--tls-cert", type=Path, default=None, metavar="FILE", help="PEM certificate (chain): encrypt; read on change")
    add("--tls-key", type=Path, default=None, metavar="FILE", help="PEM private key of --tls-cert; read on change")
    add(
        "--tls-client-ca",
        type=Path,
        default=None,
        metavar="FILE",
        help="PEM authorities of clients: only those with a certificate of theirs may connect; read on change",
    )
    add(
        "--tokens",
        type=Path,
        default=None,
        metavar="FILE",
        help="a line a client: NAME SHA256 [EXPIRY], as vinf token prints it; clients then need a token, and each sees "
        "its own generations only; read on change",
    )
    add("--ready-file", type=Path, default=None, metavar="PATH", help="file to write once ready: addresses and pid")
    add(
        "--otlp-endpoint",
        default=None,
        metavar="URL",
        help="collector that takes spans, OTLP over gRPC, such as http://127.0.0.1:4317 (default: what "
        "OTEL_EXPORTER_OTLP_ENDPOINT says, else none)",
    )
    add("--log-format", choices=LOG_FORMATS, default="text", help="how server and ranks log: lines of text, or of JSON")
    add("--beat-timeout", type=float, default=4.0, metavar="S", help="silence after which a rank is taken for hung")
    add(
        "--hang-timeout",
        type=float,
        default=5.0,
        metavar="S",
        help="time without progress after which work is taken for hung; ten usual steps where that is longer",
    )
    add(
        "--grace",
        type=float,
        default=30.0,
        metavar="S",
        help="longest that a stop may take; the running generation ends meanwhile, or saves a checkpoint",
    )
    add(
        "--drain-delay",
        type=float,
        default=0.0,
        metavar="S",
        help="how long a stopping server takes new work while its readiness is red already, for load balancers to see",
    )
    add("--max-losses", type=int, default=5, help=argparse.SUPPRESS)
    add("--rank-module", default="vinf_server.rank", help=argparse.SUPPRESS)
    add("--agent-module", default="vinf_server.agent_shim", help=argparse.SUPPRESS)
    add_serve_flags(parser)
    return parser


def default_ranks(gpus: int) -> int:
    """One rank a CUDA device, two where there is none."""
    return gpus or _DEFAULT_CPU_RANKS


def otlp_endpoint(environment: Mapping[str, str]) -> str | None:
    """Whether OpenTelemetry's own variables ask for spans: empty if they do, which leaves them to its library."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return "" if any(environment.get(name) for name in names) else None


def parse_config(argv: list[str] | None) -> ServeConfig:
    """Read the arguments, look at the machine, and check both together."""
    arguments = build_parser().parse_args(argv)
    gpus = 0 if arguments.device == "cpu" else count_visible_gpus(os.environ)
    # Measured speeds differ from run to run, and so would the last bits of a video.
    weights = arguments.rank_weights or ("even" if arguments.deterministic else "auto")
    return ServeConfig(
        model=arguments.model,
        model_base=arguments.model_base,
        model_revision=arguments.revision,
        model_options=read_model_options(arguments.model_option),
        offline=arguments.offline,
        ranks=arguments.ranks if arguments.ranks is not None else default_ranks(gpus),
        listen=Address.parse(arguments.listen, flag="--listen"),
        metrics=None if arguments.metrics == "off" else Address.parse(arguments.metrics, flag="--metrics"),
        web=None if arguments.web == "off" else Address.parse(arguments.web, flag="--web"),
        web_names=tuple(name for name in arguments.web_names.split(",") if name),
        data_dir=arguments.data_dir,
        disk_budget=parse_size(arguments.disk_budget, flag="--disk-budget"),
        keep_for_s=parse_duration(arguments.keep_for, flag="--keep-for"),
        keep_count=arguments.keep_count,
        device=arguments.device,
        dtype=arguments.dtype,
        deterministic=arguments.deterministic,
        rank_weights=RankWeights.parse(weights, flag="--rank-weights"),
        mesh=RankMesh(arguments.cfg_ranks, arguments.context_ranks),
        memory_budget=parse_size(arguments.memory_budget, flag="--memory-budget"),
        skip_negligible=arguments.skip_negligible_context,
        max_waiting=arguments.max_waiting,
        max_waiting_per_client=arguments.max_waiting_per_client,
        max_creates_per_minute=arguments.max_creates_per_minute,
        insecure=arguments.insecure,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca,
        tokens=arguments.tokens,
        ready_file=arguments.ready_file,
        spare=arguments.spare,
        visible_gpus=gpus,
        otlp_endpoint=arguments.otlp_endpoint or otlp_endpoint(os.environ),
        log_format=arguments.log_format,
        beat_timeout_s=arguments.beat_timeout,
        hang_timeout_s=arguments.hang_timeout,
        grace_s=arguments.grace,
        drain_delay_s=arguments.drain_delay,
        max_losses=arguments.max_losses,
        hosts=read_serve_flags(arguments),
        rank_module=arguments.rank_module,
        agent_module=arguments.agent_module,
    )


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    try:
        config = parse_config(argv)
        check_model(config)
    except ConfigError as error:
        return _fail(str(error), EXIT_USAGE)
    configure_logs(config.log_format)
    os.umask(0o077)  # prompts and frames are for nobody else on this machine, whatever folder they are put into
    try:
        return asyncio.run(_serve(config))
    except KeyboardInterrupt:
        return 130


async def _serve(config: ServeConfig) -> int:
    # Imported late, so that --help and mistakes in the arguments are answered at once.
    from vinf_server.front.app import Front
    from vinf_server.front.data_dir import DataDirError
    from vinf_server.front.engine.supervisor import GroupConfigurationError, GroupFailedError
    from vinf_server.front.generations.store import StoreError
    from vinf_server.front.rpc.server import AddressInUseError

    try:
        await Front(config).run()
    except (ConfigError, GroupConfigurationError) as error:
        return _fail(str(error), EXIT_USAGE, config)
    except (DataDirError, StoreError) as error:
        return _fail(f"--data-dir: {error}", EXIT_FAILED, config)
    except (AddressInUseError, GroupFailedError) as error:
        return _fail(str(error), EXIT_FAILED, config)
    return 0


def _fail(message: str, code: int, config: ServeConfig | None = None) -> int:
    if config is not None and config.log_format == "json":
        _log.critical("%s", message)
    else:
        print(f"vinf serve: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
