"""A scripted server and a client of it."""

import pytest

from tests.client.fakes import FakeServer
from vinf_client import Client


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
def _no_server_in_the_environment(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    for name in ("SERVER", "TOKEN", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"VINF_{name}", raising=False)
