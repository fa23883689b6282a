"""`vinf watch`: changes of state and progress of a generation, to its end."""

import argparse
from contextlib import ExitStack, nullcontext
from typing import Self

from vinf_client._errors import VinfError
from vinf_client._generation import GenerationHandle
from vinf_client._puller import FramePuller
from vinf_client._translate import failure_error
from vinf_client._types import GenerationEvent, GenerationState, Update
from vinf_client.cli.common import Parser, as_json, client_of, print_json
from vinf_client.cli.following import RESUME_ATTEMPTS, Follower, come_back_later, run_interruptible
from vinf_client.cli.interrupts import Interruptible
from vinf_client.cli.pictures import PictureDisplay
from vinf_client.cli.previews import add_preview_option, preview_display

_EXAMPLES = """
vinf watch ID
vinf watch ID --json | jq -r 'select(.kind == "event") | .state'
vinf watch ID --quiet && vinf download ID -o video.mp4
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "watch",
        "Follow a generation to its end. The exit code says how it ended; leaving does not cancel it.",
        examples=_EXAMPLES,
    )
    parser.add_argument("generation_id", metavar="ID", help="as vinf generate --detach prints and vinf list shows it")
    parser.add_argument(
        "--after-sequence", type=int, default=0, metavar="N", help="leave out events up to this one (default: none)"
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON an event or snapshot, told apart by their kind")
    add_preview_option(parser)
    parser.add_argument("--quiet", action="store_true", help="events only, no progress and no pictures")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    return run_interruptible(parser.prog, lambda interruptible: _watch(arguments, interruptible))


def _watch(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(client_of(arguments, resume_attempts=RESUME_ATTEMPTS))
        interruptible.on_stop(client.close)
        handle = client.attach(arguments.generation_id)
        stack.enter_context(come_back_later(handle.generation_id))
        display = preview_display(arguments)
        stack.callback(display.close)
        follower = Follower(display, handle.generation_id)
        pictures = stack.enter_context(_Pictures(handle, display)) if isinstance(display, PictureDisplay) else None
        updates = handle.updates(arguments.after_sequence, previews=pictures is not None, on_wait=follower.waiting)
        for update in updates:
            if update.events or arguments.json:
                with display.aside() if isinstance(display, PictureDisplay) else nullcontext():
                    _print(update, as_lines_of_json=arguments.json)
            if pictures is not None:
                pictures.show(update)
            follower.update(update.generation.progress)
        display.close()
        ended = handle.generation
        if ended.state is not GenerationState.SUCCEEDED:
            raise failure_error(ended.error, ended.state, ended.generation_id)


class _Pictures:
    """Shows the estimates of a generation, then the newest of its frames."""

    def __init__(self, handle: GenerationHandle, display: PictureDisplay) -> None:
        self._handle = handle
        self._display = display
        self._puller: FramePuller | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._puller is not None:
            self._puller.close()

    def show(self, update: Update) -> None:
        """Show what an update brings, or the newest frame behind it."""
        self._display.show_previews(update.previews)
        progress = update.generation.progress
        if not progress.completed_frame_count or update.generation.state.terminal:
            return
        if self._puller is None:
            self._puller = self._handle.pull(latency="low")
        try:
            frame = self._puller.latest()
        except VinfError:
            return  # the updates tell what is wrong with the generation
        if frame is not None:
            self._display.show_frame(frame.to_rgb())


def _print(update: Update, *, as_lines_of_json: bool) -> None:
    if as_lines_of_json:
        _print_json(update)
        return
    for event in update.events:
        print(_line(event), flush=True)


def _print_json(update: Update) -> None:
    for event in update.events:
        print_json({"kind": "event", "generation_id": update.generation.generation_id, **as_json(event)})
    print_json({"kind": "generation", **as_json(update.generation)})


def _line(event: GenerationEvent) -> str:
    when = f"{event.time.astimezone():%H:%M:%S}" if event.time is not None else "--:--:--"
    words = [f"{event.state.value} ({event.state_reason})" if event.state_reason else event.state.value]
    if event.message:
        words.append(event.message)
    return f"{when}  {event.sequence:>3}  {': '.join(words)}"
