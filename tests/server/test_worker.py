"""`vinf worker` and a front with two hosts on one machine, with scripted ranks below quick agents."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests.server.conftest import ROOT, assert_gone, wait_until
from tests.support.certificates import Authority

pytestmark = pytest.mark.process

SCRIPTED = ("--rank-module", "tests.server.fake_rank", "--agent-module", "tests.server.fake_agent")
TWO_HOSTS = ("--nnodes", "2", "--link", "127.0.0.1:0", "--ranks", "1", "--agent-module", "tests.server.fake_agent")


class WorkerProcess:
    """`vinf worker` in a process of its own."""

    def __init__(self, folder, link, *arguments):
        self.log = folder / "worker.log"
        command = [sys.executable, "-m", "vinf_server.worker", "--join", link, "--ranks", "1", "--device", "cpu"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *SCRIPTED, *arguments],
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(folder)},
                stderr=log,
                start_new_session=True,
            )

    @property
    def text(self):
        return self.log.read_text()

    def ranks(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self):
        return self.process.wait(20)

    def stop(self, number=signal.SIGTERM):
        family = self.ranks() if self.process.poll() is None else []
        self.process.send_signal(number)
        code = self.wait()
        assert_gone(family)
        return code


@pytest.fixture
def worker(tmp_path):
    """Start workers; what a test leaves running is ended after it."""
    workers = []

    def start(link, *arguments, name="second"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        workers.append(WorkerProcess(folder, link, *arguments))
        return workers[-1]

    yield start
    for each in workers:
        if each.process.poll() is None:
            each.stop()


def link_of(front):
    """Where hosts join, and the file with the token that the front has made up."""
    wait_until(lambda: "hosts join at" in front.stderr, what="the link")
    return front.stderr.partition("hosts join at ")[2].partition(",")[0], front.folder / "data" / "join-token"


def joined(front):
    return front.stderr.count(" joined with 1 ranks")


def test_a_second_host_joins_leaves_and_comes_back(front_process, worker):
    front = front_process(*TWO_HOSTS)
    link, token = link_of(front)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().strip() not in front.stderr
    wait_until(lambda: "waiting for hosts: 1 of 2 are there" in front.stderr, what="waiting")
    assert not front.ready_file.exists()

    second = worker(link, "--join-token-file", str(token))
    front.wait_ready()
    (agent, rank) = second.ranks()
    assert "fake_agent" in " ".join(agent.cmdline())
    environment = rank.environ()
    assert (environment["VINF_LINK"], environment["VINF_EPOCH"]) == (link, "1")
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("1", "2")
    assert token.read_text().strip() not in " ".join([*agent.cmdline(), *rank.cmdline(), *environment.values()])

    rank.kill()
    wait_until(lambda: "launched 2 ranks, epoch 2" in front.stderr, what="the next launch")
    assert f"host {socket.gethostname()} (127.0.0.1): rank 1 ended with signal 9" in front.stderr
    assert joined(front) == 1, "the host stayed while its rank was lost"
    wait_until(lambda: front.stderr.count("vinf is ready") == 2, what="ready again")

    family = second.ranks()
    second.process.kill()
    assert_gone(family)
    wait_until(lambda: front.stderr.count("waiting for hosts: 1 of 2 are there") == 2, what="waiting again")
    worker(link, "--join-token-file", str(token), name="third")
    wait_until(lambda: front.stderr.count("vinf is ready") == 3, what="ready with another host")
    assert front.stop() == 0


def test_a_worker_that_is_stopped_says_goodbye_and_one_without_a_server_waits(front_process, worker):
    front = front_process(*TWO_HOSTS)
    link, token = link_of(front)
    second = worker(link, "--join-token-file", str(token))
    front.wait_ready()
    family = second.ranks()
    assert front.stop() == 0
    wait_until(lambda: "cannot join the server" in second.text, what="tries")
    assert_gone(family)
    assert second.process.poll() is None
    assert "Connection refused" in second.text
    assert second.stop() == 0


def test_whoever_has_no_token_stays_outside(front_process, worker, tmp_path):
    front = front_process(*TWO_HOSTS)
    link, _ = link_of(front)
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-token-of-the-server\n")
    wrong.chmod(0o600)
    second = worker(link, "--join-token-file", str(wrong))
    assert second.wait() == 2
    assert f"vinf worker: error: {link} refuses this host: the join token is wrong" in second.text
    assert "not-the-token" not in front.stderr
    assert joined(front) == 0


def test_all_places_are_taken_until_one_becomes_free(front_process, worker):
    front = front_process(*TWO_HOSTS)
    link, token = link_of(front)
    second = worker(link, "--join-token-file", str(token))
    front.wait_ready()
    spare = worker(link, "--join-token-file", str(token), name="spare")
    wait_until(lambda: "all 2 hosts of the group are there; next try" in spare.text, what="no place")
    assert second.stop() == 0
    wait_until(lambda: "joined the server" in spare.text, what="the free place")
    wait_until(lambda: front.stderr.count("vinf is ready") == 2, what="ready with the spare host")
    assert "(127.0.0.1): the worker was stopped" in front.stderr


def test_a_mistake_on_the_second_host_ends_the_server_with_its_words(front_process, worker):
    front = front_process(*TWO_HOSTS, "--model", "unknown")
    link, token = link_of(front)
    worker(link, "--join-token-file", str(token))
    assert front.wait() == 2
    assert "no model is called 'unknown'" in front.stderr


def test_certificates_instead_of_a_token(front_process, worker, tmp_path):
    authority, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")

    def flags(signer, name):
        pair = signer.sign(name, alternative="IP:127.0.0.1")
        files = {"cert": pair.certificate, "key": pair.key, "ca": authority.certificate}
        return [word for flag, path in files.items() for word in (f"--link-tls-{flag}", str(path))]

    front = front_process(*TWO_HOSTS, *flags(authority, "first"))
    link, token = link_of(front)
    assert not token.exists()
    outsider = worker(link, *flags(stranger, "outsider"), name="outsider")
    wait_until(lambda: outsider.text.count("cannot join the server") >= 2, what="refused handshakes")
    assert outsider.stop() == 0
    worker(link, *flags(authority, "second"))
    front.wait_ready()
    assert joined(front) == 1
