"""`vinf eval`: judge videos by what can be seen in them."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vinf_client._errors import InvalidRequestError, OutputError, WrongStateError
from vinf_client._types import Generation
from vinf_client.cli.common import Parser, client_of, run
from vinf_client.cli.eval_table import as_dict, tables
from vinf_client.evaluation.arrays import Frame
from vinf_client.evaluation.assessment import Assessment, assess, pool
from vinf_client.evaluation.observation import observe
from vinf_client.evaluation.plot import MOST, check_matplotlib, draw
from vinf_client.evaluation.reading import ALLOWED, read_video, starts_of
from vinf_client.evaluation.seams import WINDOW
from vinf_client.evaluation.vbench import vbench_scores
from vinf_client.output import prepare_folder

_EXAMPLES = """
vinf eval ball.mp4 --clip-frames 48
vinf eval ID --plot ball.png
vinf eval frames/ --boundaries 24,48 --cuts 72 --json found.json
vinf eval data/*.mp4 --clip-frames 24 --json - | jq .pooled.seams
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "eval",
        "Judge videos by what can be seen in them: seams where clips meet, drift, flicker, motion, repetition. No "
        "trained model is needed for it. Of a generation the clip boundaries are known; of a file they are found in "
        "what vinf batch writes beside it, or told here. Several videos are judged one by one and together.",
        examples=_EXAMPLES,
    )
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", help=f"{ALLOWED}; or the id of a generation of the server")
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--clip-frames", type=int, metavar="N", help="a clip begins every N frames")
    clips.add_argument("--boundaries", type=_frames, metavar="K[,K...]", help="first frames of the clips but the first")
    add("--cuts", type=_frames, metavar="K[,K...]", help="first frames of scenes: what changes there is no seam")
    add(
        "--window",
        type=int,
        default=WINDOW,
        metavar="N",
        help="steps to each side that a boundary is compared with (default: %(default)s)",
    )
    add("--plot", metavar="FILE.png", help="draw the steps from frame to frame, the clips and the drift")
    add("--vbench", action="store_true", help="also the scores of the VBench package, where it is installed")
    add("--json", metavar="FILE", help="write everything as JSON; - is standard output, and leaves out the table")
    parser.add_server_option()
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    for option, value in (("--clip-frames", arguments.clip_frames), ("--window", arguments.window)):
        if value is not None and value < 1:
            parser.error(f"{option}: {value} is not allowed; allowed: at least 1")
    if arguments.plot is not None and Path(arguments.plot).suffix.lower() != ".png":
        parser.error(f"--plot: {arguments.plot!r} is not allowed; allowed: a name that ends in .png")
    return run(parser.prog, lambda: _evaluate(arguments))


@dataclass(frozen=True)
class _Source:
    """A video, wherever it comes from."""

    name: str
    frames: Iterator[Frame]
    boundaries: Sequence[int]
    cuts: Sequence[int]


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.plot is not None:
        check_matplotlib()
        prepare_folder(Path(arguments.plot))
    if arguments.json not in (None, "-"):
        prepare_folder(Path(arguments.json))
    scores = vbench_scores([_file(name) for name in arguments.videos]) if arguments.vbench else []
    found = [_judge(source, arguments) for source in _sources(arguments)]
    together = pool(found) if len(found) > 1 else None
    told: dict[str, Any] = {
        "videos": [as_dict(video) | {"name": name} for name, video in zip(arguments.videos, found, strict=True)],
        "pooled": None if together is None else as_dict(together),
    }
    for entry, score in zip(told["videos"], scores, strict=False):
        entry["vbench"] = score
    if arguments.json is not None:
        _write_json(arguments.json, told)
    if arguments.plot is not None:
        draw(Path(arguments.plot), arguments.videos, found)
        if len(found) > MOST:
            print(f"vinf: {arguments.plot}: it shows the first {MOST} of {len(found)} videos", file=sys.stderr)
    if arguments.json != "-":
        for table in tables(arguments.videos, found, together, scores):
            print(table)


def _judge(source: _Source, arguments: argparse.Namespace) -> Assessment:
    try:
        seen = observe(source.frames)
        boundaries = source.boundaries
        if arguments.boundaries is not None:
            boundaries = arguments.boundaries
        elif arguments.clip_frames is not None:
            boundaries = range(arguments.clip_frames, seen.frame_count, arguments.clip_frames)
        cuts = source.cuts if arguments.cuts is None else arguments.cuts
        return assess(seen, boundaries=boundaries, cuts=cuts, window=arguments.window)
    except ValueError as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(f"{source.name}: {error}") from error


def _sources(arguments: argparse.Namespace) -> Iterator[_Source]:
    for name in arguments.videos:
        if _is_file(name):
            video = read_video(name)
            yield _Source(name, video.frames(), video.boundaries, video.cuts)
        else:
            yield from _generation(name, arguments)


def _is_file(name: str) -> bool:
    """Whether a name can only be that of a file; the id of a generation has no endings and no slashes."""
    return Path(name).exists() or "/" in name or "." in name or not name


def _file(name: str) -> Path:
    if not _is_file(name):
        raise InvalidRequestError(f"--vbench: {name}: VBench reads files; vinf download writes one")
    return Path(name)


def _generation(name: str, arguments: argparse.Namespace) -> Iterator[_Source]:
    with client_of(arguments) as client:
        handle = client.attach(name)
        generation = handle.generation
        _check_complete(generation)
        segments = generation.spec.prompt_segments
        yield _Source(
            name,
            (np.asarray(frame) for frame in handle.frames()),
            starts_of([(clip.start_frame_index, clip.frame_count) for clip in generation.clips]),
            [segment.start_frame for segment in segments if segment.cut],
        )


def _check_complete(generation: Generation) -> None:
    there = generation.next_frame_index - generation.first_available_frame_index
    wanted = generation.spec.frame_count
    if there < wanted:
        raise WrongStateError(
            f"{generation.generation_id}: {there} of its {wanted} frames are there; only a whole video can be judged"
        )


def _write_json(name: str, told: dict[str, Any]) -> None:
    line = json.dumps(told, ensure_ascii=False, allow_nan=False)
    if name == "-":
        print(line, flush=True)
        return
    try:
        Path(name).write_text(line + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or error}") from error
    print(f"vinf: {name}: what was found, as JSON", file=sys.stderr)


def _frames(text: str) -> list[int]:
    try:
        frames = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not frame numbers separated by commas") from None
    if frames != sorted(set(frames)):
        raise argparse.ArgumentTypeError(f"{text!r} does not ascend")
    return frames
