"""One command for everything that is installed, and clear words for what is not."""

import os
import sys
from importlib.metadata import EntryPoint

import pytest

from vinf_client.cli import dispatch, main

pytestmark = pytest.mark.fast


@pytest.fixture
def entry(monkeypatch):
    def install(name, value):
        monkeypatch.setattr(dispatch, "entries", lambda: {name: EntryPoint(name, value, "vinf.commands")})

    return install


def test_help_lists_all_commands(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    groups = [group.splitlines() for group in out.split("\n\n")]
    commands = {title: [line.split()[0] for line in lines] for title, *lines in groups if title.endswith(":")}
    codes = commands.pop("exit codes:")
    assert commands == {
        "make videos:": ["generate", "batch"],
        "follow and fetch them:": ["list", "watch", "download", "trace", "eval", "cancel", "delete"],
        "look at a server:": ["info", "top", "health", "doctor"],
        "set up:": ["token", "completion"],
        "run a server:": ["serve", "worker", "models", "bench"],
    }
    assert codes[:10] == ["0", "1", "2", "3", "4", "5", "6", "130", "141", "143"]


@pytest.mark.parametrize("name", dispatch.OWN)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"examples:\n  vinf {name}" in out
    assert "exit codes:" in out
    assert ("--json" in out) == (name != "completion")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vinf ")


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "make videos:" in capsys.readouterr().err


@pytest.mark.parametrize(("told", "used"), [(None, "ERROR"), ("DEBUG", "DEBUG")])
def test_grpc_is_quiet_unless_told_otherwise(monkeypatch, told, used):
    monkeypatch.setenv("GRPC_VERBOSITY", told or "")
    if told is None:
        monkeypatch.delenv("GRPC_VERBOSITY")
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    assert os.environ["GRPC_VERBOSITY"] == used


def test_unknown_commands(capsys):
    assert main(["paint"]) == 2
    assert capsys.readouterr().err == "vinf: there is no command 'paint'; vinf --help lists them\n"


def test_arguments_and_exit_code_pass_through(entry, monkeypatch):
    module = type(sys)("vinf_test_command")
    module.main = lambda argv: len(argv)
    monkeypatch.setitem(sys.modules, "vinf_test_command", module)
    entry("serve", "vinf_test_command:main")
    assert main(["serve", "--ranks", "2"]) == 2
    assert main(["serve"]) == 0


def test_a_missing_extra_is_one_line(entry, capsys):
    entry("serve", "vinf_no_such_package.cli:main")
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "vinf serve needs the server extra: pip install 'vinf[server]' (vinf_no_such_package is missing)\n"
    )


def test_an_extra_that_is_found_missing_late(entry, monkeypatch, capsys):
    def needs_torch(argv):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = type(sys)("vinf_test_command")
    module.main = needs_torch
    monkeypatch.setitem(sys.modules, "vinf_test_command", module)
    entry("bench", "vinf_test_command:main")
    assert main(["bench"]) == 2
    assert capsys.readouterr().err.endswith("(torch is missing)\n")


def test_a_mistake_of_ours_is_not_hidden(entry):
    entry("serve", "vinf_client.no_such_module:main")
    with pytest.raises(ModuleNotFoundError):
        main(["serve"])
