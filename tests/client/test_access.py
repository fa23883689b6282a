"""Tokens and certificates: given, found in the environment, refused where they would leak."""

from concurrent import futures

import grpc
import pytest

from tests.client.blocking import BlockingClient
from tests.client.fakes import ID, Failure
from tests.support.certificates import Authority
from vinf.v1.server_info_service_pb2_grpc import add_ServerInfoServiceServicer_to_server
from vinf.v1.video_generation_service_pb2_grpc import add_VideoGenerationServiceServicer_to_server
from vinf_client import AuthenticationError, Client, InvalidRequestError, TransportError
from vinf_client._access import Access, is_loopback
from vinf_client._config import Settings
from vinf_client.cli import main

TOKEN = "vinf_secret-of-a-test"


class Recorder(grpc.ServerInterceptor):
    """Keeps the headers of every call."""

    def __init__(self):
        self.headers = []

    def intercept_service(self, continuation, handler_call_details):
        self.headers.append(dict(handler_call_details.invocation_metadata))
        return continuation(handler_call_details)


@pytest.fixture
def second_port(server):
    """Serve the scripted server once more, otherwise."""
    started = []

    def start(credentials=None, interceptors=()):
        second = grpc.server(futures.ThreadPoolExecutor(4), interceptors=interceptors)
        add_VideoGenerationServiceServicer_to_server(server, second)
        add_ServerInfoServiceServicer_to_server(server, second)
        port = (
            second.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else second.add_secure_port("127.0.0.1:0", credentials)
        )
        second.start()
        started.append(second)
        return f"127.0.0.1:{port}"

    yield start
    for second in started:
        second.stop(None).wait(10)


@pytest.fixture
def recorded(second_port):
    """An address, and the headers of the calls that came there."""
    recorder = Recorder()
    return second_port(interceptors=(recorder,)), recorder.headers


@pytest.fixture
def tls_server(second_port, tmp_path):
    """Who signs, who does not, a client's certificate, and the address of a server that asks for one."""
    authority, other = Authority(tmp_path / "certificates"), Authority(tmp_path / "certificates", "other")
    pair, own = authority.server(), authority.sign("alice", subject="/CN=alice")
    credentials = grpc.ssl_server_credentials(
        [(pair.key.read_bytes(), pair.certificate.read_bytes())], authority.certificate.read_bytes(), True
    )
    return authority, other, own, second_port(credentials)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/vinf.sock", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("127.example.org:1", False),
        ("localhost.example.org:1", False),
        ("0.0.0.0:1", False),
        ("dns://localhost:53/example.org:1", False),
    ],
)
def test_where_a_target_leads(target, loopback):
    assert is_loopback(target) is loopback


@pytest.mark.fast
@pytest.mark.parametrize("kind", [Client, BlockingClient], ids=["sync", "async"])
def test_a_token_goes_with_every_call(recorded, monkeypatch, kind):
    address, seen = recorded

    def check(expected, **arguments):
        seen.clear()
        with kind(address, **arguments) as client:
            client.list()
            assert list(client.attach(ID).frames())
        assert len(seen) > 2
        assert {headers.get("authorization") for headers in seen} == {expected}

    check(None)
    check(f"Bearer {TOKEN}", token=TOKEN)
    monkeypatch.setenv("VINF_TOKEN", TOKEN)
    check(f"Bearer {TOKEN}")
    check("Bearer other", token="other")
    check(None, token="")


@pytest.mark.fast
def test_a_token_never_leaves_the_machine_unprotected(monkeypatch):
    monkeypatch.setenv("VINF_TOKEN", TOKEN)
    with pytest.raises(InvalidRequestError, match="without encryption") as caught:
        Client("server.example.org:50051")
    assert caught.value.violations[0].argument == "token"
    assert TOKEN not in str(caught.value)
    Client("server.example.org:50051", insecure=True).close()
    Client("server.example.org:50051", tls=True).close()
    Client("server.example.org:50051", token="").close()


@pytest.mark.fast
def test_a_token_is_in_no_representation():
    assert TOKEN not in repr(Access(token=TOKEN))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "name", "problem"),
    [
        ({"token": "two words"}, "token", "must be 1 to 4096 printable ASCII characters without spaces"),
        ({"token": "a\nb"}, "token", "must be 1 to 4096 printable"),
        ({"token": "x" * 4097}, "token", "must be 1 to 4096 printable"),
        ({"tls": False, "tls_ca": "ca.crt"}, "tls", "is off; leave out tls_ca, tls_cert and tls_key"),
        ({"tls_cert": "a.crt"}, "tls_key", "is missing; tls_cert needs it"),
        ({"tls_key": "a.key"}, "tls_cert", "is missing; tls_key needs it"),
        ({"tls_ca": "/no/ca.crt"}, "tls_ca", "/no/ca.crt cannot be read: No such file or directory"),
        ({"tls_ca": __file__}, "tls_ca", "holds no certificate in PEM form"),
        ({"tls_cert": __file__, "tls_key": __file__}, "tls_key", "is not the key of"),
    ],
)
def test_mistakes_name_the_argument(arguments, name, problem):
    with pytest.raises(InvalidRequestError) as caught:
        Client("127.0.0.1:1", **arguments)
    (violation,) = caught.value.violations
    assert violation.argument == name
    assert problem in violation.description


@pytest.mark.fast
def test_the_environment_switches_tls_on_and_arguments_off():
    assert Access().completed({}, Settings()).tls is False
    assert Access().completed({"VINF_TLS": "1"}, Settings()).tls is True
    assert Access().completed({"VINF_TLS": "0"}, Settings()).tls is False
    with pytest.raises(InvalidRequestError, match=r"\$VINF_TLS: must be 1 or 0, got 'maybe'"):
        Access().completed({"VINF_TLS": "maybe"}, Settings())
    assert Access().completed({"VINF_TLS_CA": "ca"}, Settings()).tls is True
    off = Access(tls=False).completed({"VINF_TLS_CA": "ca", "VINF_TLS_CERT": "c", "VINF_TLS_KEY": "k"}, Settings())
    assert (off.tls, off.tls_ca, off.tls_cert, off.tls_key) == (False, None, None, None)
    assert Access(tls_ca="mine").completed({"VINF_TLS_CA": "ca"}, Settings()).tls_ca == "mine"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("TOKEN_MISSING", "give yours with Client(token=...), --token-file or $VINF_TOKEN"),
        ("TOKEN_INVALID", "check that it is the one for this server"),
        ("TOKEN_EXPIRED", "ask the server's operator for a new one"),
    ],
)
def test_a_refusal_says_what_to_do(server, capsys, reason, advice):
    server.info_failures.extend([Failure(grpc.StatusCode.UNAUTHENTICATED, reason, "who are you")] * 2)
    with Client(server.address) as client, pytest.raises(AuthenticationError) as caught:
        client.info()
    assert caught.value.reason == reason
    assert advice in str(caught.value)
    assert not caught.value.retryable
    assert main(["info", "--server", server.address]) == 2
    assert advice in capsys.readouterr().err


@pytest.mark.fast
def test_commands_read_the_token_from_a_file(recorded, tmp_path, capsys):
    address, seen = recorded
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert main(["info", "--server", address, "--token-file", str(file)]) == 0
    assert seen[-1]["authorization"] == f"Bearer {TOKEN}"
    file.write_text(" \n")
    for path, problem in ((file, "is empty"), (tmp_path / "no", "cannot be read: No such file or directory")):
        assert main(["list", "--server", address, "--token-file", str(path)]) == 2
        assert capsys.readouterr().err == f"vinf list: --token-file: {path} {problem}\n"
    file.write_text(TOKEN)
    assert main(["cancel", "x", "--server", "server.example.org:1", "--token-file", str(file)]) == 2
    err = capsys.readouterr().err
    assert "--token-file: would travel to server.example.org:1 without encryption" in err
    assert TOKEN not in err


@pytest.mark.fast
@pytest.mark.parametrize(
    "option", [("--token-file", "t"), ("--tls",), ("--tls-ca", "c"), ("--tls-cert", "c"), ("--tls-key", "k")]
)
def test_a_local_server_takes_none_of_it(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main(["generate", "a red ball", "-o", str(tmp_path / "a.npy"), "--local", *option])
    assert f"--local: cannot be combined with {option[0]} " in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("kind", [Client, BlockingClient], ids=["sync", "async"])
def test_tls_from_both_sides(tls_server, monkeypatch, capsys, kind):
    authority, other, own, address = tls_server
    files = {"tls_ca": authority.certificate, "tls_cert": own.certificate, "tls_key": own.key}
    with kind(address, token=TOKEN, **files) as client:
        assert client.info().models
    for broken, cause in (
        (files | {"tls_ca": other.certificate}, "its certificate is not trusted"),
        ({"tls_ca": authority.certificate}, ""),
        ({"tls": True}, "its certificate is not trusted"),
        ({}, ""),
    ):
        with kind(address, **broken) as client, pytest.raises(TransportError, match=f"cannot reach .*{cause}"):
            client.info()
    options = [part for name, path in files.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    assert main(["info", "--server", address, *options]) == 0
    for name, path in files.items():
        monkeypatch.setenv(f"VINF_{name.upper()}", str(path))
    assert main(["list", "--server", address]) == 0
    with Client(address, tls=False) as client, pytest.raises(TransportError):
        client.info()


@pytest.mark.process
def test_tls_to_a_server_without(server, tls_server):
    made = Client(server.address, tls_ca=tls_server[0].certificate)
    with made as client, pytest.raises(TransportError, match="it does not speak TLS"):
        client.info()
