"""`vinf bench`: measures the engine and the delivery; every figure comes with what it is to be compared with."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from benchmarks.settings import (
    DEVICES,
    DTYPES,
    EMBEDDED,
    QUALITY_MODES,
    RANDOM,
    TOY,
    AnySettings,
    CapacitySettings,
    ClientsSettings,
    DeliverySettings,
    FullSizeSettings,
    MetricsSettings,
    QualitySettings,
    Settings,
    SettingsError,
)
from benchmarks.settings import FULL_SIZE as FULL_SIZE_MODELS

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """One measurement and its defaults."""

    help: str
    frames: tuple[int, ...]
    ranks: int = 1
    repeats: int = 5


COMMANDS = {
    "engine": Command("one rank beside stock diffusers and the published scheme's costs", (16, 96)),
    "scale": Command("two ranks beside one, and what share of a step is communication", (96,), ranks=2),
    "memory": Command("peak memory at several lengths, and what one more frame costs", (48, 96, 192), repeats=1),
    "communication": Command(
        "what a rank receives in a step, from shapes and from counters", (192, 768, 2304), ranks=8
    ),
    "decode": Command("decoding in slices beside decoding everything at once", (48,)),
}
"""Modules of this package with a function ``run(settings, device)``, by the name users give."""

DELIVERY = "delivery"
DELIVERY_HELP = "how long a health check takes while others read frames, beside how long it takes alone"

CLIENTS = "clients"
CLIENTS_HELP = "how old frames are that a slow reader sees, and how fast the SDKs are beside bare gRPC"

METRICS = "metrics"
METRICS_HELP = "what the metrics cost a denoising step, and a frame that is delivered"

CAPACITY = "capacity"
CAPACITY_HELP = "how long a video the memory of a GPU allows, counted without one"

FULL_SIZE = "full-size"
FULL_SIZE_HELP = "a published model with random weights through a real server: first frame, wall time, peak memory"

QUALITY = "quality"
QUALITY_HELP = "ways to make a long video beside each other, by seams, drift and motion; from a source tree only"

MODULES: dict[type, str] = {
    DeliverySettings: f"serving.{DELIVERY}",
    ClientsSettings: f"serving.{CLIENTS}",
    MetricsSettings: f"serving.{METRICS}",
    FullSizeSettings: "serving.full_size",
    CapacitySettings: CAPACITY,
    QualitySettings: "quality.work",
}
"""Modules with a function ``run(settings)``, by their settings."""

EXAMPLES = """examples:
  vinf bench engine
  vinf bench engine --random-weights mid --frames 16,32 --repeats 3
  vinf bench scale --ranks 2 --frames 96 --json
  vinf bench communication --random-weights videocrafter2 --ranks 8 --frames 192,768,2304 --dtype float16
  vinf bench delivery --readers 4 --seconds 10
  vinf bench metrics --frames 96 --ranks 2
  vinf bench clients --cpp build/vinf_pull_bench
  vinf bench capacity --ranks 1,8 --gigabytes 24
  vinf bench full-size --model videocrafter2 --frames 96
  vinf bench quality --folder /tmp/quality --frames 64 --prompts 8 --steps 8
  vinf bench memory --random-weights videocrafter2 --device cuda --dtype bfloat16 --frames 24,48,96

exit codes: 0 measured · 1 a measurement failed · 2 a mistake in the arguments · 130 interrupted"""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message.removeprefix('argument ')}\n")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except where there is none to show, and leaves the examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False) else action.help


def build_parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    parser = _Parser(
        prog="vinf bench",
        description="Measure the engine on this machine. Times are taken in turns, and ratios within each turn.",
        epilog=EXAMPLES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.help, description=command.help, formatter_class=_Formatter, allow_abbrev=False
        )
        add = sub.add_argument
        model = sub.add_mutually_exclusive_group()
        model.add_argument("--model", choices=EMBEDDED, default=EMBEDDED[0], help="a model with its weights")
        model.add_argument("--random-weights", choices=RANDOM, help="an architecture with random weights instead")
        frames = ",".join(map(str, command.frames))
        add("--frames", type=_lengths, default=frames, metavar="N[,N...]", help="lengths of the video to measure")
        add("--width", type=int, metavar="PIXELS", help="of the pictures (default: the model's)")
        add("--height", type=int, metavar="PIXELS", help="of the pictures (default: the model's)")
        add("--dtype", choices=DTYPES, default="float32", help="what the model computes in")
        add("--device", choices=DEVICES, default="auto", help="what it computes on")
        add("--threads", type=int, default=1, metavar="N", help="threads of a rank on a CPU")
        add("--texts", type=int, default=2, metavar="N", help="texts a step is computed for: 2 guided, 1 not")
        add("--json", action="store_true", help="print one line of JSON instead of tables")
        if name in ("scale", "communication"):
            add("--ranks", type=int, default=command.ranks, metavar="N", help="processes in the group")
        if name in ("engine", "scale", "decode"):
            add("--repeats", type=int, default=command.repeats, metavar="N", help="turns that count")
        if name == "engine":
            add("--options", action="store_true", help="also measure the engine with each of its options off")
    _add_delivery(
        commands.add_parser(
            DELIVERY, help=DELIVERY_HELP, description=DELIVERY_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    _add_clients(
        commands.add_parser(
            CLIENTS, help=CLIENTS_HELP, description=CLIENTS_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    _add_metrics(
        commands.add_parser(
            METRICS, help=METRICS_HELP, description=METRICS_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    _add_capacity(
        commands.add_parser(
            CAPACITY, help=CAPACITY_HELP, description=CAPACITY_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    _add_full_size(
        commands.add_parser(
            FULL_SIZE, help=FULL_SIZE_HELP, description=FULL_SIZE_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    _add_quality(
        commands.add_parser(
            QUALITY, help=QUALITY_HELP, description=QUALITY_HELP, formatter_class=_Formatter, allow_abbrev=False
        )
    )
    return parser


def _add_capacity(parser: argparse.ArgumentParser) -> None:
    defaults, add = CapacitySettings(), parser.add_argument
    for flag, kind, what in (
        ("models", _names, "published models, at their native size"),
        ("ranks", _lengths, "numbers of GPUs"),
        ("gigabytes", _lengths, "memory of each GPU, in 10^9 bytes"),
    ):
        default = ",".join(map(str, getattr(defaults, flag)))
        add(f"--{flag}", type=kind, default=default, metavar="N[,N...]", help=what)
    add("--dtype", choices=DTYPES, default=defaults.dtype, help="what the model computes in")
    add("--json", action="store_true", help="print one line of JSON instead of tables")


def _add_full_size(parser: argparse.ArgumentParser) -> None:
    defaults, add = FullSizeSettings(), parser.add_argument
    add("--model", choices=(*FULL_SIZE_MODELS, TOY), default=defaults.model, help="whose parts get random weights")
    add("--frames", type=int, default=defaults.frames, metavar="N", help="of the video")
    add("--steps", type=int, default=defaults.steps, metavar="N", help="of denoising (default: the model's)")
    add("--ranks", type=int, default=defaults.ranks, metavar="N", help="processes, one a GPU")
    add("--dtype", choices=DTYPES, default=defaults.dtype, help="what the model computes in")
    add("--device", choices=("cpu", "cuda"), default=defaults.device, help="what it computes on")
    add("--seed", type=int, default=defaults.seed, metavar="N", help="of the video")
    add("--no-stock", action="store_false", dest="stock", help="leave out the clip that stock diffusers makes")


def _add_quality(parser: argparse.ArgumentParser) -> None:
    modes, frames = ",".join(QUALITY_MODES), ",".join(map(str, QualitySettings(folder="").frames))
    defaults, add = QualitySettings(folder=""), parser.add_argument
    add("--folder", required=True, metavar="DIR", help="videos and figures are kept there; called again, it goes on")
    add("--modes", type=_names, default=modes, metavar="MODE[,MODE...]", help="what is compared")
    add("--frames", type=_lengths, default=frames, metavar="N[,N...]", help="lengths of the videos")
    add("--prompts", type=int, default=defaults.prompts, metavar="N", help="held-out prompts, each with its own seed")
    add("--steps", type=int, default=defaults.steps, metavar="N", help="denoising steps")
    add("--time-limit", type=float, default=0.0, metavar="S", help="begin no further video after so many seconds")
    add("--report-only", action="store_true", help="make no videos, put together those that are there")
    add("--sheet", default="", metavar="FILE", help="draw one prompt in every mode, a .png or .webp file")
    add("--json", action="store_true", help="print one line of JSON instead of tables")


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    defaults, add = MetricsSettings(), parser.add_argument
    for flag, what in (
        ("frames", "of the video whose steps are counted"),
        ("ranks", "processes in the group"),
        ("steps", "that are counted, after a first one"),
        ("repeats", "batches of calls that are timed"),
    ):
        add(f"--{flag}", type=int, default=getattr(defaults, flag), metavar="N", help=what)
    add("--device", choices=("cpu", "cuda"), default=defaults.device, help="what the ranks compute on")
    add("--json", action="store_true", help="print one line of JSON instead of tables")


def _add_clients(parser: argparse.ArgumentParser) -> None:
    defaults, add = ClientsSettings(), parser.add_argument
    add("--frames", type=int, default=defaults.frames, metavar="N", help="of the videos that are read at full speed")
    add("--repeats", type=int, default=defaults.repeats, metavar="N", help="turns that count")
    add(
        "--seconds",
        type=float,
        default=defaults.seconds,
        metavar="S",
        help="of the video that is read while it is made",
    )
    add("--cpp", default="", metavar="PROGRAM", help="vinf_pull_bench of the C++ SDK (default: C++ is not measured)")
    add("--json", action="store_true", help="print one line of JSON instead of tables")


def _add_delivery(parser: argparse.ArgumentParser) -> None:
    defaults, add = DeliverySettings(), parser.add_argument
    for flag, what in (
        ("frames", "of the video of large frames"),
        ("width", "pixels of a large frame"),
        ("height", "pixels of a large frame"),
        ("readers", "of large frames, as fast as they can"),
        ("small-readers", "of small frames, 24 a second each"),
        ("watchers", "of a generation that does not change"),
        ("creators", "clients that ask for five generations a second each"),
        ("repeats", "turns that count"),
    ):
        add(f"--{flag}", type=int, default=getattr(defaults, flag.replace("-", "_")), metavar="N", help=what)
    add("--seconds", type=float, default=defaults.seconds, metavar="S", help="of each load in a turn")
    add("--json", action="store_true", help="print one line of JSON instead of tables")


def parse_settings(argv: list[str]) -> tuple[str, AnySettings, bool]:
    """Read the arguments: the command, its settings, and whether the answer is JSON.

    Raises:
        SettingsError: a value outside its range.
    """
    arguments = vars(build_parser().parse_args(argv))
    command, wants_json = arguments.pop("command"), arguments.pop("json")
    if command == DELIVERY:
        return command, DeliverySettings(**arguments), wants_json
    if command == CLIENTS:
        return command, ClientsSettings(**arguments), wants_json
    if command == METRICS:
        return command, MetricsSettings(**arguments), wants_json
    if command == CAPACITY:
        return command, CapacitySettings(**arguments), wants_json
    if command == FULL_SIZE:
        return command, FullSizeSettings(**arguments), wants_json
    if command == QUALITY:
        return command, QualitySettings(**arguments), wants_json
    random_weights = arguments.pop("random_weights")
    if random_weights:
        arguments["model"] = random_weights
    if command == "scale" and arguments["ranks"] < 2:
        raise SettingsError(f"--ranks: {arguments['ranks']} is less than 2, there is nothing to compare")
    return command, Settings(**arguments), wants_json


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        command, settings, wants_json = parse_settings(arguments)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    # Before torch is imported: spinning OpenMP threads of several ranks slow each other down on few cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Explicitly: a shell that starts us in the background has SIGINT ignored, and Python would leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _measure(command, settings, arguments if wants_json else None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _measure(command: str, settings: AnySettings, json_for: list[str] | None) -> int:
    """Run a command and print what it found: tables, or JSON that repeats the arguments ``json_for``."""
    # Imported late, so that --help and mistakes in the arguments are answered at once.
    import torch

    # Else the collector walks all that was imported once more at the end, which takes two seconds.
    atexit.register(gc.freeze)
    from benchmarks.report import as_json, describe, machine
    from benchmarks.worlds import RankFailedError, prepare_device
    from vinf_core.errors import VinfCoreError

    try:
        if not isinstance(settings, Settings):
            device = torch.device(getattr(settings, "device", "cpu"))
            reports = import_module(f"benchmarks.{MODULES[type(settings)]}").run(settings)
        else:
            device = prepare_device(settings)
            reports = import_module(f"benchmarks.{command}").run(settings, device)
    except (SettingsError, VinfCoreError) as error:
        return _fail(str(error), EXIT_USAGE)
    except torch.OutOfMemoryError as error:
        return _fail(f"out of GPU memory, try fewer --frames: {str(error).partition('.')[0]}", EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name not in ("training", "training.sprites"):
            raise
        return _fail("quality needs the world that the model was trained on: run it in a source tree", EXIT_USAGE)
    except RankFailedError as error:
        return _fail(str(error), EXIT_FAILED)
    if json_for is not None:
        print(as_json(json_for, settings, device, reports))
    else:
        print(describe(machine(device), settings), *(report.table() for report in reports), sep="\n\n")
    return 0


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _fail(message: str, code: int) -> int:
    print(f"vinf bench: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
