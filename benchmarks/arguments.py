"""The arguments of `vinf bench`: one parser for all commands, and the settings it makes of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from benchmarks.settings import (
    DATA_PATH_FEATURES,
    DEVICES,
    DTYPES,
    EMBEDDED,
    FULL_SIZE_3D,
    QUALITY_MODES,
    RANDOM,
    TOY,
    TOYS_3D,
    AnySettings,
    CapacitySettings,
    ClientsSettings,
    DeliverySettings,
    FullSizeSettings,
    MemorySettings,
    MetricsSettings,
    QualitySettings,
    Settings,
    SettingsError,
)
from benchmarks.settings import FULL_SIZE as FULL_SIZE_MODELS

EXIT_USAGE = 2


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
    "step-memory": Command("peak memory at several lengths, and what one more frame costs", (48, 96, 192), repeats=1),
    "communication": Command(
        "what a rank receives in a step, from shapes and from counters", (192, 768, 2304), ranks=8
    ),
    "decode": Command("decoding in slices beside decoding everything at once", (48,)),
}
"""Modules of this package with a function ``run(settings, device)``, by the name users give."""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message.removeprefix('argument ')}\n")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except where there is none to show, and leaves the examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, True) else action.help


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


def _add_full_size(parser: argparse.ArgumentParser) -> None:
    defaults, add = FullSizeSettings(), parser.add_argument
    add(
        "--model",
        choices=(*FULL_SIZE_MODELS, *FULL_SIZE_3D, TOY, *TOYS_3D),
        default=defaults.model,
        help="whose parts get random weights",
    )
    add("--frames", type=int, default=defaults.frames, metavar="N", help="of the video; 0: 96, or the trained length")
    add("--steps", type=int, default=defaults.steps, metavar="N", help="of denoising (default: the model's)")
    add("--weights", default=defaults.weights, metavar="KIND", help="stored, or fp8: with 3-D attention")
    add("--offload", default=defaults.offload, metavar="KIND", help="none, or blocks: with 3-D attention")
    add("--ranks", type=int, default=defaults.ranks, metavar="N", help="processes, one a GPU")
    add("--dtype", choices=DTYPES, default=defaults.dtype, help="what the model computes in")
    add("--device", choices=("cpu", "cuda"), default=defaults.device, help="what it computes on")
    add("--seed", type=int, default=defaults.seed, metavar="N", help="of the video")
    add("--no-stock", action="store_false", dest="stock", help="leave out the clip that stock diffusers makes")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    defaults, add = MemorySettings(), parser.add_argument
    features = ",".join(DATA_PATH_FEATURES)
    add("--features", type=_names, default=features, metavar="NAME[,NAME...]", help="what is switched, one at a time")
    add("--frames", type=int, default=defaults.frames, metavar="N", help="of the video")
    add("--size", default=defaults.size, metavar="WxH", help="pixels of a frame")
    add("--dtype", choices=DTYPES, default=defaults.dtype, help="what the VAE computes in")
    add("--device", choices=DEVICES, default=defaults.device, help="what it computes on")
    add("--threads", type=int, default=defaults.threads, metavar="N", help="on a CPU")
    add("--repeats", type=int, default=defaults.repeats, metavar="N", help="turns that count")


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


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers separated by commas") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True, slots=True)
class OwnCommand:
    """One measurement with settings of its own."""

    settings: Callable[..., AnySettings]
    module: str
    """With a function ``run(settings)``, below this package."""
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


OWN_COMMANDS = {
    "delivery": OwnCommand(
        DeliverySettings,
        "serving.delivery",
        "how long a health check takes while others read frames, beside how long it takes alone",
        _add_delivery,
    ),
    "clients": OwnCommand(
        ClientsSettings,
        "serving.clients",
        "how old frames are that a slow reader sees, and how fast the SDKs are beside bare gRPC",
        _add_clients,
    ),
    "metrics": OwnCommand(
        MetricsSettings,
        "serving.metrics",
        "what the metrics cost a denoising step, and a frame that is delivered",
        _add_metrics,
    ),
    "capacity": OwnCommand(
        CapacitySettings, "capacity", "how long a video the memory of a GPU allows, counted without one", _add_capacity
    ),
    "memory": OwnCommand(
        MemorySettings,
        "serving.memory",
        "the way from latents to frames on their way to the front, with each of its features on and off",
        _add_memory,
    ),
    "full-size": OwnCommand(
        FullSizeSettings,
        "serving.full_size",
        "a published model with random weights through a real server: first frame, wall time, peak memory",
        _add_full_size,
    ),
    "quality": OwnCommand(
        QualitySettings,
        "quality.work",
        "ways to make a long video beside each other, by seams, drift and motion; from a source tree only",
        _add_quality,
    ),
}


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
  vinf bench full-size --model skyreels-v1-t2v --weights fp8
  vinf bench quality --folder /tmp/quality --frames 64 --prompts 8 --steps 8
  vinf bench memory --frames 49 --size 1024x1024
  vinf bench step-memory --random-weights videocrafter2 --device cuda --dtype bfloat16 --frames 24,48,96

exit codes: 0 measured · 1 a measurement failed · 2 a mistake in the arguments · 130 interrupted"""


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
        if name in ("scale", "communication"):
            add("--ranks", type=int, default=command.ranks, metavar="N", help="processes in the group")
        if name in ("engine", "scale", "decode"):
            add("--repeats", type=int, default=command.repeats, metavar="N", help="turns that count")
        if name == "engine":
            add("--options", action="store_true", help="also measure the engine with each of its options off")
    for name, own in OWN_COMMANDS.items():
        own.add_arguments(
            commands.add_parser(
                name, help=own.help, description=own.help, formatter_class=_Formatter, allow_abbrev=False
            )
        )
    for sub in commands.choices.values():
        sub.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")
    return parser


def parse_settings(argv: list[str]) -> tuple[str, AnySettings, bool]:
    """Read the arguments: the command, its settings, and whether the answer is JSON.

    Raises:
        SettingsError: a value outside its range.
    """
    arguments = vars(build_parser().parse_args(argv))
    command, wants_json = arguments.pop("command"), arguments.pop("json")
    if command in OWN_COMMANDS:
        return command, OWN_COMMANDS[command].settings(**arguments), wants_json
    random_weights = arguments.pop("random_weights")
    if random_weights:
        arguments["model"] = random_weights
    if command == "scale" and arguments["ranks"] < 2:
        raise SettingsError(f"--ranks: {arguments['ranks']} is less than 2, there is nothing to compare")
    return command, Settings(**arguments), wants_json
