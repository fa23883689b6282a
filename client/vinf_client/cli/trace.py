"""`vinf trace`: what happened when while a generation was made, for Perfetto."""

import argparse
import sys
from pathlib import Path

from vinf_client._chrome_trace import write_json
from vinf_client._errors import OutputError
from vinf_client._replaceable import check_replaceable
from vinf_client._trace import RankShares, Trace, TraceLane
from vinf_client.cli.common import Parser, client_of, print_json, run
from vinf_client.output import prepare_folder

_EXAMPLES = """
vinf trace ID
vinf trace ID -o slow.json.gz
vinf trace ID -o - | jq '.traceEvents | length'
"""

_COLUMNS = (
    TraceLane.TEXT,
    TraceLane.COMPUTE,
    TraceLane.COMMUNICATE,
    TraceLane.WAIT,
    TraceLane.CHECKPOINT,
    TraceLane.DECODE,
    TraceLane.DELIVER,
)


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "trace",
        "Write what the server and every rank did for a generation, and when, as a trace that Perfetto "
        "(https://ui.perfetto.dev) and chrome://tracing open; while it is made, and for as long as it is kept. What "
        "each rank's time went to is printed, and how much of its communication was hidden behind computing.",
        examples=_EXAMPLES,
    )
    parser.add_argument("generation_id", metavar="ID", help="as vinf generate --detach prints and vinf list shows it")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where it goes, compressed if the name ends in .gz; - is standard output (default: ID.trace.json.gz)",
    )
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: the file, and what each rank's time went to")
    parser.add_argument("--quiet", action="store_true", help="no summary")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.json and arguments.output == "-":
        parser.error("--json and -o -: standard output takes one of them")
    return run(parser.prog, lambda: _trace(arguments))


def _trace(arguments: argparse.Namespace) -> None:
    if arguments.output == "":
        raise OutputError("'' is not an output; allowed: the name of a file, or - for standard output")
    name = arguments.output if arguments.output is not None else f"{arguments.generation_id}.trace.json.gz"
    if name != "-":
        check_replaceable(Path(name))
        prepare_folder(Path(name))
    with client_of(arguments) as client:
        trace = client.trace(arguments.generation_id)
    if name == "-":
        write_json(trace, sys.stdout.buffer, compressed=False)
        sys.stdout.buffer.flush()
    else:
        trace.save(name)
    if arguments.json:
        print_json(_told(trace, name))
    if not arguments.quiet:
        _tell(trace, name)


def _told(trace: Trace, name: str) -> dict[str, object]:
    return {
        "output": str(Path(name)),
        "spans": len(trace.spans),
        "left_out": trace.left_out_count,
        "ranks": [
            {
                "rank": rank,
                "seconds": shares.seconds,
                **{lane.value: shares.lanes[lane] for lane in _COLUMNS},
                "transfer": shares.transfer_seconds,
                "hidden": shares.hidden_seconds,
            }
            for rank, shares in trace.shares().items()
        ],
    }


def _tell(trace: Trace, name: str) -> None:
    shares = trace.shares()
    lines = [_header()] if shares else ["no rank has told anything about it yet"]
    lines += [_line(rank, found) for rank, found in shares.items()]
    if trace.left_out_count:
        lines.append(f"{trace.left_out_count} spans are missing: there were too many, or no room for them")
    if name != "-":
        lines.append(f"{name}: {len(trace.spans)} spans; open it at https://ui.perfetto.dev (it stays in your browser)")
    print(*lines, sep="\n", file=sys.stderr)


def _header() -> str:
    return "rank  seconds" + "".join(f"  {lane.value:>11}" for lane in _COLUMNS) + "  overlap"


def _line(rank: int, shares: RankShares) -> str:
    cells = "".join(f"  {shares.lanes[lane] / shares.seconds if shares.seconds else 0:>11.1%}" for lane in _COLUMNS)
    hidden = "-" if shares.hidden_share is None else f"{shares.hidden_share:.0%}"
    return f"{rank:>4}  {shares.seconds:>7.2f}{cells}  {hidden:>7}"
