"""The user's settings: ``$XDG_CONFIG_HOME/vinf/config.toml``, else ``~/.config/vinf/config.toml``.

    server = "gpu-box:50051"
    token_file = "token"        # or token = "..."; relative names start at this file's folder
    tls_ca = "ca.pem"           # also: tls = true, tls_cert, tls_key, insecure

An argument comes before the environment, the environment before the file.
"""

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vinf_client._errors import ConfigError

DEFAULT_SERVER = "127.0.0.1:50051"

_TEXTS = ("server", "token", "token_file", "tls_ca", "tls_cert", "tls_key")
_FLAGS = ("tls", "insecure")
_PATHS = ("token_file", "tls_ca", "tls_cert", "tls_key")


class ConfigWarning(UserWarning):
    """The settings work, but not as anybody should want them to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the file says; None where it says nothing."""

    server: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    tls: bool | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool | None = None


def settings_file(environ: Mapping[str, str]) -> Path:
    """Return where the settings are, or would be."""
    base = environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return folder / "vinf" / "config.toml"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the file; all None where there is none.

    Raises:
        ConfigError: naming the file and the key.
    """
    file = settings_file(environ)
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise ConfigError(f"{file} cannot be read: {problem}") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error
    return _checked(file, found)


def server_of(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the address to talk to: the one given, else of the environment, of the file, or on this machine.

    Raises:
        ConfigError: the file would decide, and cannot be used.
    """
    return server_and_source(given, environ)[0]


def server_and_source(given: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the address to talk to, and where it was found; the latter is empty where it was given.

    Raises:
        ConfigError: the file would decide, and cannot be used.
    """
    if given is not None:
        return given, ""
    if found := environ.get("VINF_SERVER"):
        return found, "$VINF_SERVER"
    found = read_settings(environ).server
    return (found, file_source("server", environ)) if found else (DEFAULT_SERVER, "")


def file_source(key: str, environ: Mapping[str, str]) -> str:
    """Name a key of the file, for messages."""
    return f"{settings_file(environ)}: {key}"


def _checked(file: Path, found: dict[str, Any]) -> Settings:
    allowed = [entry.name for entry in fields(Settings)]
    for key, value in found.items():
        if key not in allowed:
            raise ConfigError(f"{file}: {key} is not known; allowed: {', '.join(allowed)}")
        if key in _TEXTS and not (isinstance(value, str) and value):
            raise ConfigError(f'{file}: {key} must be a text, such as "...", got {value!r}')
        if key in _FLAGS and not isinstance(value, bool):
            raise ConfigError(f"{file}: {key} must be true or false, got {value!r}")
    if "token" in found and "token_file" in found:
        raise ConfigError(f"{file}: token and token_file are both there; leave one out")
    for key in _PATHS:
        if key in found:
            found[key] = str(file.parent / Path(found[key]).expanduser())
    if "token" in found:
        _warn_if_readable(file)
    if "token_file" in found:
        found["token"] = _read_token(file, Path(found["token_file"]))
    return Settings(**found)


def _read_token(file: Path, path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise ConfigError(f"{file}: token_file: {path} cannot be read: {problem}") from error
    if not token:
        raise ConfigError(f"{file}: token_file: {path} is empty")
    _warn_if_readable(path)
    return token


def _warn_if_readable(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        warnings.warn(
            f"{path} holds a token and others may read it; mend that with: chmod 600 {path}",
            ConfigWarning,
            stacklevel=2,
        )
