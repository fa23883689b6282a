"""`vinf health`: exit codes for probes, and how little it loads."""

import json
import socket
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vinf_client.cli.health import READY_SERVICE
from vinf_server.front.rpc.health import SERVICE

_STATUS = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Answers what it is told to."""

    def __init__(self):
        self.statuses = {"": _STATUS.SERVING, READY_SERVICE: _STATUS.SERVING}
        self.metadata = {}
        self.go_on = threading.Event()
        self.go_on.set()

    def Check(self, request, context):
        self.go_on.wait(20)
        self.metadata = dict(context.invocation_metadata())
        if request.service not in self.statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return _STATUS(status=self.statuses[request.service])


@pytest.fixture
def health():
    server = grpc.server(futures.ThreadPoolExecutor(2))
    made = Health()
    health_pb2_grpc.add_HealthServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    made.go_on.set()
    assert server.stop(None).wait(10)


@pytest.fixture
def probe(vinf, capsys):
    """Run the command; returns its exit code, its line of JSON and what it said."""

    def call(address, *arguments):
        code = vinf("health", "--server", address, "--json", *arguments)
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return call


@pytest.mark.fast
def test_the_service_is_the_one_that_the_server_has():
    assert READY_SERVICE == SERVICE


@pytest.mark.fast
def test_serving(health, vinf, capsys, monkeypatch):
    monkeypatch.setenv("VINF_SERVER", health.address)
    monkeypatch.setenv("VINF_TOKEN", "secret")
    assert vinf("health") == 0
    assert capsys.readouterr() == ("SERVING\n", "")
    assert "authorization" not in health.metadata, "nobody needs a token to be asked how they are"


@pytest.mark.fast
def test_serving_as_json(health, probe):
    told = {"server": health.address, "service": READY_SERVICE, "healthy": True, "status": "SERVING", "error": ""}
    assert probe(health.address) == (0, told, "")


@pytest.mark.fast
def test_alive_and_not_ready(health, probe, vinf, capsys):
    health.statuses[READY_SERVICE] = _STATUS.NOT_SERVING
    code, told, _ = probe(health.address)
    assert (code, told["healthy"], told["status"]) == (4, False, "NOT_SERVING")
    assert vinf("health", "--server", health.address) == 4
    wanted = f"vinf health: the service {READY_SERVICE} at {health.address} is NOT_SERVING\n"
    assert capsys.readouterr() == ("", wanted)
    assert probe(health.address, "--service", "")[0] == 0


@pytest.mark.fast
def test_a_service_that_is_not_known(health, probe):
    code, told, said = probe(health.address, "--service", "other")
    assert (code, told["healthy"], told["status"]) == (3, False, "")
    assert said == "vinf health: unknown\n"


@pytest.mark.fast
def test_no_answer_in_time(health, probe):
    health.go_on.clear()
    code, told, said = probe(health.address, "--timeout", "0.3s")
    assert (code, told["healthy"]) == (3, False)
    assert "did not answer in time" in said


@pytest.mark.fast
def test_nobody_listens(probe):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, told, said = probe(address)
    assert (code, told["healthy"]) == (2, False)
    assert "connection refused" in told["error"]
    assert "connection refused" in said


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "here"], "--server: must be HOST:PORT"),
        (["--timeout", "0"], "--timeout: '0' is not allowed"),
        (["--tls-ca", "/proc/none"], "--tls-ca: /proc/none cannot be read"),
        (["--token-file", "/proc/none"], "--token-file: /proc/none cannot be read"),
        (["now"], "unrecognized arguments: now"),
    ],
)
def test_bad_options_are_one_line(vinf, capsys, arguments, words):
    assert vinf("health", *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"vinf health: {words}")


@pytest.mark.fast
def test_its_help_explains_its_own_exit_codes(vinf, capsys):
    assert vinf("health", "--help") == 0
    text = capsys.readouterr().out
    assert "4    the service is not SERVING" in text
    assert "the generation has not ended yet" not in text


@pytest.mark.process
def test_it_loads_no_more_than_it_needs():
    program = "import sys, vinf_client.cli.health; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & {"numpy", "av", "rich", "PIL", "torch", "vinf", "vinf_server"}
