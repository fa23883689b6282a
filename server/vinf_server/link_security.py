"""The engine link over TCP: its keepalive, and who may use it: whoever has the join token, a certificate, or both."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from vinf_server.flag_values import ConfigError

TOKEN_KEY = "vinf-join-token"
"""Metadata that carries the token."""

MIN_TOKEN_CHARS = 16

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A link that is cut without a word is noticed after six seconds.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Every channel finds out for itself, and soon, that the front is back.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 4_000),
)

SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side of a mutual TLS connection."""

    certificate: Path
    key: Path
    authority: Path
    """Signs the certificates of the other side."""


@dataclass(frozen=True, slots=True)
class LinkSecurity:
    """What one side shows to the other. Holds paths: neither a token nor a key gets into a log by accident."""

    token_file: Path | None = None
    tls: TlsFiles | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> LinkSecurity:
        """Read what `to_environment` wrote; on the unix socket of the front's own host there is nothing to show."""
        token_file = environment.get("VINF_LINK_TOKEN_FILE", "")
        certificate = environment.get("VINF_LINK_TLS_CERT", "")
        tls = None
        if certificate:
            key, authority = environment["VINF_LINK_TLS_KEY"], environment["VINF_LINK_TLS_CA"]
            tls = TlsFiles(Path(certificate), Path(key), Path(authority))
        return cls(Path(token_file) if token_file else None, tls)

    def to_environment(self) -> dict[str, str]:
        """For the ranks: paths, which other users of the machine may see."""
        variables = {}
        if self.token_file is not None:
            variables["VINF_LINK_TOKEN_FILE"] = str(self.token_file)
        if self.tls is not None:
            variables["VINF_LINK_TLS_CERT"] = str(self.tls.certificate)
            variables["VINF_LINK_TLS_KEY"] = str(self.tls.key)
            variables["VINF_LINK_TLS_CA"] = str(self.tls.authority)
        return variables

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries; raises `ConfigError` when the token cannot be read."""
        return () if self.token_file is None else ((TOKEN_KEY, read_token(self.token_file)),)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For the side that connects; None: no TLS."""
        if self.tls is None:
            return None
        authority, key, certificate = self._read_tls(self.tls)
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """For the side that listens, which asks for a certificate, too; None: no TLS."""
        if self.tls is None:
            return None
        authority, key, certificate = self._read_tls(self.tls)
        return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)

    @staticmethod
    def _read_tls(tls: TlsFiles) -> tuple[bytes, bytes, bytes]:
        return (
            _read(tls.authority, flag="--link-tls-ca"),
            _read(tls.key, flag="--link-tls-key"),
            _read(tls.certificate, flag="--link-tls-cert"),
        )


UNIX_SOCKET = LinkSecurity()
"""On the front's own host there is nothing to show: the socket lies in a folder of the front's user alone."""


def open_channel(address: str, security: LinkSecurity) -> grpc.Channel:
    """A rank's channel to the front: a unix socket on the front's own host, TCP from the others."""
    if address.startswith("unix:"):
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS[:2])
    credentials = security.channel_credentials()
    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def open_aio_channel(address: str, security: LinkSecurity) -> grpc.aio.Channel:
    """A host's channel to the front."""
    credentials = security.channel_credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def read_token(path: Path) -> str:
    """Read a join token; raises `ConfigError` for a file that is missing, open to others, or holds no good token."""
    flag = "--join-token-file"
    token = _read(path, flag=flag).strip()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(flag, f"{path} can be read by other users (mode {mode:03o}); use: chmod 600 {path}")
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.decode().isprintable() or b" " in token:
        raise ConfigError(
            flag, f"{path} does not hold one line of at least {MIN_TOKEN_CHARS} printable ASCII characters, no spaces"
        )
    return token.decode()


def _read(path: Path, *, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(flag, f"{path} cannot be read: {error.strerror or error}") from error
