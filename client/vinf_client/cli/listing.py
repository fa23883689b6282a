"""`vinf list`: the generations of a server."""

import argparse
from collections.abc import Sequence

from vinf_client._types import Generation, GenerationState
from vinf_client.cli.common import Parser, client_of, print_json, run
from vinf_client.cli.following import state_text

_PROMPT_WIDTH = 48


_STATES = [state.value for state in GenerationState if state is not GenerationState.UNKNOWN]
_EXAMPLES = """
vinf list
vinf list --state running,pending
vinf list --limit 500 --json | jq -r '.[] | [.generation_id, .state] | @tsv'
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("list", "List a server's generations, newest first.", examples=_EXAMPLES)
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="show at most N (default: %(default)s)")
    parser.add_argument(
        "--state",
        type=_states,
        action="extend",
        default=[],
        metavar="STATE[,STATE]",
        help=f"show these only: {', '.join(_STATES)} (default: all)",
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: an array of generations")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.limit < 1:
        parser.error(f"--limit: {arguments.limit} is not allowed; allowed: at least 1")

    def body() -> None:
        with client_of(arguments) as client:
            found = client.list(limit=arguments.limit, states=dict.fromkeys(arguments.state))
        if arguments.json:
            print_json(found)
        elif found:
            for line in _table(found):
                print(line)
        else:
            print("no generations")

    return run(parser.prog, body)


def _states(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _STATES:
            raise argparse.ArgumentTypeError(f"{name!r} is not allowed; allowed: {', '.join(_STATES)}")
    return names


def _table(found: Sequence[Generation]) -> list[str]:
    header = ("ID", "STATE", "PRIORITY", "FRAMES", "CREATED", "LABELS", "PROMPT")
    rows = [header, *(_row(generation) for generation in found)]
    labelled = any(generation.labels for generation in found)
    shown = [column for column, name in enumerate(header) if name != "LABELS" or labelled]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return ["  ".join(row[column].ljust(widths[column]) for column in shown).rstrip() for row in rows]


def _row(generation: Generation) -> tuple[str, ...]:
    progress = generation.progress
    created = generation.create_time
    prompt = " ".join(generation.spec.prompt.split())
    return (
        generation.generation_id,
        state_text(generation),
        str(generation.priority),
        f"{progress.completed_frame_count}/{generation.spec.frame_count}",
        f"{created.astimezone():%Y-%m-%d %H:%M:%S}" if created is not None else "",
        " ".join(f"{key}={value}" for key, value in sorted(generation.labels.items())),
        prompt if len(prompt) <= _PROMPT_WIDTH else prompt[: _PROMPT_WIDTH - 1] + "…",
    )
