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

from vinf_client._config import Settings, file_source, read_settings, server_and_source
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
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where what no argument gave was found, by the argument's name, for messages."""

    def completed(self, environ: Mapping[str, str], settings: Settings | None = None) -> "Access":
        """Fill in what was not given, first from the environment; nothing about TLS where that is switched off.

        Args:
            environ: the environment.
            settings: what comes after it; None: the user's file.

        Raises:
            ConfigError: the file cannot be used.
        """
        settings = read_settings(environ) if settings is None else settings
        sources = dict(self.sources)

        def found(name: str) -> str | None:
            """What the environment says, else the settings."""
            variable = f"VINF_{name.upper()}"
            if value := environ.get(variable):
                sources[name] = f"${variable}"
                return value
            setting: str | None = getattr(settings, name)
            if setting:
                key = "token_file" if name == "token" and settings.token_file else name
                sources[name] = file_source(key, environ)
            return setting

        token = self.token if self.token is not None else found("token")
        tls = self._means_tls(environ, settings)
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        if tls is not False:
            files = {name: given or found(name) for name, given in files.items()}
        return replace(
            self,
            token=token,
            tls=any(files.values()) if tls is None else tls,
            tls_ca=files["tls_ca"],
            tls_cert=files["tls_cert"],
            tls_key=files["tls_key"],
            insecure=self.insecure or bool(settings.insecure),
            sources=sources,
        )

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
            violations.append(self._violation("token", "must be 1 to 4096 printable ASCII characters without spaces"))
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            violations.append(Violation("tls", "is off; leave out tls_ca, tls_cert and tls_key"))
        if bool(self.tls_cert) != bool(self.tls_key):
            missing, given = ("tls_cert", "tls_key") if self.tls_key else ("tls_key", "tls_cert")
            violations.append(Violation(missing, f"is missing; {self.sources.get(given, given)} needs it"))
        if self.token and not self.tls and not self.insecure and not is_loopback(target):
            violations.append(
                self._violation(
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
        roots = _system_roots() if not self.tls_ca else self._read("tls_ca", self.tls_ca)
        key = certificate = None
        if self.tls_ca and not _has_authorities(self.tls_ca):
            raise self._refused("tls_ca", f"{os.fspath(self.tls_ca)} holds no certificate in PEM form")
        if self.tls_cert and self.tls_key:
            certificate, key = self._read("tls_cert", self.tls_cert), self._read("tls_key", self.tls_key)
            if not _is_pair(self.tls_cert, self.tls_key):
                certificate_file, key_file = os.fspath(self.tls_cert), os.fspath(self.tls_key)
                raise self._refused(
                    "tls_key", f"{key_file} is not the key of {certificate_file}, or not PEM without a password"
                )
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

    def _violation(self, name: str, problem: str) -> Violation:
        return Violation(name, problem, self.sources.get(name, ""))

    def _refused(self, name: str, problem: str) -> InvalidRequestError:
        return InvalidRequestError.of([self._violation(name, problem)])

    def _read(self, name: str, path: FilePath) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise self._refused(name, f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error

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
    completed = access.completed(environ, settings)
    server, source = server_and_source(server, environ)
    return server, replace(completed, sources={**completed.sources, "server": source})


def _flag(word: str) -> bool | None:
    if word.lower() in ("1", "true", "yes", "on"):
        return True
    if word.lower() in ("", "0", "false", "no", "off"):
        return False if word else None
    raise InvalidRequestError.of([Violation("tls", f"must be 1 or 0, got {word!r}", "$VINF_TLS")])


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


def _has_authorities(path: FilePath) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError):
        return False
    return True


def _is_pair(certificate: FilePath, key: FilePath) -> bool:
    """Find the mistake that gRPC would only call a failed handshake."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        return False
    return True
