"""A whole front with a page: where it is found, how it stops, its doors."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import time

import pytest

from tests.server.conftest import QUICK_AGENT, ROOT
from tests.support.certificates import Authority
from vinf_server.cli import parse_config
from vinf_server.flag_values import ConfigError
from vinf_server.front.rpc.doors import Doors

TIMEOUT_S = 30


def connect(address, *, context=None):
    host, _, port = address.rpartition(":")
    if context is None:
        return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    return http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT_S, context=context)


def get(address, path, *, context=None, **headers):
    """Status and body of one request."""
    connection = connect(address, context=context)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def post(address, path, body):
    connection = connect(address)
    try:
        headers = {"Origin": f"http://{address}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--web", "nowhere"), "--web: 'nowhere' is not HOST:PORT"),
        (("--web", "0.0.0.0:80"), "--web: 0.0.0.0:80 can be reached from other machines and is not encrypted; "),
        (("--web", "127.0.0.1:0", "--web-names", "a b"), "--web-names: 'a b' is not the name of a host"),
        (
            ("--web", "127.0.0.1:0", "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"),
            "--web: with --tls-client-ca needs --tokens",
        ),
    ],
)
def test_flags_that_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(["--device", "cpu", *arguments])


@pytest.mark.fast
def test_flags_that_work():
    config = parse_config(["--device", "cpu"])
    assert (config.web, config.web_names) == (None, ())
    config = parse_config(["--device", "cpu", "--web", "0.0.0.0:80", "--insecure", "--web-names", "a,b.example.org"])
    assert (str(config.web), config.web_names) == ("0.0.0.0:80", ("a", "b.example.org"))


@pytest.mark.fast
def test_a_page_for_everybody_is_warned_of(caplog):
    Doors.open(parse_config(["--device", "cpu", "--web", "0.0.0.0:80", "--insecure"]))
    assert [record.getMessage() for record in caplog.records] == [
        "everybody who can reach 0.0.0.0:80 may use this server: neither --tokens nor --tls-client-ca is given"
    ]


@pytest.mark.process
def test_a_front_without_a_page_loads_nothing_of_it():
    program = (
        "import sys, vinf_server.front.app; "
        "print(sorted({'starlette', 'uvicorn', 'av', 'vinf_server.front.web'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.process
def test_it_is_told_where_the_page_is_and_the_page_ends_with_the_front(front_process):
    front = front_process(*QUICK_AGENT, "--web", "127.0.0.1:0", "--grace", "5")
    ready = front.wait_ready()
    address = ready["web"]
    assert f", page http://{address}/\n" in front.stderr
    assert "uvicorn" not in front.stderr.lower()
    status, body = get(address, "/")
    assert (status, b"<title>vinf</title>" in body) == (200, True)

    status, made = post(address, "/api/generations", {"spec": {"prompt": "a red circle slow"}, "detached": True})
    assert status == 200
    one = f"/api/generations/{made['generation']['generation_id']}"
    updates, video, stuck = connect(address), connect(address), connect(address)
    updates.request("GET", f"/api/updates?generation={made['generation']['generation_id']}")
    lines = updates.getresponse()
    assert json.loads(lines.readline())["server"]["ready"]
    video.request("GET", f"{one}/video")
    assert video.getresponse().read(8)[4:] == b"ftyp"
    stuck.connect()
    stuck.sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")  # a request that never ends
    time_before = time.monotonic()
    assert front.stop() == 0
    assert time.monotonic() - time_before < 10, "no request that never ends holds it up; 5 s is what it is given"
    told = [json.loads(line) for line in lines.read().splitlines()]
    assert [line["server"]["stopping"] for line in told if "server" in line][-1], "the page knows why it ends"
    for connection in (updates, video, stuck):
        connection.close()
    assert not list((front.folder / "data").glob("run-*")), "what was encoded goes with the server"
    assert "Traceback" not in front.stderr
    with pytest.raises(ConnectionRefusedError):
        get(address, "/")


@pytest.mark.process
def test_an_address_in_use_is_said_in_one_line(front_process):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        front = front_process(*QUICK_AGENT, "--web", address)
        assert front.wait() == 1
    assert f"vinf serve: error: cannot serve the page on {address}: Address already in use" in front.stderr


@pytest.mark.process
def test_the_page_goes_through_the_same_doors(front_process, tmp_path):
    authority = Authority(tmp_path / "certificates")
    pair, own = authority.server(), authority.sign("browser", subject="/CN=browser")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {hashlib.sha256(b'secret').hexdigest()}\n")
    front = front_process(
        *QUICK_AGENT,
        *("--web", "127.0.0.1:0", "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)),
        *("--tls-client-ca", str(authority.certificate), "--tokens", str(tokens)),
    )
    address = front.wait_ready()["web"]
    assert f", page https://{address}/\n" in front.stderr
    stranger = ssl.create_default_context(cafile=authority.certificate)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(address, "/", context=stranger)
    known = ssl.create_default_context(cafile=authority.certificate)
    known.load_cert_chain(own.certificate, own.key)
    assert get(address, "/", context=known)[0] == 200
    assert get(address, "/api/generations", context=known)[0] == 401
    assert get(address, "/api/generations", context=known, Authorization="Bearer secret")[0] == 200

    other = Authority(tmp_path / "certificates", "other")
    renewed = other.server()
    pair.key.write_bytes(renewed.key.read_bytes())
    pair.certificate.write_bytes(renewed.certificate.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        get(address, "/", context=known)
    known.load_verify_locations(other.certificate)
    assert get(address, "/", context=known)[0] == 200, "the next handshake sees the new certificate"
    assert front.stop() == 0
