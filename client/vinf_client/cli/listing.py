"""`vinf list`: the generations of a server."""

from vinf_client._types import Generation
from vinf_client.cli.common import Parser, client_of, print_json, run

_PROMPT_WIDTH = 48


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("list", "List a server's generations, newest first.")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="show at most N (default: %(default)s)")
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: an array of generations")
    arguments = parser.parse_args(argv)
    if arguments.limit < 1:
        parser.error(f"--limit: {arguments.limit} is not allowed; allowed: at least 1")

    def body() -> None:
        with client_of(arguments) as client:
            found = client.list(limit=arguments.limit)
        if arguments.json:
            print_json(found)
        elif found:
            rows = [("ID", "STATE", "FRAMES", "CREATED", "PROMPT"), *(_row(generation) for generation in found)]
            widths = [max(len(row[column]) for row in rows) for column in range(4)]
            for row in rows:
                print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
        else:
            print("no generations")

    return run(parser.prog, body)


def _row(generation: Generation) -> tuple[str, str, str, str, str]:
    progress = generation.progress
    created = generation.create_time
    prompt = " ".join(generation.spec.prompt.split())
    return (
        generation.generation_id,
        generation.state.value,
        f"{progress.completed_frame_count}/{generation.spec.frame_count}",
        f"{created.astimezone():%Y-%m-%d %H:%M:%S}" if created is not None else "",
        prompt if len(prompt) <= _PROMPT_WIDTH else prompt[: _PROMPT_WIDTH - 1] + "…",
    )
