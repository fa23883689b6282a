"""The file of settings: found, overruled by nearer words, and refused with one clear error."""

import asyncio
import warnings

import pytest

from vinf_client import AsyncClient, Client, ConfigError, InvalidRequestError
from vinf_client._access import Access, resolve
from vinf_client._config import ConfigWarning, read_settings, settings_file
from vinf_client.cli import main
from vinf_client.testing import FakeServer

pytestmark = pytest.mark.fast


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write the file of settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "vinf" / "config.toml"
    file.parent.mkdir()

    def write(text, mode=0o600):
        file.write_text(text)
        file.chmod(mode)
        return file

    return write


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings_file({}) == tmp_path / ".config" / "vinf" / "config.toml"
    assert settings_file({"XDG_CONFIG_HOME": "relative"}) == settings_file({})
    assert settings_file({"XDG_CONFIG_HOME": "/xdg"}).as_posix() == "/xdg/vinf/config.toml"
    assert read_settings({"XDG_CONFIG_HOME": str(tmp_path)}).server is None


def test_nearer_words_come_first(config, tmp_path):
    config('server = "far:1"\ntoken = "of-the-file"\ntls_ca = "ca.pem"\ninsecure = true\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    server, access = resolve(None, Access(), environ)
    assert (server, access.token, access.tls, access.insecure) == ("far:1", "of-the-file", True, True)
    assert access.tls_ca == str(tmp_path / "vinf" / "ca.pem")
    environ |= {"VINF_SERVER": "near:1", "VINF_TOKEN": "of-the-environment", "VINF_TLS_CA": "other.pem"}
    server, access = resolve(None, Access(), environ)
    assert (server, access.token, access.tls_ca) == ("near:1", "of-the-environment", "other.pem")
    assert Access().completed({"XDG_CONFIG_HOME": str(tmp_path)}).token == "of-the-file"
    server, access = resolve("here:1", Access(token="mine", tls_ca="my.pem"), environ)
    assert (server, access.token, access.tls_ca) == ("here:1", "mine", "my.pem")


@pytest.mark.parametrize(
    ("text", "environ", "given", "tls"),
    [
        ("tls = true", {}, None, True),
        ("tls = true", {"VINF_TLS": "0"}, None, False),
        ("tls = true", {"VINF_TLS": "1"}, False, False),
        ("tls = false", {"VINF_TLS": "yes"}, None, True),
        ('tls = false\ntls_ca = "ca"', {}, None, False),
        ("tls = false", {"VINF_TLS_CA": "ca"}, None, True),
        ("", {}, True, True),
        ("", {}, None, False),
    ],
)
def test_tls_is_what_the_nearest_word_says(config, tmp_path, text, environ, given, tls):
    config(text)
    _, access = resolve("s:1", Access(tls=given), {"XDG_CONFIG_HOME": str(tmp_path), **environ})
    assert access.tls is tls
    if not tls:
        assert access.tls_ca is None


def test_a_token_of_a_file(config, tmp_path):
    config('token_file = "secret"')
    secret = tmp_path / "vinf" / "secret"
    secret.write_text("of-the-token-file\n")
    secret.chmod(0o600)
    _, access = resolve("s:1", Access(), {"XDG_CONFIG_HOME": str(tmp_path)})
    assert access.token == "of-the-token-file"
    assert "of-the-token-file" not in repr(read_settings({"XDG_CONFIG_HOME": str(tmp_path)}))


@pytest.mark.parametrize("holder", ["token", "token_file"])
def test_a_token_that_others_may_read_is_warned_of(config, tmp_path, holder):
    secret = tmp_path / "vinf" / "secret"
    secret.write_text("s")
    secret.chmod(0o644)
    file = config('token = "s"' if holder == "token" else 'token_file = "secret"', 0o640)
    told = file if holder == "token" else secret
    with pytest.warns(ConfigWarning, match=f"{told} holds a token and others may read it; .* chmod 600"):
        read_settings({"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_file_without_a_token_may_be_read_by_all(config, tmp_path):
    config('server = "far:1"', 0o644)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_settings({"XDG_CONFIG_HOME": str(tmp_path)}).server == "far:1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server = ", "is no TOML: "),
        ("sever = 'far:1'", "sever is not known; allowed: server, token, token_file, tls"),
        ("server = 1", 'server must be a text, such as "...", got 1'),
        ("token = ''", "token must be a text"),
        ("tls = 'yes'", "tls must be true or false, got 'yes'"),
        ("[tls]\nca = 1", "tls must be true or false"),
        ("token = 'a'\ntoken_file = 'b'", "token and token_file are both there"),
        ("token_file = 'none'", "token_file: .*none cannot be read: No such file"),
    ],
)
def test_what_cannot_be_used_is_named(config, tmp_path, text, problem, capsys):
    file = config(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        Client()
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith(f"vinf list: {file}")


@pytest.mark.parametrize(
    ("name", "value", "setting", "problem"),
    [
        ("SERVER", "here", "server", "must be HOST:PORT"),
        ("TOKEN", "two words", "token", "must be 1 to 4096 printable ASCII"),
        ("TLS_CA", "/proc/none", "tls_ca", "/proc/none cannot be read"),
        ("TLS_CA", "/proc/version", "tls_ca", "/proc/version holds no certificate"),
    ],
)
def test_what_cannot_work_is_told_by_its_source(config, monkeypatch, capsys, name, value, setting, problem):
    """Neither the client's keyword nor the command's option was used."""
    file = config(f'{setting} = "{value}"')
    for source in (f"{file}: {setting}", f"$VINF_{name}"):
        for make in (Client, AsyncClient):
            with pytest.raises(InvalidRequestError) as caught:
                make()
            assert str(caught.value).startswith(f"{source}: {problem}")
            assert caught.value.violations[0].source == source
        for command, code in (("list", 2), ("doctor", 2), ("health", 1)):
            assert main([command]) == code
            assert capsys.readouterr().err.startswith(f"vinf {command}: {source}: {problem}")
        monkeypatch.setenv(f"VINF_{name}", value)  # comes before the file
    arguments = {setting: value}
    with pytest.raises(InvalidRequestError) as caught:
        Client(**arguments)
    assert str(caught.value).startswith(f"{setting}: {problem}"), "who gave it is told by their own word"


def test_a_missing_half_names_the_source_of_the_other(config, tmp_path, capsys):
    file = config('tls_cert = "mine.crt"')
    assert main(["list"]) == 2
    assert capsys.readouterr().err == f"vinf list: --tls-key: is missing; {file}: tls_cert needs it\n"


def test_a_folder_in_its_place_is_named(config, tmp_path):
    (tmp_path / "vinf" / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Client()


def test_nothing_of_it_is_for_a_server_of_ones_own(config):
    config("broken")
    with Client("127.0.0.1:1", token="", tls=False) as client:
        assert client.server == "127.0.0.1:1"


def test_the_clients_and_the_command_read_it(config, capsys):
    with FakeServer() as server:
        config(f'server = "{server.address}"')
        with Client() as client:
            handle = client.submit("a red ball", frames=1)

        async def ask():
            async with AsyncClient() as other:
                return await other.attach(handle.generation_id)

        assert asyncio.run(ask()).generation_id == handle.generation_id
        assert main(["list"]) == 0
        assert handle.generation_id in capsys.readouterr().out
