"""`vinf download`: the frames of a generation that is made, or was made, by the server."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import numpy as np

from vinf_client._errors import (
    FrameEvictedError,
    GenerationCancelledError,
    GenerationFailedError,
    InvalidRequestError,
    Violation,
)
from vinf_client._frame import Frame
from vinf_client._generation import GenerationHandle
from vinf_client._translate import failure_error
from vinf_client._types import Generation, GenerationState
from vinf_client._writers import VideoShape
from vinf_client.cli.common import Parser, client_of, print_json
from vinf_client.cli.exit_codes import EXIT_NOT_ENDED
from vinf_client.cli.following import (
    RESUME_ATTEMPTS,
    Follower,
    come_back_later,
    download_command,
    run_interruptible,
    state_text,
)
from vinf_client.cli.interrupts import Interruptible
from vinf_client.output import ALLOWED, Target
from vinf_client.progress import choose_display

_NAMES = {"start_frame_index": "--from-frame"}


_EXAMPLES = """
vinf download ID --wait
vinf download ID -o later/ --from-frame 48
vinf download ID -o video.gif --json --quiet
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "download",
        "Write the frames of a generation to a file. Without --wait those that are there: of one that has not ended "
        f"the exit code is {EXIT_NOT_ENDED} unless they are all there, of one that failed or was cancelled it is 4.",
        examples=_EXAMPLES,
    )
    parser.add_argument("generation_id", metavar="ID", help="as vinf generate --detach prints and vinf list shows it")
    parser.add_argument("-o", "--output", metavar="OUT", help=f"where it goes: {ALLOWED} (default: ID.mp4)")
    parser.add_argument("--wait", action="store_true", help="wait for the frames that are not made yet")
    parser.add_argument(
        "--from-frame", type=int, default=0, metavar="K", help="first frame wanted; PNG files keep their numbers"
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: what was written")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_interruptible(parser.prog, lambda interruptible: _download(arguments, interruptible), names=_NAMES)


def _download(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> int | None:
    target = Target.parse(arguments.output if arguments.output is not None else f"{arguments.generation_id}.mp4")
    with ExitStack() as stack:
        client = stack.enter_context(client_of(arguments, resume_attempts=RESUME_ATTEMPTS))
        interruptible.on_stop(client.close)
        handle = client.attach(arguments.generation_id)
        stack.enter_context(come_back_later(handle.generation_id))
        _check_start(arguments.from_frame, handle.generation)
        target.prepare()
        display = choose_display(quiet=arguments.quiet)
        stack.callback(display.close)
        follower = Follower(display, handle.generation_id)
        wait = arguments.wait and not handle.generation.ended
        try:
            count = _save(handle, target, arguments.from_frame, follower, wait=wait)
            generation = _succeeded(handle.generation) if wait else handle.generation
        except (GenerationFailedError, GenerationCancelledError):
            # It ended while it was waited for: its frames so far are worth having.
            generation = handle.refresh()
            count = _save(handle, target, arguments.from_frame, follower, wait=False)
        display.close()
        _tell(arguments, generation, target, count)
        if generation.complete:
            return None
        if generation.ended and generation.state is not GenerationState.SUCCEEDED:
            raise failure_error(generation.error, generation.state, generation.generation_id)
        _tell_unfinished(arguments, generation)
        return EXIT_NOT_ENDED


def _succeeded(generation: Generation) -> Generation:
    """Return the snapshot that follows from a stream that brought every frame.

    The server needs not be asked, and may be gone: the video is written.
    """
    frame_count = generation.spec.frame_count
    return replace(generation, state=GenerationState.SUCCEEDED, state_reason="", next_frame_index=frame_count)


def _check_start(start: int, generation: Generation) -> None:
    """Refuse a first frame that the video does not have, or that is no longer kept."""
    last = generation.spec.frame_count - 1
    if not 0 <= start <= last:
        problem = f"{start} is not allowed; allowed: [0, {last}]"
        raise InvalidRequestError.of([Violation("start_frame_index", problem)])
    first = generation.first_available_frame_index
    if start < first:
        raise FrameEvictedError(
            f"frame {start} is no longer kept; --from-frame {first} takes the frames that are",
            code="OUT_OF_RANGE",
            reason="FRAME_EVICTED",
            metadata={"firstAvailableFrameIndex": str(first)},
        )


def _save(handle: GenerationHandle, target: Target, start: int, follower: Follower, *, wait: bool) -> int:
    """Write the frames from `start`: all of them with `wait`, otherwise those that are there; return their number."""
    generation = handle.generation
    spec = generation.spec
    count = (spec.frame_count if wait else generation.next_frame_index) - start
    if count <= 0:
        return 0
    shape = VideoShape(count, spec.width, spec.height, spec.frame_rate, first_frame=start)
    with target.open(shape) as writer:
        for frame in _frames(handle, start, count, follower, wait=wait):
            writer.write(np.asarray(frame))
    return count


def _frames(handle: GenerationHandle, start: int, count: int, follower: Follower, *, wait: bool) -> Iterator[Frame]:
    frames = handle.frames(start, on_wait=follower.waiting)
    if not wait:
        # Stopping behind the last one that is there leaves the end of the generation out of it.
        yield from islice(frames, count)
        return
    progress = handle.watch(follower.update)
    try:
        yield from frames
    finally:
        progress.close()


def _tell(arguments: argparse.Namespace, generation: Generation, target: Target, count: int) -> None:
    start = arguments.from_frame
    written = str(target.path) if count > 0 else None
    if arguments.json:
        print_json(
            {
                "generation_id": generation.generation_id,
                "state": generation.state,
                "state_reason": generation.state_reason,
                "first_frame": start,
                "frames": count,
                "frame_count": generation.spec.frame_count,
                "output": written,
            }
        )
    if count > 0 and not arguments.quiet:
        print(
            f"vinf: {written}: {count} frames, {start} to {start + count - 1} of {generation.spec.frame_count}",
            file=sys.stderr,
        )


def _tell_unfinished(arguments: argparse.Namespace, generation: Generation) -> None:
    print(
        f"vinf download: generation {generation.generation_id} is {state_text(generation)}: "
        f"{generation.next_frame_index} of {generation.spec.frame_count} frames are there; "
        f"wait for the rest with: {download_command(generation.generation_id)}",
        file=sys.stderr,
    )
