"""`vinf token`: a new token for a client, and the line that lets it in."""

import hashlib
import re
import secrets
from datetime import UTC, datetime

from vinf_client.cli.common import Parser, print_json

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


_EXAMPLES = """
vinf token alice
vinf token alice --expires 2027-01-31
vinf token alice --json | jq -r .line >> tokens
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "token",
        "Make a random token for a client of a server that runs with --tokens. Asks no server.",
        examples=_EXAMPLES,
    )
    parser.add_argument("name", metavar="NAME", help="who it is for; two tokens of one name are one client")
    parser.add_argument("--expires", metavar="DATE", help="last day (UTC) it is good for, such as 2027-01-31")
    parser.add_json_option("print one line of JSON: name, token, line")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not _NAME.fullmatch(arguments.name):
        parser.error(f"NAME: {arguments.name!r} is not allowed; allowed: 1 to 64 characters from [A-Za-z0-9._@-]")
    if arguments.expires is not None:
        try:
            last_day = datetime.strptime(arguments.expires, "%Y-%m-%d").date()
        except ValueError:
            parser.error(f"--expires: {arguments.expires!r} is not a date such as 2027-01-31")
        if last_day < datetime.now(UTC).date():
            parser.error(f"--expires: {arguments.expires} is over already")
    token = f"vinf_{secrets.token_urlsafe(32)}"
    words = [arguments.name, hashlib.sha256(token.encode()).hexdigest(), arguments.expires or ""]
    line = " ".join(words).rstrip()
    if arguments.json:
        print_json({"name": arguments.name, "token": token, "line": line})
    else:
        print(f"the token, for the client; it is shown this once:\n  {token}")
        print(f"the line for the file that vinf serve --tokens reads:\n  {line}")
    return 0
