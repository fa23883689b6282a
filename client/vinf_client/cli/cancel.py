"""`vinf cancel`: the end of a generation."""

from vinf_client.cli.common import Parser, client_of, print_json, run


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("cancel", "Cancel a generation; one that has ended stays as it is.")
    parser.add_argument("generation_id", metavar="ID", help="as vinf list shows it")
    parser.add_server_option()
    parser.add_json_option("print one line of JSON: the generation afterwards")
    arguments = parser.parse_args(argv)

    def body() -> None:
        with client_of(arguments) as client:
            generation = client.attach(arguments.generation_id).cancel()
        if arguments.json:
            print_json(generation)
        else:
            print(f"{generation.generation_id}: {generation.state.value}")

    return run(parser.prog, body)
