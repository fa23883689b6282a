"""Who a client is and whom it trusts: its token, its certificate, and the authority of the server's."""

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import grpc

from vinf_client._config import DEFAULT_SERVER, Settings, read_settings
from vinf_client._errors import InvalidRequestError, Violation

FilePath: TypeAlias = str | os.PathLike[str]

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_SCHEMES = ("dns:", "ipv4:", "ipv6:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a connection is made with; see `Client` for each. None: the environment decides, else the settings."""

    token: str | None = field(default=None, repr=False)
    tls: bool | None = None
    tls_ca: FilePath | None = None
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    insecure: bool = False

    def completed(self, environ: Mapping[str, str], settings: Settings | None = None) -> "Access":
        """Fill in what was not given, first from the environment; nothing about TLS where that is switched off.

        Args:
            environ: the environment.
            settings: what comes after it; None: the user's file.

        Raises:
            ConfigError: the file cannot be used.
        """
        settings = read_settings(environ) if settings is None else settings
        token = self.token if self.token is not None else environ.get("VINF_TOKEN") or settings.token
        found = replace(self, token=token, insecure=self.insecure or bool(settings.insecure))
        tls = self._means_tls(environ, settings)
        if tls is not False:
            found = replace(
                found,
                tls_ca=self.tls_ca or environ.get("VINF_TLS_CA") or settings.tls_ca,
                tls_cert=self.tls_cert or environ.get("VINF_TLS_CERT") or settings.tls_cert,
                tls_key=self.tls_key or environ.get("VINF_TLS_KEY") or settings.tls_key,
            )
        has_files = bool(found.tls_ca or found.tls_cert or found.tls_key)
        return replace(found, tls=has_files if tls is None else tls)

    def _means_tls(self, environ: Mapping[str, str], settings: Settings) -> bool | None:
        """Whether somebody said so, the nearest first; naming a file says so, too."""
        if self.tls is not None:
            return self.tls
        if self.tls_ca or self.tls_cert or self.tls_key:
            return True
        flag = _flag(environ.get("VINF_TLS", ""))
        if flag is not None:
            return flag
        if any(environ.get(f"VINF_TLS_{name}") for name in ("CA", "CERT", "KEY")):
            return True
        return settings.tls

    def check(self, target: str) -> None:
        """Refuse what cannot work, and what would show a token to everybody on the way to `target`.

        Raises:
            InvalidRequestError: naming the argument, never the token.
        """
        violations = []
        if self.token and not _TOKEN.fullmatch(self.token):
            violations.append(Violation("token", "must be 1 to 4096 printable ASCII characters without spaces"))
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            violations.append(Violation("tls", "is off; leave out tls_ca, tls_cert and tls_key"))
        if bool(self.tls_cert) != bool(self.tls_key):
            missing, given = ("tls_cert", "tls_key") if self.tls_key else ("tls_key", "tls_cert")
            violations.append(Violation(missing, f"is missing; {given} needs it"))
        if self.token and not self.tls and not self.insecure and not is_loopback(target):
            violations.append(
                Violation(
                    "token",
                    f"would travel to {target} without encryption; use TLS (tls, tls_ca), or insecure to accept that",
                )
            )
        if violations:
            raise InvalidRequestError.of(violations)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a channel is secured with; None: it is not.

        Raises:
            InvalidRequestError: a file of certificates cannot be used.
        """
        if not self.tls:
            return None
        roots = _system_roots() if not self.tls_ca else _read("tls_ca", self.tls_ca)
        key = certificate = None
        if self.tls_ca:
            _check_authorities(self.tls_ca)
        if self.tls_cert and self.tls_key:
            certificate, key = _read("tls_cert", self.tls_cert), _read("tls_key", self.tls_key)
            _check_pair(self.tls_cert, self.tls_key)
        return grpc.ssl_channel_credentials(roots, key, certificate)

    def channel(self, target: str, options: Sequence[tuple[str, int]]) -> grpc.Channel:
        """Make a channel; it connects later.

        Raises:
            InvalidRequestError: a file of certificates cannot be used.
        """
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(target, options=options)
        return grpc.secure_channel(target, credentials, options=options)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def resolve(server: str | None, access: Access, environ: Mapping[str, str]) -> tuple[str, Access]:
    """Return the server and the access that the arguments, the environment and the settings mean together.

    Raises:
        ConfigError: the settings cannot be used.
    """
    asks_for_none = access.token == "" and access.tls is False and server is not None
    settings = Settings() if asks_for_none else read_settings(environ)
    if server is None:
        server = environ.get("VINF_SERVER") or settings.server or DEFAULT_SERVER
    return server, access.completed(environ, settings)


def _flag(word: str) -> bool | None:
    if word.lower() in ("1", "true", "yes", "on"):
        return True
    if word.lower() in ("", "0", "false", "no", "off"):
        return False if word else None
    raise InvalidRequestError.of([Violation("tls", f"$VINF_TLS must be 1 or 0, got {word!r}")])


def is_loopback(target: str) -> bool:
    """Return True when nothing that is sent to a gRPC target leaves this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in _SCHEMES:
        target = target.removeprefix(scheme)
    for address in target.rpartition("/")[2].split(","):
        host = address.rpartition(":")[0].strip("[]")
        try:
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                return False
        except ValueError:  # a name: where it leads is not ours to know
            return False
    return True


def _system_roots() -> bytes | None:
    """The system's authorities; None, those that come with gRPC, where it has no single file of them."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file is not None else None


def _read(argument: str, path: FilePath) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequestError.of(
            [Violation(argument, f"{os.fspath(path)} cannot be read: {error.strerror or error}")]
        ) from error


def _check_authorities(path: FilePath) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequestError.of(
            [Violation("tls_ca", f"{os.fspath(path)} holds no certificate in PEM form")]
        ) from error


def _check_pair(certificate: FilePath, key: FilePath) -> None:
    """Find the mistake that gRPC would only call a failed handshake."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidRequestError.of(
            [
                Violation(
                    "tls_key",
                    f"{os.fspath(key)} is not the key of {os.fspath(certificate)}, or not PEM without a password",
                )
            ]
        ) from error
