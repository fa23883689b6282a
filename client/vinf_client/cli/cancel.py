"""`vinf cancel`: the end of generations."""

from vinf_client._errors import TransportError, VinfError
from vinf_client.cli.common import Parser, client_of, exit_code, print_error, print_json, run

_EXAMPLES = """
vinf cancel ID
vinf list --state pending --json | jq -r '.[].generation_id' | xargs vinf cancel
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("cancel", "Cancel generations; one that has ended stays as it is.", examples=_EXAMPLES)
    parser.add_argument("generation_ids", metavar="ID", nargs="+", help="as vinf list shows it")
    parser.add_server_option()
    parser.add_json_option("print one line of JSON a generation: what it is afterwards")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)

    def body() -> int:
        code = 0
        with client_of(arguments) as client:
            for generation_id in dict.fromkeys(arguments.generation_ids):
                try:
                    generation = client.attach(generation_id).cancel()
                except TransportError:
                    raise  # the others would fare no better
                except VinfError as error:
                    print_error(f"{parser.prog}: {generation_id}", error)
                    code = code or exit_code(error)
                    continue
                if arguments.json:
                    print_json(generation)
                else:
                    print(f"{generation.generation_id}: {generation.state.value}", flush=True)
        return code

    return run(parser.prog, body)
