"""The server's certificate, read anew when its files change.

Open connections go on as they are; every new handshake sees the files of the moment. Files that do not fit together,
as happens in the middle of a renewal, change nothing.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from vinf_server.flag_values import ConfigError
from vinf_server.front.rpc.file_stamp import Stamp, stamp

_log = logging.getLogger(__name__)


class CertificateFiles:
    """Certificate, key, and the authorities of clients where clients need certificates."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Read the files; raises `ConfigError` naming the flag of one that cannot be used."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._paths = tuple(path for path in (certificate, key, client_ca) if path is not None)
        self._seen: Stamp | str = ""
        self._current = self._read()
        self._seen = self._look()

    @property
    def asks_clients(self) -> bool:
        """True when clients need a certificate."""
        return self._client_ca is not None

    def context(self) -> ssl.SSLContext:
        """What a server listens with that is not gRPC's; it looks for new files before every handshake as well."""
        context = self._new_context()
        seen = self._look()

        def renew(socket: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal seen, context
            if self._look() != seen:
                seen = self._look()
                try:
                    self._read()
                    context = self._new_context()
                except (ConfigError, OSError) as error:
                    _log.error("%s; the certificate in use stays", error)
            socket.context = context

        context.sni_callback = renew  # type: ignore[assignment]  # the stub knows sockets only
        return context

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._renewed,  # type: ignore[arg-type]  # the stub forgets that None means no change
            require_client_authentication=self.asks_clients,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificate to use from now on, None for no change; called before every handshake, by gRPC."""
        seen = self._look()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            self._current = self._read()
        except ConfigError as error:
            _log.error("%s; the certificate in use stays", error)
            return None
        except Exception:  # gRPC would print it and refuse the handshake
            _log.exception("the certificate could not be read; the one in use stays")
            return None
        _log.info("the certificate was read anew from %s", self._certificate)
        return self._current

    def _look(self) -> Stamp | str:
        try:
            return stamp(*self._paths)
        except OSError as error:
            return str(error)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate = _content("--tls-cert", self._certificate)
        key = _content("--tls-key", self._key)
        client_ca = None if self._client_ca is None else _content("--tls-client-ca", self._client_ca)
        self._check()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def _check(self) -> None:
        """Find the mistake that gRPC would only call a failed handshake."""
        for flag, path in (("--tls-cert", self._certificate), ("--tls-client-ca", self._client_ca)):
            if path is None:
                continue
            try:
                ssl.create_default_context(cafile=path)
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(flag, f"{path} holds no certificate in PEM form") from error
        try:
            # An encrypted key would ask the terminal for its password.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                problem = f"{self._key} is not the key of {self._certificate}"
            else:
                problem = f"{self._key} holds no private key in PEM form without a password"
            raise ConfigError("--tls-key", problem) from error
        except (OSError, ValueError) as error:
            raise ConfigError("--tls-key", f"{self._key} cannot be used: {error}") from error


def _content(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(flag, f"{path} cannot be read: {error.strerror or error}") from error


def _no_password() -> str:
    return ""
