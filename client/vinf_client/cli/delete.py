"""`vinf delete`: the end of what a generation left."""

import sys

from vinf_client._errors import TransportError, VinfError, WrongStateError
from vinf_client.cli.common import Parser, client_of, exit_code, print_error, print_json, run

_EXAMPLES = """
vinf delete ID
vinf list --state failed,cancelled --json | jq -r '.[].generation_id' | xargs vinf delete
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("delete", "Delete generations that have ended, and their frames.", examples=_EXAMPLES)
    parser.add_argument("generation_ids", metavar="ID", nargs="+", help="as vinf list shows it")
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: the ids that were deleted, and why others were not")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)

    def body() -> int:
        deleted: list[str] = []
        failed: dict[str, VinfError] = {}
        with client_of(arguments) as client:
            for generation_id in dict.fromkeys(arguments.generation_ids):
                try:
                    client.delete(generation_id)
                except TransportError:
                    raise  # the others would fare no better
                except VinfError as error:
                    if isinstance(error, WrongStateError):  # the server's words name it again
                        print(f"{parser.prog}: {generation_id}: has not ended; vinf cancel it first", file=sys.stderr)
                    else:
                        print_error(f"{parser.prog}: {generation_id}", error)
                    failed[generation_id] = error
                else:
                    deleted.append(generation_id)
                    if not arguments.json:
                        print(f"{generation_id}: deleted", flush=True)
        if arguments.json:
            print_json({"deleted": deleted, "failed": {name: error.reason for name, error in failed.items()}})
        return next((exit_code(error) for error in failed.values()), 0)

    return run(parser.prog, body)
