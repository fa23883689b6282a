"""What a browser may be told and made to do: the headers of every answer, and which requests are a page's of ours.

A page of another site can send requests to this server from its visitor's browser, and with a name that it controls
(DNS rebinding) read the answers, too. So only known names are answered to, and what changes something must come from a
page of the same origin.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vinf_server.flag_values import Address
from vinf_server.front.web.errors import RefusedError, reply

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?")


def known_names(address: Address, names: Iterable[str]) -> frozenset[str]:
    """The names that the page may be asked for by, in lower case; any IP address besides: no site can be named so."""
    own = {"localhost"} if address.is_loopback else {"localhost", socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in {address.host, *own, *names})


class Guard:
    """Refuses what no page of ours sends, and says how its own pages are to be treated."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")  # the next version's page is not this one's
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
        except RefusedError as error:
            await reply(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_known(host):
            raise RefusedError(
                421, "UNKNOWN_HOST", f"this server does not go by the name {host[:80]!r}; start it with --web-names"
            )
        if method in _SAFE_METHODS:
            return
        origin = headers.get("origin", "")
        if urlsplit(origin).netloc.lower() != host.lower() or headers.get("sec-fetch-site", "same-origin") not in (
            "same-origin",
            "none",
        ):
            raise RefusedError(
                403, "CROSS_ORIGIN", f"the request comes from {origin[:80]!r}, not from a page of {host}"
            )
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "NOT_JSON", "the request must have the content type application/json")

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
