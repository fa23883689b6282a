"""`vinf doctor` against real fronts with scripted ranks: what it finds, and what it says to mend."""

import hashlib
import json
import signal
import socket
import threading
from concurrent import futures

import grpc
import pytest

from tests.client.cli.ptys import Terminal
from tests.server.conftest import wait_until
from tests.support.certificates import Authority
from vinf_client.cli import network_checks, server_checks

pytestmark = pytest.mark.process

TOKEN = "vinf_0123456789"
NAMES = (
    *("address", "connection", "tls", "health", "token", "version", "clock", "round trip", "request size"),
    *("limits", "ranks", "generation"),
)


@pytest.fixture
def doctor(vinf, capsys, monkeypatch):
    """Run it for programs: its exit code, and what it found by name.

    It is patient: on a loaded machine a round trip takes long, and so does a server's refusal of a certificate. Those
    that take it greet at once, so nothing waits longer than it must.
    """
    monkeypatch.setattr(server_checks, "_SLOW_ROUND_TRIP", 30)
    monkeypatch.setattr(network_checks, "_ALERT_TIMEOUT", 20)

    def call(address, *arguments):
        code = vinf("doctor", "--server", address, "--json", *arguments)
        out, err = capsys.readouterr()
        assert err == ""
        told = json.loads(out)
        assert told["server"] == address
        assert told["healthy"] == (code == 0)
        assert all(check["mend"] for check in told["checks"] if check["status"] in ("warn", "fail"))
        return code, {check["name"]: check for check in told["checks"]}

    return call


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"alice {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    return path


def tls(pair):
    return ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]


def statuses(checks):
    return {name: check["status"] for name, check in checks.items() if check["status"] != "ok"}


def test_a_healthy_server(scripted, doctor, vinf, capsys):
    front, address = scripted()
    code, checks = doctor(address)
    assert (code, tuple(checks), statuses(checks)) == (0, NAMES, {})
    assert "8 frames of 32 x 32 in " in checks["generation"]["text"]
    assert "2 of 2 up: cpu (scripted)" in checks["ranks"]["text"]
    assert vinf("list", "--server", address, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [], "its generation is deleted"

    assert vinf("doctor", "--server", address, "--no-generation") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 11 + ["skip"]
    assert lines[-1].split() == ["skip", "generation", "not", "asked", "for"]

    assert front.stop() == 0
    code, checks = doctor(address)
    assert code == 1
    assert statuses(checks) == {"connection": "fail"}
    assert "vinf serve" in checks["connection"]["mend"]


def test_a_generation_that_waits_too_long(scripted, doctor, vinf, capsys):
    _, address = scripted()
    assert vinf("generate", "a slow circle", "--detach", "--quiet", "--server", address) == 0
    running = capsys.readouterr().out.strip()
    # Its end is a time of day: the server refuses one that is over when the request arrives.
    code, checks = doctor(address, "--timeout", "5s")
    assert (code, statuses(checks)) == (0, {"generation": "warn"})
    assert "not done within 5 s" in checks["generation"]["text"]
    assert vinf("cancel", running, "--server", address) == 0


def test_a_full_queue(scripted, doctor, vinf, capsys):
    _, address = scripted("--max-waiting", "1")
    for _ in range(2):
        assert vinf("generate", "a slow circle", "--detach", "--quiet", "--server", address) == 0
    ids = capsys.readouterr().out.split()
    code, checks = doctor(address, "--no-generation")
    assert (code, statuses(checks)) == (0, {"limits": "warn", "generation": "skip"})
    assert checks["limits"]["text"].startswith("1 of at most 1 waiting")
    assert vinf("cancel", *ids, "--server", address) == 0


def test_ctrl_c_ends_the_generation(scripted, vinf, capsys):
    _, address = scripted()
    assert vinf("generate", "a slow circle", "--detach", "--quiet", "--server", address) == 0
    running = capsys.readouterr().out.strip()
    with Terminal("doctor", "--server", address, "--timeout", "10m") as terminal:
        terminal.expect("ranks")
        listed = []
        while len(listed) < 2:  # its generation waits behind the other one
            assert vinf("list", "--server", address, "--json", "--state", "running,pending") == 0
            listed = json.loads(capsys.readouterr().out)
        terminal.press(b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
        assert terminal.text.rstrip().endswith("vinf doctor: interrupted")

    def left():
        assert vinf("list", "--server", address, "--json", "--state", "running,pending") == 0
        return [generation["generation_id"] for generation in json.loads(capsys.readouterr().out)]

    # At the latest its lease ends it, where the signal came before it was known here.
    wait_until(lambda: left() == [running], what="the end of its generation")
    assert vinf("cancel", running, "--server", address) == 0


def test_tls_and_tokens(scripted, doctor, authority, tokens, tmp_path):
    _, address = scripted(*tls(authority.server()), "--tokens", str(tokens))
    trust = ["--tls-ca", str(authority.certificate), "--no-generation"]

    code, checks = doctor(address)
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert "the server wants TLS" in checks["tls"]["text"]

    code, checks = doctor(address, "--tls-ca", str(Authority(tmp_path, "stranger").certificate))
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert "not trusted" in checks["tls"]["text"]
    assert "--tls-ca" in checks["tls"]["mend"]

    code, checks = doctor(address, *trust)
    assert (code, statuses(checks)) == (1, {"tls": "warn", "token": "fail", "generation": "skip"})
    assert "days left" in checks["tls"]["text"], "the test's certificates are good for two days"
    assert "localhost, 127.0.0.1" in checks["tls"]["text"]
    assert "--token-file" in checks["token"]["mend"]

    for content, status in ((f"{TOKEN}x", "fail"), (TOKEN, "ok")):
        own = tmp_path / "token"
        own.write_text(content)
        code, checks = doctor(address, *trust, "--token-file", str(own))
        assert (code, checks["token"]["status"]) == (int(status == "fail"), status)
    assert checks["token"]["text"] == "accepted"


def test_a_certificate_for_another_name(scripted, doctor, authority):
    pair = authority.sign("elsewhere", alternative="DNS:gpu.example.org")
    _, address = scripted(*tls(pair))
    code, checks = doctor(address, "--tls-ca", str(authority.certificate))
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert checks["tls"]["text"] == "the certificate is not for 127.0.0.1; it is for gpu.example.org"


def test_a_certificate_that_has_expired(scripted, doctor, authority):
    pair = authority.sign("old", alternative="IP:127.0.0.1", is_expired=True)
    _, address = scripted(*tls(pair))
    code, checks = doctor(address, "--tls-ca", str(authority.certificate))
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert checks["tls"]["text"] == "the certificate has expired"


def test_a_certificate_of_ones_own(scripted, doctor, authority, tmp_path):
    _, address = scripted(*tls(authority.server("mutual")), "--tls-client-ca", str(authority.certificate))
    trust = ["--tls-ca", str(authority.certificate), "--no-generation"]
    code, checks = doctor(address, *trust)
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert "wants a certificate of yours" in checks["tls"]["text"]

    stranger = Authority(tmp_path, "stranger").sign("mallory")
    code, checks = doctor(address, *trust, *tls(stranger))
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert "does not trust your certificate" in checks["tls"]["text"]

    code, checks = doctor(address, *trust, *tls(authority.sign("alice", subject="/CN=alice")))
    assert (code, statuses(checks)) == (0, {"tls": "warn", "generation": "skip"})


def test_a_server_without_tls(scripted, doctor):
    _, address = scripted()
    code, checks = doctor(address, "--tls")
    assert (code, statuses(checks)) == (1, {"tls": "fail"})
    assert checks["tls"]["text"] == "the server does not speak TLS"


def test_a_server_without_ranks(front_process, doctor, unused_port):
    """Nothing of it is ready; what can be asked is asked."""
    front_process("--listen", f"127.0.0.1:{unused_port}", "--agent-module", "tests.client.cli.idle_agent")

    def answers():
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", unused_port)) == 0

    wait_until(answers, what="the port")
    code, checks = doctor(f"127.0.0.1:{unused_port}")
    assert code == 1
    assert {name for name, status in statuses(checks).items() if status == "fail"} == {"health", "ranks"}
    assert statuses(checks)["generation"] == "skip"
    assert "ranks are not up" in checks["health"]["text"]


@pytest.fixture
def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_host_that_nobody_knows(doctor):
    code, checks = doctor("nowhere.invalid:50051")
    assert (code, statuses(checks)) == (1, {"address": "fail"})


def test_a_socket_that_is_not_there(doctor, tmp_path):
    code, checks = doctor(f"unix:{tmp_path}/vinf.sock")
    assert (code, statuses(checks)) == (1, {"address": "fail"})


def test_something_else_listens_there(doctor):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def greet():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        code, checks = doctor(address)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert code == 1
    assert statuses(checks)["health"] == "fail"
    assert checks["health"]["text"] == "what listens there does not speak gRPC"


def test_a_grpc_server_that_is_not_vinf(doctor):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        code, checks = doctor(f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait(10)
    assert code == 1
    assert checks["health"]["text"] == "this is no vinf server, or something in between is not"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "here"], "--server: must be HOST:PORT"),
        (["--timeout", "0"], "--timeout: '0' is not allowed"),
        (["--token-file", "/proc/none"], "--token-file: /proc/none cannot be read"),
        (["--tls-ca", "/proc/none"], "--tls-ca: /proc/none cannot be read"),
        (["generation"], "unrecognized arguments: generation"),
    ],
)
def test_bad_options_are_one_line(vinf, capsys, arguments, words):
    assert vinf("doctor", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"vinf doctor: {words}")
