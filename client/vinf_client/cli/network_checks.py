"""Checks of `vinf doctor` below gRPC: the address, the connection, and TLS."""

import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from vinf_client._access import Access, is_loopback

_TIMEOUT = 5.0  # seconds
_ALERT_TIMEOUT = 1.0  # seconds to wait for a refusal behind the handshake; servers greet at once
_EXPIRES_SOON = 14  # days
_SCHEMES = ("dns:", "ipv4:", "ipv6:")

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    status: Status
    text: str
    mend: str = ""  # what to do about it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens: a host and a port, or the path of a socket."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def of(cls, target: str) -> "Place":
        """Read a checked address of a client."""
        if target.startswith("unix:"):
            return cls("", 0, target.removeprefix("unix:").replace("///", "/", 1))
        if target.startswith("unix-abstract:"):
            return cls("", 0, "\0" + target.removeprefix("unix-abstract:"))
        for scheme in _SCHEMES:
            target = target.removeprefix(scheme)
        host, _, port = target.rpartition("/")[2].partition(",")[0].rpartition(":")
        return cls(host.strip("[]"), int(port))

    def connect(self) -> socket.socket:
        """Open a connection.

        Raises:
            OSError: nobody is there.
        """
        if not self.path:
            return socket.create_connection((self.host, self.port), _TIMEOUT)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection


class _RefusedError(Exception):
    """The server hung up behind the handshake."""


def check_network(target: str, access: Access) -> Iterator[Finding]:
    """Check address, connection and TLS; the last finding is a failure when nothing further can work."""
    place = Place.of(target)
    found = _check_address(place, target)
    yield found
    if found.status == "fail":
        return
    found = _check_connection(place)
    yield found
    if found.status != "fail":
        yield _check_tls(place, access) if access.tls else _check_plain(place, target)


def _check_address(place: Place, target: str) -> Finding:
    name = "address"
    if place.path:
        if place.path.startswith("\0") or os.path.exists(place.path):
            return Finding(name, "ok", f"{target}, a socket of this machine")
        return Finding(name, "fail", f"{target}: there is no such socket", "start the server, or mend --server")
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Finding(
            name, "fail", f"{target}: the host name cannot be resolved: {reason}", "mend --server, or your DNS"
        )
    addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Finding(name, "ok", target if addresses == place.host else f"{target} is {addresses}")


def _check_connection(place: Place) -> Finding:
    name = "connection"
    began = time.monotonic()
    try:
        place.connect().close()
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {_TIMEOUT:g} s", "look for a firewall, or mend --server")
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            mend = "start a server there (vinf serve), or mend the port of --server"
            return Finding(name, "fail", "refused: nothing listens there", mend)
        return Finding(name, "fail", f"{error.strerror or error}", "look at the network, or mend --server")
    return Finding(name, "ok", f"open after {(time.monotonic() - began) * 1000:.1f} ms")


def _check_plain(place: Place, target: str) -> Finding:
    if _speaks_tls(place):
        mend = "add --tls-ca FILE with the authority of its certificate, or --tls for those of the system"
        return Finding("tls", "fail", "the server wants TLS, this client uses none", mend)
    if is_loopback(target):
        return Finding("tls", "ok", "none; nothing leaves this machine")
    return Finding(
        "tls",
        "warn",
        "none: prompts, frames and tokens travel in plain text",
        "give the server --tls-cert and --tls-key, and this client --tls-ca",
    )


def _speaks_tls(place: Place) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with suppress(OSError), place.connect() as connection:
        context.wrap_socket(connection, server_hostname=place.host or "localhost").close()
        return True
    return False


def _check_tls(place: Place, access: Access) -> Finding:
    try:
        context = _context(access)
    except (OSError, ssl.SSLError) as error:
        return Finding("tls", "fail", f"a file of certificates cannot be used: {error}", "mend --tls-ca, --tls-cert")
    try:
        certificate = _handshake(context, place)
    except ssl.SSLCertVerificationError as error:
        return _refused_certificate(place, access, error)
    except _RefusedError:
        if access.tls_cert:
            mend = "have it signed by an authority that the server trusts (vinf serve --tls-client-ca)"
            return Finding("tls", "fail", "the server does not trust your certificate", mend)
        mend = "add --tls-cert and --tls-key, signed by an authority that the server trusts"
        return Finding("tls", "fail", "the server wants a certificate of yours", mend)
    except ssl.SSLError:
        return Finding("tls", "fail", "the server does not speak TLS", "leave out --tls, --tls-ca and $VINF_TLS")
    except OSError as error:
        mend = "leave out --tls, or look at the server's log"
        return Finding("tls", "fail", f"the handshake broke off: {error.strerror or error}", mend)
    days = (_end_of(certificate) - datetime.now(UTC)).days
    text = f"certificate for {', '.join(_names_of(certificate))}, good until {_end_of(certificate):%Y-%m-%d}"
    if days < _EXPIRES_SOON:
        return Finding("tls", "warn", f"{text}: {days} days left", "renew it; vinf serve reads it anew by itself")
    return Finding("tls", "ok", text)


def _refused_certificate(place: Place, access: Access, error: ssl.SSLCertVerificationError) -> Finding:
    reason = error.verify_message or str(error)
    if "mismatch" in reason.lower() or "not valid for" in reason.lower():
        context = _context(access)
        context.check_hostname = False
        names = ""
        with suppress(OSError, _RefusedError):
            names = f"; it is for {', '.join(_names_of(_handshake(context, place)))}"
        mend = "use a name that it is for in --server, or a certificate for this one"
        return Finding("tls", "fail", f"the certificate is not for {place.host}{names}", mend)
    if "expired" in reason.lower():
        return Finding("tls", "fail", "the certificate has expired", "renew it; vinf serve reads it anew by itself")
    mend = "give the authority that signed it with --tls-ca FILE"
    return Finding("tls", "fail", f"the certificate is not trusted: {reason}", mend)


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.tls_ca or None)
    context.set_alpn_protocols(["h2"])
    if access.tls_cert and access.tls_key:
        context.load_cert_chain(access.tls_cert, access.tls_key, password=lambda: "")
    return context


def _handshake(context: ssl.SSLContext, place: Place) -> dict[str, object]:
    """Return the certificate of the server, once it took ours.

    Raises:
        _RefusedError: it did not.
        OSError: there was no handshake; `ssl.SSLError` is one, too.
    """
    with (
        place.connect() as connection,
        context.wrap_socket(connection, server_hostname=place.host or "localhost") as tls,
    ):
        certificate = tls.getpeercert() or {}
        tls.settimeout(_ALERT_TIMEOUT)
        # Since TLS 1.3 a server judges our certificate behind the handshake: it greets, or hangs up.
        try:
            greeting = tls.recv(1)
        except TimeoutError:
            greeting = b"?"
        except OSError as error:
            raise _RefusedError from error
        if not greeting:
            raise _RefusedError
        return dict(certificate)


def _names_of(certificate: dict[str, object]) -> list[str]:
    entries = certificate.get("subjectAltName", ())
    return [str(value) for _, value in entries] if isinstance(entries, tuple) and entries else ["nobody"]


def _end_of(certificate: dict[str, object]) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
