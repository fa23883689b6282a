"""Who asks: the name of the token, where there are tokens."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request

from vinf_server.front.rpc.auth import bearer_token
from vinf_server.front.rpc.tokens import TokenFile


class Who:
    """Names the caller of a request as the gRPC door does."""

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens

    async def asks(self, request: Request) -> str:
        """Return the client's name, empty where clients are not told apart; raises `UnauthenticatedError`."""
        if self._tokens is None:
            return ""
        headers = [(name, value) for name, value in request.headers.items() if name == "authorization"]
        return await self._tokens.client_of(bearer_token(headers))


def host_of(request: Request) -> str:
    """Where a request comes from, written as gRPC writes it: both doors count together."""
    host = request.client.host if request.client is not None else ""
    return f"ipv6:{quote(f'[{host}]')}" if ":" in host else f"ipv4:{host}"
