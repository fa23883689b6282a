"""Options of `vinf generate`, and how they become arguments of the client."""

import argparse
from pathlib import Path
from typing import TypedDict

from vinf_client._images import FIRST_FRAME, LAST_FRAME, ImageCondition
from vinf_client._request import SpecOptions
from vinf_client.cli.common import Parser
from vinf_client.cli.previews import add_preview_option
from vinf_client.cli.story import read_story
from vinf_client.cli.values import duration, label
from vinf_client.output import ALLOWED

_LOCAL_ONLY = ("ranks", "device", "dtype", "model_base", "model_option")
_NOT_DETACHED = ("output", "sheet", "local")
_REMOTE_ONLY = ("server", "token_file", "tls", "tls_ca", "tls_cert", "tls_key", "insecure")

DEFAULT_PREVIEW_EVERY = 5

_EXAMPLES = """
vinf generate "a red ball bouncing over the sea" --frames 96 --seed 7 -o ball.mp4
vinf generate "a yellow star circling over the city" --local --ranks 2 -o star.gif
vinf generate --story story.json -o story.mp4 --sheet story.png
vinf generate "a red ball bouncing over the sea" --detach --priority 7 --label for=me
"""


def build_parser() -> Parser:
    """Describe the command line. What is left out is the server's default (vinf info shows it)."""
    parser = Parser("generate", "Make a video from a prompt and write it to a file.", examples=_EXAMPLES)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what the video shows")
    parser.add_argument(
        "--story",
        metavar="FILE.json",
        help="instead of PROMPT: a file with prompt, negative_prompt and segments (start_frame, prompt, "
        "transition_frames, cut)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help=f"where it goes: {ALLOWED}; needed without --detach")
    parser.add_argument(
        "--detach",
        action="store_true",
        help="print the id of the generation and return; vinf download ID --wait brings the video",
    )

    add_video_options(
        parser,
        "the video; unset is the model's default, which vinf info shows",
        model_help="model to use (with --local: model to serve)",
    )
    queue = parser.add_argument_group("its place in the queue")
    queue.add_argument("--priority", type=int, metavar="P", help="from 0 to 9, higher ones run first (default: 5)")
    queue.add_argument(
        "--deadline",
        type=duration,
        metavar="DURATION",
        help="it fails when it has not ended by then, such as 90s or 2h",
    )
    queue.add_argument(
        "--label", type=label, action="append", default=[], metavar="KEY=VALUE", help="shown again by vinf list"
    )
    queue.add_argument(
        "--request-id", metavar="UUID", help="the same id with the same options is the same generation: retry safely"
    )

    server = parser.add_argument_group("where it is made")
    parser.add_server_option(server)
    server.add_argument("--local", action="store_true", help="start a server for this call and stop it afterwards")
    server.add_argument("--ranks", type=int, metavar="N", help="with --local: ranks to start")
    server.add_argument("--device", metavar="NAME", help="with --local: device of the ranks, for example cpu")
    server.add_argument("--dtype", metavar="NAME", help="with --local: what the ranks compute in, for example bfloat16")
    server.add_argument("--model-base", metavar="BASE", help="with --local: where the model's other parts are")
    server.add_argument(
        "--model-option", action="append", metavar="NAME=VALUE", help="with --local: an option of the model's own"
    )
    server.add_argument(
        "--wait-ready",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for ranks that start or a queue that is full (default: %(default)g)",
    )

    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--sheet", metavar="PATH.png", help="also write a contact sheet with the ranks' clips marked")
    parser.add_json_option("print one line of JSON with the figures at the end (with --detach: the generation)")
    add_preview_option(shown)
    shown.add_argument(
        "--preview-every",
        type=int,
        metavar="N",
        help="while denoising, show an estimate every N steps; 0: only frames that are made (default: "
        f"{DEFAULT_PREVIEW_EVERY} where pictures are shown)",
    )
    shown.add_argument("--quiet", action="store_true", help="no progress and no summary")
    return parser


def add_video_options(parser: Parser, title: str, *, model_help: str = "model to use") -> None:
    """Add the options that `spec_options` picks."""
    video = parser.add_argument_group(title)
    video.add_argument("--frames", type=int, metavar="N", help="number of frames")
    video.add_argument("--seed", type=int, metavar="S", help="same seed, same video; 0 or unset: the server picks one")
    video.add_argument("--negative-prompt", metavar="TEXT", help="what the video must not show")
    video.add_argument("--image", metavar="FILE", help="PNG or JPEG that the first frame shall look like")
    video.add_argument("--end-image", metavar="FILE", help="PNG or JPEG that the last frame shall look like")
    video.add_argument("--width", type=int, metavar="PIXELS")
    video.add_argument("--height", type=int, metavar="PIXELS")
    video.add_argument("--fps", metavar="RATE", help="frames per second it is played at, such as 24 or 24000/1001")
    video.add_argument("--model", metavar="NAME", help=model_help)
    video.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    video.add_argument("--guidance", type=float, metavar="X", help="how strongly the prompt steers; 1 switches it off")
    video.add_argument("--solver", metavar="NAME", help="ddim, dpm++ or flow-euler, as `vinf info` lists them")

    scope = parser.add_argument_group("temporal scope; any of these leaves the others at the model's own numbers")
    scope.add_argument("--window", type=int, metavar="FRAMES", help="neighbours that a frame sees, an even number")
    scope.add_argument("--global-frames", type=int, metavar="N", help="frames of the whole video that all frames see")
    scope.add_argument("--phase-timestep", type=int, metavar="T", help="above it global frames lead, below the window")
    scope.add_argument("--phase-bias", type=float, metavar="X", help="how much the leading ones are favoured; 0: not")
    scope.add_argument(
        "--global-across-cuts",
        action="store_true",
        default=None,
        help="sample the whole video also when the story cuts it into scenes",
    )
    scope.add_argument(
        "--global-choice",
        metavar="NAME",
        help="which frames those are: even (spaced), or key-frames (of each segment the one that says most)",
    )
    scope.add_argument(
        "--initial-noise",
        metavar="NAME",
        help="independent, or freenoise (later frames start from the noise of earlier ones: more alike, less motion)",
    )
    scope.add_argument(
        "--overlap",
        type=int,
        metavar="FRAMES",
        help="windows of the trained length that share so many frames, fused at each step, in place of the dual scope, "
        "whose options it excludes; the more frames, the more windows",
    )


def check_combination(parser: Parser, arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other; does not return then."""
    if arguments.prompt is not None and arguments.story is not None:
        parser.error("--story: cannot be combined with PROMPT; the file has the prompt")
    if arguments.prompt is None and arguments.story is None:
        parser.error("PROMPT: is missing; give it or --story FILE.json")
    if arguments.story is not None and arguments.negative_prompt is not None:
        parser.error("--story: cannot be combined with --negative-prompt; the file has the prompts")
    if arguments.output is None and not arguments.detach:
        parser.error("-o/--output: is missing; give it, or --detach and fetch the video later with vinf download ID")
    for name in _NOT_DETACHED:
        if arguments.detach and getattr(arguments, name):
            parser.error(f"--{name}: cannot be combined with --detach; vinf download ID fetches the video later")
    keys = [key for key, _ in arguments.label]
    for key in keys:
        if keys.count(key) > 1:
            parser.error(f"--label: {key} stands there twice")
    for name in _REMOTE_ONLY:
        if arguments.local and getattr(arguments, name):
            parser.error(f"--local: cannot be combined with --{name.replace('_', '-')}")
    for name in _LOCAL_ONLY:
        if not arguments.local and getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')}: needs --local; a running server has its own")
    if arguments.ranks is not None and arguments.ranks < 1:
        parser.error(f"--ranks: {arguments.ranks} is not allowed; allowed: at least 1")
    if arguments.preview_every is not None and not 0 <= arguments.preview_every <= 1000:
        parser.error(f"--preview-every: {arguments.preview_every} is not allowed; allowed: [0, 1000]")
    if not arguments.wait_ready >= 0:
        parser.error(f"--wait-ready: {arguments.wait_ready} is not allowed; allowed: at least 0")


def take_story(arguments: argparse.Namespace) -> None:
    """Read the story file, where there is one, into the arguments.

    Raises:
        InvalidRequestError: see `read_story`.
    """
    arguments.segments = None
    if arguments.story is not None:
        story = read_story(Path(arguments.story))
        arguments.prompt, arguments.negative_prompt = story.prompt, story.negative_prompt
        arguments.segments = story.segments


def spec_options(arguments: argparse.Namespace) -> SpecOptions:
    """Pick what describes the video, after `take_story`. A local server serves one model: it needs no name."""
    return SpecOptions(
        frames=arguments.frames,
        seed=arguments.seed,
        negative_prompt=arguments.negative_prompt,
        width=arguments.width,
        height=arguments.height,
        steps=arguments.steps,
        guidance=arguments.guidance,
        model=None if arguments.local else arguments.model,
        fps=arguments.fps,
        solver=arguments.solver,
        segments=arguments.segments,
        image_conditions=_image_conditions(arguments) or None,
        window=arguments.window,
        global_frames=arguments.global_frames,
        phase_timestep=arguments.phase_timestep,
        phase_bias=arguments.phase_bias,
        global_across_cuts=arguments.global_across_cuts,
        initial_noise=arguments.initial_noise,
        global_choice=arguments.global_choice,
        overlap=arguments.overlap,
    )


def image_names(arguments: argparse.Namespace) -> dict[str, str]:
    """What the command's user calls the places of `SpecOptions.image_conditions`."""
    options = [name for name, value in _images(arguments) if value is not None]
    names = {"image_conditions": " and ".join(options) or "--image"}
    for index, option in enumerate(options):
        for field in ("", ".image", ".frame_index"):
            names[f"image_conditions[{index}]{field}"] = option
    return names


def _images(arguments: argparse.Namespace) -> tuple[tuple[str, str | None], ...]:
    return (("--image", arguments.image), ("--end-image", arguments.end_image))


def _image_conditions(arguments: argparse.Namespace) -> list[ImageCondition]:
    frames = (FIRST_FRAME, LAST_FRAME)
    given = zip(frames, _images(arguments), strict=True)
    return [ImageCondition(frame, path) for frame, (_, path) in given if path is not None]


class JobOptions(TypedDict):
    """Keywords of `Client.generate` about its place in the queue."""

    detached: bool
    priority: int | None
    deadline: float | None  # seconds from now
    labels: dict[str, str] | None


def job_options(arguments: argparse.Namespace) -> JobOptions:
    """Pick what is not about the video."""
    return JobOptions(
        detached=arguments.detach,
        priority=arguments.priority,
        deadline=arguments.deadline,
        labels=dict(arguments.label) or None,
    )


def serve_arguments(arguments: argparse.Namespace) -> list[str]:
    """Pick what a local server is told."""
    told = [
        ("--ranks", arguments.ranks),
        ("--model", arguments.model),
        ("--model-base", arguments.model_base),
        ("--device", arguments.device),
        ("--dtype", arguments.dtype),
        *(("--model-option", option) for option in arguments.model_option or ()),
    ]
    return [text for option, value in told if value is not None for text in (option, str(value))]
