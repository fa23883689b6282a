"""Flags of a group on several hosts, tokens, and the addresses that hosts show to each other."""

from __future__ import annotations

import pytest

from vinf_server import cli, worker
from vinf_server.addresses import address_towards, host_and_port, interface_of, network_environment, peer_host
from vinf_server.flag_values import ConfigError
from vinf_server.link_security import LinkSecurity, TlsFiles, read_token

pytestmark = pytest.mark.fast

LINK = ("--nnodes", "2", "--link", "127.0.0.1:50052")


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch):
    for module in (cli, worker):
        monkeypatch.setattr(module, "count_visible_gpus", lambda environ: 0)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    return path


def test_one_host_is_the_default():
    assert cli.parse_config([]).hosts is None


def test_first_host(token_file):
    hosts = cli.parse_config([*LINK, "--join-token-file", str(token_file), "--local-addr", "10.0.0.1"]).hosts
    assert (hosts.count, str(hosts.link), hosts.local_addr) == (2, "127.0.0.1:50052", "10.0.0.1")
    assert hosts.security.metadata() == (("vinf-join-token", "0123456789abcdef"),)


def test_a_mesh_is_measured_when_all_hosts_are_there():
    assert cli.parse_config([*LINK, "--ranks", "1", "--cfg-ranks", "2"]).mesh.cfg == 2


def test_weights_are_counted_when_all_hosts_are_there():
    assert cli.parse_config([*LINK, "--ranks", "1", "--rank-weights", "2,1"]).rank_weights.given == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nnodes", "2"], "--nnodes: 2 hosts need --link HOST:PORT"),
        (["--nnodes", "0", *LINK[2:]], "--nnodes: 0 is not in [1, 64]"),
        (["--nnodes", "65", *LINK[2:]], "--nnodes: 65 is not in [1, 64]"),
        (["--link", "127.0.0.1:1"], "--link: is for several hosts; add --nnodes N"),
        (["--nnodes", "2", "--link", "0.0.0.0:1"], "--link: 0.0.0.0:1 is beyond this machine"),
        (["--nnodes", "2", "--link", "10.0.0.1:1"], "the join token and all frames would travel in plain text"),
        ([*LINK, "--local-addr", "here"], "--local-addr: 'here' is not an IP address"),
        ([*LINK, "--local-addr", "0.0.0.0"], "--local-addr: 0.0.0.0 names no host"),
        ([*LINK, "--link-tls-cert", "x"], "--link-tls-key: is missing"),
        ([*LINK, "--join-token-file", "/nowhere"], "--join-token-file: /nowhere cannot be read"),
    ],
)
def test_mistakes_on_the_first_host(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["127.0.0.1"], "--join: '127.0.0.1' is not HOST:PORT"),
        (["127.0.0.1:1"], "--join-token-file: is missing: copy the server's token here"),
        (["10.0.0.1:1", "TOKEN"], "--join: 10.0.0.1:1 is beyond this machine"),
        (["127.0.0.1:1", "TOKEN", "--ranks", "0"], "--ranks: 0 is not in [1, 256]"),
        (["127.0.0.1:1", "TOKEN", "--device", "cuda"], "--device: cuda was asked for, but no CUDA device is visible"),
    ],
)
def test_mistakes_on_another_host(arguments, message, capsys, token_file):
    given = [word for text in arguments for word in (("--join-token-file", token_file) if text == "TOKEN" else (text,))]
    assert worker.main(["--join", *map(str, given)]) == 2
    assert message in capsys.readouterr().err


def test_a_host_may_join_in_plain_text_where_that_was_accepted(token_file):
    config = worker.parse_config(["--join", "10.0.0.1:1", "--join-token-file", str(token_file), "--insecure"])
    assert (str(config.join), config.ranks.ranks) == ("10.0.0.1:1", 2)


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        (0o640, "0123456789abcdef", "can be read by other users .mode 640.; use: chmod 600"),
        (0o600, "0123456789abcde", "at least 16 printable ASCII characters"),
        (0o600, "0123456789abcdef\n0123456789abcdef", "does not hold one line"),
        (0o600, "0123456789 abcdef", "no spaces"),
        (0o600, "0123456789abcdefé", "ASCII"),
    ],
)
def test_bad_tokens(token_file, mode, text, message):
    token_file.write_text(text)
    token_file.chmod(mode)
    with pytest.raises(ConfigError, match=message):
        read_token(token_file)


def test_ranks_are_told_files_and_no_secrets(token_file, tmp_path):
    tls = TlsFiles(tmp_path / "cert", tmp_path / "key", tmp_path / "ca")
    security = LinkSecurity(token_file, tls)
    variables = security.to_environment()
    assert LinkSecurity.from_environment(variables) == security
    assert "0123456789abcdef" not in f"{variables} {security!r}"
    assert LinkSecurity.from_environment({}) == LinkSecurity()


def test_addresses():
    assert address_towards("127.0.0.1") == "127.0.0.1"
    interface = interface_of("127.0.0.1")
    assert interface is not None
    assert interface_of("127.0.0.2") == interface, "it lies in the network of the interface"
    assert interface_of("198.51.100.7") is None
    assert network_environment("127.0.0.1", {"NCCL_SOCKET_IFNAME": "ib0"}) == {"GLOO_SOCKET_IFNAME": interface}
    assert network_environment("198.51.100.7", {}) == {}
    assert (host_and_port("10.0.0.1", 5), host_and_port("fe80::1", 5)) == ("10.0.0.1:5", "[fe80::1]:5")


@pytest.mark.parametrize(
    ("peer", "host"),
    [("unix:", "unix"), ("unix:/run/x", "unix"), ("ipv4:10.0.0.2:41", "10.0.0.2"), ("ipv6:%5B::1%5D:41", "::1")],
)
def test_peers_are_named_by_their_address(peer, host):
    assert peer_host(peer) == host
