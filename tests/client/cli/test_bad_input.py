"""Bad input of every command: one clear line, the right exit code, no traceback; as a process, as users have it."""

import subprocess
import sys

import pytest

from tests.client.cli.ptys import ROOT
from vinf_client.cli import dispatch

# What each command cannot do without.
NEEDED = {
    "generate": ["a ball", "-o", "a.npy"],
    "batch": ["prompts.txt", "-o", "out"],
    "watch": ["gen-1"],
    "download": ["gen-1", "-o", "a.npy"],
    "cancel": ["gen-1"],
    "delete": ["gen-1"],
    "trace": ["gen-1", "-o", "a.json"],
    "eval": ["gen-1"],
    "token": ["alice"],
    "completion": ["bash"],
}
ASK_A_SERVER = sorted(set(dispatch.OWN) - {"token", "completion"})
MORE = {"top": ["--once"]}
USAGE = {name: 1 if name == "health" else 2 for name in dispatch.OWN}
"""Exit codes for what cannot work; `vinf health` has those of grpc_health_probe."""
ABSENT = {name: 2 if name == "health" else 3 for name in dispatch.OWN}
"""The same for a server that is not there."""


@pytest.fixture
def told(vinf, tmp_path, monkeypatch, capsys):
    """Run a command; returns its exit code and its one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a ball\n")

    def call(name, *arguments):
        code = vinf(name, *MORE.get(name, []), *arguments)
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"vinf {name}: ")
        return code, line

    return call


@pytest.mark.fast
@pytest.mark.parametrize("name", dispatch.OWN)
def test_options_that_are_none(told, name):
    code, line = told(name, *NEEDED.get(name, []), "--paint")
    assert code == USAGE[name]
    assert line == f"vinf {name}: unrecognized arguments: --paint (see vinf {name} --help)"


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(set(NEEDED) - {"generate"}))
def test_arguments_that_are_missing(told, name):
    code, line = told(name)
    assert code == USAGE[name]
    assert line.startswith(f"vinf {name}: the following arguments are required: ")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "here"], "--server: must be HOST:PORT with a port in [1, 65535]"),
        (["--server", "here:0"], "--server: must be HOST:PORT with a port in [1, 65535]"),
        (["--server", ""], "--server: must be HOST:PORT"),
        (["--token-file", "none"], "--token-file: none cannot be read: No such file or directory"),
        (["--token-file", "prompts.txt"], "--token-file: must be 1 to 4096 printable ASCII"),
        (["--tls-ca", "none"], "--tls-ca: none cannot be read: No such file or directory"),
        (["--tls-cert", "none"], "--tls-key: is missing; tls_cert needs it"),
    ],
    ids=["host", "port", "empty", "no token", "no word", "no authority", "no key"],
)
@pytest.mark.parametrize("name", ASK_A_SERVER)
def test_servers_that_cannot_be(told, name, arguments, words):
    code, line = told(name, *NEEDED.get(name, []), *arguments)
    assert code == USAGE[name]
    assert line.startswith(f"vinf {name}: {words}")


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(set(ASK_A_SERVER) - {"doctor"}))
def test_servers_that_are_not_there(told, name):
    quiet = ["--quiet"] if name == "generate" else []
    code, line = told(name, *NEEDED.get(name, []), *quiet, "--server", "127.0.0.1:1")
    assert code == ABSENT[name]
    assert "cannot reach a vinf server at 127.0.0.1:1: connection refused; is it running?" in line


@pytest.mark.fast
@pytest.mark.parametrize("name", ["watch", "download", "cancel", "delete", "trace"])
def test_generations_that_are_not_there(told, server, name):
    code, line = told(name, "gen-2", "--server", server.address)
    assert code == 2
    assert line.endswith("no such generation")


@pytest.mark.process
@pytest.mark.parametrize("name", ASK_A_SERVER)
def test_nothing_else_is_written_by_a_process(name, tmp_path):
    (tmp_path / "prompts.txt").write_text("a ball\n")
    command = [name, *MORE.get(name, []), *NEEDED.get(name, []), "--server", "127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "vinf_client.cli", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join((str(ROOT), *(str(ROOT / room) for room in ("gen", "client", "server"))))},
        timeout=60,
        check=False,
    )
    if name == "doctor":
        assert (done.returncode, done.stderr) == (1, "")
        assert "refused: nothing listens there" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (ABSENT[name], "")
        assert len(done.stderr.splitlines()) == 1
