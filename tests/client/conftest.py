"""A scripted server and a client of it; a real server for the tests that want one."""

import pytest

from tests.client.fakes import FakeServer
from tests.support.server import Server
from vinf_client import Client


@pytest.fixture(scope="package")
def real_server(tmp_path_factory):
    """`vinf serve` with one rank, for all tests of this folder."""
    with Server(tmp_path_factory.mktemp("real"), "--ranks", "1") as server:
        yield server


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def client(server):
    with Client(server.address) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_server_in_the_environment(monkeypatch):
    for name in ("SERVER", "TOKEN", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"VINF_{name}", raising=False)
