"""`vinf token`: what the client gets and what the server keeps."""

import hashlib
import json

import pytest

from vinf_client.cli import main
from vinf_server.front.rpc.tokens import TokenFile

pytestmark = pytest.mark.fast


def test_the_line_is_what_the_server_reads(capsys, tmp_path):
    made = []
    for arguments in (["alice"], ["alice", "--expires", "2999-01-31"], ["bob@example.org"]):
        assert main(["token", *arguments, "--json"]) == 0
        made.append(json.loads(capsys.readouterr().out))
    assert [entry["name"] for entry in made] == ["alice", "alice", "bob@example.org"]
    assert len({entry["token"] for entry in made}) == 3
    assert all(len(entry["token"]) >= 43 for entry in made), "256 random bits"
    assert made[1]["line"].endswith(" 2999-01-31")
    path = tmp_path / "tokens"
    path.write_text("".join(f"{entry['line']}\n" for entry in made))
    TokenFile(path)
    assert hashlib.sha256(made[2]["token"].encode()).hexdigest() in made[2]["line"]


def test_token_and_line_are_shown_once(capsys):
    assert main(["token", "alice"]) == 0
    lines = capsys.readouterr().out.splitlines()
    token, line = lines[1].strip(), lines[3].strip()
    assert line == f"alice {hashlib.sha256(token.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a b"], "NAME: 'a b' is not allowed; allowed: 1 to 64 characters from [A-Za-z0-9._@-]"),
        (["alice", "--expires", "tomorrow"], "--expires: 'tomorrow' is not a date such as 2027-01-31"),
        (["alice", "--expires", "2027-02-30"], "--expires: '2027-02-30' is not a date such as 2027-01-31"),
    ],
)
def test_mistakes(capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        main(["token", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"vinf token: {message} (see vinf token --help)\n"
