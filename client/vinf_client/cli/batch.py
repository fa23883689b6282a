"""`vinf batch`: the videos of a list of prompts, for a data set."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from vinf_client._errors import ClientClosedError
from vinf_client._types import Generation
from vinf_client.cli.batch_display import choose_batch_display
from vinf_client.cli.batch_folder import FORMATS, Folder
from vinf_client.cli.batch_items import Item, read_items
from vinf_client.cli.batch_work import Batch
from vinf_client.cli.common import Parser, client_of, exit_code, print_json
from vinf_client.cli.following import RESUME_ATTEMPTS, run_interruptible
from vinf_client.cli.generate_options import add_video_options, spec_options
from vinf_client.cli.interrupts import Interruptible

_MOST_TOLD = 20
_MOST_IN_FLIGHT = 64
_EXAMPLES = """
vinf batch prompts.jsonl -o videos/
vinf batch prompts.txt -o videos/ --frames 96 --format png --in-flight 8
vinf batch prompts.jsonl -o videos/ --retry-failed --delete
printf '{"prompt": "a red ball bouncing over the sea", "seed": 7, "name": "ball"}\\n' > prompts.jsonl
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "batch",
        "Make the videos of a list. Beside each, NAME.txt has its prompt and NAME.json its specification. The same "
        "command again leaves out what is done, takes up what the server still makes, and makes the rest.",
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "prompts",
        metavar="PROMPTS",
        help="FILE.jsonl: a JSON object a line, with prompt, keywords of the Python SDK (seed, frames, ...), image and "
        "end_image (files, from the list's folder) and a name for its files; or FILE.txt: a prompt a line",
    )
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the videos")
    parser.add_argument(
        "--format", choices=FORMATS, default="mp4", help="of the videos; png: a folder of each (default: %(default)s)"
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=4,
        metavar="N",
        help="videos that wait or run on the server at a time (default: %(default)s)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="make anew what failed in an earlier run")
    parser.add_argument("--delete", action="store_true", help="have the server forget each video once it is saved")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    add_video_options(parser, "the videos, where a line does not say it")
    parser.add_server_option()
    parser.add_json_option("print one line of JSON a video, told apart by their kind, and a summary at the end")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.in_flight <= _MOST_IN_FLIGHT:
        parser.error(f"--in-flight: {arguments.in_flight} is not allowed; allowed: [1, {_MOST_IN_FLIGHT}]")
    return run_interruptible(parser.prog, lambda interruptible: _make(arguments, interruptible))


def _make(arguments: argparse.Namespace, interruptible: Interruptible[int | None]) -> int:
    arguments.segments, arguments.local = None, False
    items = read_items(Path(arguments.prompts), spec_options(arguments))
    with ExitStack() as stack:
        folder = stack.enter_context(Folder(Path(arguments.output), arguments.format))
        done = folder.finished(items)
        left = [item for item in items if item.name not in done]
        client = stack.enter_context(client_of(arguments, resume_attempts=RESUME_ATTEMPTS))
        interruptible.on_stop(client.close)
        if left:
            client.info()  # who misspelt the address shall not wait for a server that never comes
        display = choose_batch_display(sys.stderr, len(left), quiet=arguments.quiet)
        stack.callback(display.close)
        batch = Batch(
            client,
            folder,
            display,
            in_flight=arguments.in_flight,
            retry_failed=arguments.retry_failed,
            delete=arguments.delete,
            on_saved=lambda *saved: _tell_saved(folder, *saved) if arguments.json else None,
        )
        interruptible.on_stop(batch.stop)
        batch.run(left)
        display.close()
        return _tell_end(arguments, folder, batch, len(items), len(done))


def _tell_saved(folder: Folder, item: Item, generation: Generation, frames: int, seconds: float) -> None:
    print_json(
        {
            "kind": "video",
            "name": item.name,
            "line": item.line,
            "output": str(folder.target(item).path),
            "generation_id": generation.generation_id,
            "seed": generation.spec.seed,
            "frames": frames,
            "seconds": seconds,
        }
    )


def _tell_end(arguments: argparse.Namespace, folder: Folder, batch: Batch, total: int, skipped: int) -> int:
    """Sum up, list what failed, and return the exit code."""
    failures = sorted(batch.failures, key=lambda failure: failure[0].line)
    path = folder.tell_failures(failures)
    left = total - skipped - batch.saved - len(failures)
    if arguments.json:
        for item, error in failures:
            print_json(
                {"kind": "failure", "name": item.name, "line": item.line, "reason": error.reason, "error": str(error)}
            )
        print_json({"kind": "summary", "saved": batch.saved, "skipped": skipped, "failed": len(failures), "left": left})
    if not arguments.quiet:
        words = [f"{batch.saved} saved"]
        words += [f"{number} {text}" for number, text in ((skipped, "done before"), (left, "left")) if number]
        again = "; the same command again goes on" if left else ""
        print(f"vinf: {arguments.output}: {', '.join(words)} of {total} videos{again}", file=sys.stderr)
    if failures and path is not None:
        lines = [f"  {item.name} (line {item.line}): {error}" for item, error in failures[:_MOST_TOLD]]
        if len(failures) > _MOST_TOLD:
            lines.append(f"  and {len(failures) - _MOST_TOLD} more, see {path}")
        head = f"vinf batch: {len(failures)} of {total} failed; --retry-failed makes them anew:"
        print(head, *lines, sep="\n", file=sys.stderr)
    if batch.stopped:
        raise ClientClosedError("interrupted")
    if batch.fatal is not None:
        raise batch.fatal
    return exit_code(failures[0][1]) if failures else 0
