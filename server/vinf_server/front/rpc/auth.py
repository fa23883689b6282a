"""Who calls: a client with a known token, or with a certificate, or anybody where neither is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any

import grpc

from vinf_server.front.errors import UnauthenticatedError
from vinf_server.front.grpc_types import Context, Handler
from vinf_server.front.rpc.errors import to_wire
from vinf_server.front.rpc.tokens import TokenFile

_HEALTH = "/grpc.health.v1.Health/"
"""Probes carry no tokens, and learn nothing but readiness."""

_SCHEME = "bearer"

_token_name: ContextVar[str] = ContextVar("vinf_token_name")
"""Set for the task of one call, which runs its interceptors and its handler."""


def principal_of(context: Context) -> str:
    """Return who makes a call.

    The name of the token; without tokens, the first alternative name of the client's certificate, else its common name;
    empty where clients are not told apart.

    Raises:
        UnauthenticatedError: the certificate has no name.
    """
    named = _token_name.get("")
    if named:
        return named
    certificate = context.auth_context()
    if "x509_pem_cert" not in certificate:
        return ""
    for kind in ("x509_subject_alternative_name", "x509_common_name"):
        for name in certificate.get(kind, ()):
            if name:
                return name.decode("utf-8", "backslashreplace")
    raise UnauthenticatedError("the client's certificate has no name", reason="CERTIFICATE_INVALID")


class Gate(grpc.aio.ServerInterceptor):
    """Lets only calls with a known token in, where there are tokens. Health checks need none, reflection does."""

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Find the handler, or one that refuses."""
        if self._tokens is not None and not handler_call_details.method.startswith(_HEALTH):
            try:
                token = bearer_token(handler_call_details.invocation_metadata or ())
                _token_name.set(await self._tokens.client_of(token))
            except UnauthenticatedError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token that the headers of a call carry; raises `UnauthenticatedError`."""
    values = [value for key, value in metadata if key == "authorization" and isinstance(value, str)]
    if not values:
        raise UnauthenticatedError("the call carries no token", reason="TOKEN_MISSING")
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != _SCHEME or not token.strip():
        raise UnauthenticatedError("the header is not one 'authorization: Bearer TOKEN'", reason="TOKEN_INVALID")
    return token.strip()


def _refusal(error: UnauthenticatedError) -> Handler:
    """A handler that fits every kind of call and reads no request."""
    wire = to_wire(error)

    async def refuse(_requests: Any, context: Context) -> None:
        await context.abort(wire.code, wire.message, wire.trailers)

    return grpc.stream_stream_rpc_method_handler(refuse)
