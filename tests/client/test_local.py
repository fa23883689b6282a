"""A server for one call: started, found, and always stopped."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from vinf_client import Client, LocalServerError, _local
from vinf_client._local import LocalServer
from vinf_client.cli import generate, main

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Keep temporary folders where the test can see them, and let children import the tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    return tmp_path / "temporary"


def stub(word, arguments=(), **changes):
    return LocalServer(arguments, command=(sys.executable, "-m", "tests.client.local_stub", word), **changes)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_serves_and_leaves_nothing(folders):
    with stub("serve") as server:
        pid = server.pid
        assert server.peak_memory_bytes() > 1_000_000
        with Client(server.address) as client:
            assert client.info().ready
        server.check()
    assert not is_alive(pid)
    assert list(folders.iterdir()) == []


def test_one_that_dies_is_told_with_its_last_lines(folders):
    with pytest.raises(LocalServerError) as caught, stub("die", ("--model", "nosuch")):
        pass
    assert str(caught.value).splitlines() == [
        "the server ended with exit code 7; its last lines:",
        "  line one of the log",
        "  cannot serve nosuch",
    ]
    assert list(folders.iterdir()) == []


def test_one_that_never_is_ready_is_given_up(folders):
    with pytest.raises(LocalServerError, match=r"not ready after 6 s: line one"), stub("never", start_timeout=6):
        pass
    assert list(folders.iterdir()) == []


def test_one_that_is_deaf_is_killed(folders, monkeypatch):
    monkeypatch.setattr(_local, "_STOP_TIMEOUT", 0.2)
    with stub("deaf") as server:
        pid = server.pid
    assert not is_alive(pid)
    assert list(folders.iterdir()) == []


def test_it_dies_with_its_parent():
    program = (
        "import os, signal\n"
        "from tests.client.test_local import stub\n"
        "server = stub('serve')\n"
        "server.__enter__()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def killed_client(word):
    """Start a server from a process that is killed; return the server's process id."""
    program = (
        "import os, signal\n"
        "from tests.client.test_local import stub\n"
        f"server = stub({word!r})\n"
        "server.__enter__()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return int(done.stdout)


def is_free(folder):
    """Whether the last thread of the last process that used it has ended."""
    with (folder / "in-use.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_next_start_removes_what_a_killed_client_left(folders):
    killed_client("serve")
    (left,) = folders.iterdir()
    wait_for(lambda: is_free(left))
    with stub("serve"):
        assert not left.exists()
    assert list(folders.iterdir()) == []


def test_a_folder_stays_while_its_server_lives(folders):
    pid = killed_client("deaf")
    (left,) = folders.iterdir()
    try:
        with stub("serve"):
            assert (left / "server.log").exists()
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_free(left))
    with stub("serve"):
        assert not left.exists()


def test_folders_of_others_stay(folders):
    for name in ("vinf-notes", "vinf-12345678"):
        (folders / name).mkdir()
        (folders / name / "ready.json").write_text("")
    with stub("serve") as first, stub("serve") as second:
        assert first.address != second.address
        assert len(list(folders.glob("vinf-*/server.log"))) == 2
    assert sorted(path.name for path in folders.iterdir()) == ["vinf-12345678", "vinf-notes"]


def test_generate_local(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "LocalServer", lambda arguments: stub("serve", arguments))
    output = tmp_path / "a.npy"
    options = ["--local", "--ranks", "2", "--model", "sprites", "--device", "cpu"]
    assert main(["generate", "x", *options, "-o", str(output), "--json", "--quiet"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["clips"] == [4, 3]
    assert figures["peak_front_memory_bytes"] > 1_000_000
    assert np.load(output).shape == (7, 10, 20, 3)


def test_generate_local_tells_the_server_all_that_its_model_needs(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(generate, "LocalServer", lambda arguments: told.append(arguments) or stub("serve", arguments))
    options = [
        "--model",
        "a",
        "--model-base",
        "b",
        "--dtype",
        "bfloat16",
        "--model-option",
        "x=1",
        "--model-option",
        "y=2",
    ]
    assert main(["generate", "x", "--local", *options, "-o", str(tmp_path / "a.npy"), "--quiet"]) == 0
    wanted = "--model a --model-base b --dtype bfloat16 --model-option x=1 --model-option y=2"
    assert told == [wanted.split()]


def test_generate_local_without_a_server_that_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "LocalServer", lambda arguments: stub("die", arguments))
    assert main(["generate", "x", "--local", "-o", str(tmp_path / "a.npy"), "--quiet"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("vinf generate: the server ended with exit code 7; its last lines:\n")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_no_server(folders, times):
    program = (
        "import sys\n"
        "from tests.client.test_local import stub\n"
        "from vinf_client.cli import generate\n"
        f"generate.LocalServer = lambda arguments: stub({'never' if times == 1 else 'deaf_never'!r}, arguments)\n"
        "sys.exit(generate.main(['x', '--local', '-o', 'unused.npy']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=folders, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "starting a local server" in process.stderr.readline()
    log = wait_for(lambda: next(folders.glob("vinf-*/server.log"), None))
    wait_for(lambda: log.read_text())
    (child,) = " ".join(path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
    process.send_signal(signal.SIGINT)
    if times == 2:
        wait_for(lambda: "asked to stop" in log.read_text())
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    wait_for(lambda: not is_alive(int(child)))
    assert list(folders.iterdir()) == []


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
