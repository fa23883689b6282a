"""`vinf watch`: changes of state and progress of a generation, to its end."""

import argparse
from contextlib import ExitStack

from vinf_client._translate import failure_error
from vinf_client._types import GenerationEvent, GenerationState, Update
from vinf_client.cli.common import Parser, as_json, client_of, print_json
from vinf_client.cli.following import RESUME_ATTEMPTS, Follower, come_back_later, run_interruptible
from vinf_client.cli.interrupts import Interruptible
from vinf_client.progress import choose_display

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
    parser.add_argument("--quiet", action="store_true", help="events only, no progress")
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
        display = choose_display(quiet=arguments.quiet)
        stack.callback(display.close)
        follower = Follower(display, handle.generation_id)
        for update in handle.updates(arguments.after_sequence, on_wait=follower.waiting):
            if arguments.json:
                _print_json(update)
            else:
                for event in update.events:
                    print(_line(event), flush=True)
            follower.update(update.generation.progress)
        display.close()
        ended = handle.generation
        if ended.state is not GenerationState.SUCCEEDED:
            raise failure_error(ended.error, ended.state, ended.generation_id)


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
