"""`vinf completion`: real shells with the scripts."""

import shutil
import subprocess
import sys

import pytest

from vinf_client.cli import dispatch

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Write the script for a shell; returns its path."""

    def write(shell):
        path = tmp_path_factory.mktemp("completion") / f"vinf.{shell}"
        command = [sys.executable, "-m", "vinf_client.cli", "completion", shell]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert done.stderr == b""
        path.write_bytes(done.stdout)
        return path

    return write


@pytest.fixture(scope="module")
def complete(script):
    """What bash offers for the last of these words."""
    path = script("bash")

    def ask(*words):
        # As readline calls it: the words, which one is completed, and the function of `complete -F`.
        program = """
            source "$1"; shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _shtab_vinf vinf "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        done = subprocess.run(
            ["bash", "--norc", "-c", program, "bash", str(path), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return {word.strip() for word in done.stdout.splitlines() if word.strip()}

    return ask


def test_commands(complete):
    assert complete("vinf", "") >= {*dispatch.OWN, "serve", "worker", "bench"}
    assert complete("vinf", "do") == {"doctor", "download"}


def test_options_of_commands(complete):
    assert complete("vinf", "generate", "--pre") == {"--preview", "--preview-every"}
    assert complete("vinf", "batch", "--in") == {"--in-flight", "--initial-noise", "--insecure"}
    assert "--ranks" in complete("vinf", "serve", "--ran"), "commands of other packages, too"


def test_values_of_options(complete):
    assert complete("vinf", "generate", "--preview", "") == {"auto", "none", "blocks", "kitty", "sixel"}
    assert complete("vinf", "completion", "") == {"bash", "zsh", "fish"}
    assert complete("vinf", "batch", "--format", "p") == {"png"}


def test_files(complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.json").touch()
    assert complete("vinf", "generate", "--story", "st") == {"story.json"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(script, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script(shell))], capture_output=True, check=True, timeout=60)


def test_fish_offers_commands_and_options(script):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    program = f"source {script('fish')}; complete -C 'vinf do'; complete -C 'vinf generate --previ'"
    done = subprocess.run(["fish", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    offered = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert offered >= {"doctor", "download", "--preview", "--preview-every"}


def test_an_unknown_shell_is_one_line(vinf, capsys):
    assert vinf("completion", "tcl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vinf completion: SHELL: invalid choice: 'tcl' (choose from")
