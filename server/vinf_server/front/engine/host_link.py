"""The engine link over TCP: the servicer of joining hosts, and the gate before it and before their ranks."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from vinf.engine.v1 import engine_link_service_pb2_grpc as link_grpc
from vinf.engine.v1 import worker_host_service_pb2 as host_pb2
from vinf.engine.v1 import worker_host_service_pb2_grpc as host_grpc
from vinf_server.addresses import peer_host
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address
from vinf_server.front.engine.hosts import Host, HostMismatchError, Hosts, PlacesTakenError
from vinf_server.front.engine.link import RECEIVE_LIMIT_BYTES, EngineLink
from vinf_server.front.grpc_types import Context, Handler
from vinf_server.link_security import SERVER_OPTIONS, TOKEN_KEY, LinkSecurity, read_token

_log = logging.getLogger(__name__)

_TOKEN_BYTES = 32


class WorkerHosts(host_grpc.WorkerHostServiceServicer):
    """Lets hosts join."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def Join(  # noqa: N802
        self, request_iterator: AsyncIterator[host_pb2.JoinRequest], context: Context
    ) -> AsyncIterator[host_pb2.JoinResponse]:
        """Orders out, reports in, for as long as the host stays."""
        host = await self._take_offer(request_iterator, context)
        reports = asyncio.create_task(self._take_reports(host, request_iterator))
        try:
            counts = {"host_count": self._hosts.count, "joined_count": self._hosts.joined_count}
            yield host_pb2.JoinResponse(welcome=host_pb2.HostWelcome(**counts))
            while (order := await host.next_order()) is not None:
                yield order
        finally:
            reports.cancel()
            self._hosts.leave(host)

    async def _take_offer(self, requests: AsyncIterator[host_pb2.JoinRequest], context: Context) -> Host:
        request = await anext(aiter(requests), host_pb2.JoinRequest())
        if not request.HasField("offer"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be an offer")
        try:
            return self._hosts.join(request.offer, peer_host(context.peer()))
        except HostMismatchError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except PlacesTakenError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _take_reports(self, host: Host, requests: AsyncIterator[host_pb2.JoinRequest]) -> None:
        try:
            async for request in requests:
                if request.HasField("ended"):
                    host.take_ended(request.ended)
        finally:
            host.drop()


class JoinGate(grpc.aio.ServerInterceptor):
    """Lets only calls with the join token in."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Pass the call on or refuse it; what is compared takes the same time whatever is wrong."""
        shown = dict(handler_call_details.invocation_metadata or ()).get(TOKEN_KEY, "")
        given = shown if isinstance(shown, bytes) else shown.encode()
        handler = await continuation(handler_call_details)
        if handler is None or hmac.compare_digest(given, self._token):
            return handler
        message = "the join token is wrong" if given else "the join token is missing"
        _log.warning("a call of %s was refused: %s", handler_call_details.method, message)
        return _refusal(handler, message)


def _refusal(handler: Handler, message: str) -> Handler:
    async def refuse(_: Any, context: Context) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    async def refuse_stream(_: Any, context: Context) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
        yield  # an async generator, as gRPC wants it

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    answer = refuse_stream if handler.response_streaming else refuse
    refusal: Handler = make(answer, handler.request_deserializer, handler.response_serializer)
    return refusal


async def start_host_link_server(
    address: Address, link: EngineLink, hosts: Hosts, security: LinkSecurity
) -> grpc.aio.Server:
    """Serve hosts and their ranks over TCP; OSError when the address cannot be listened on."""
    gates = () if security.token_file is None else (JoinGate(read_token(security.token_file)),)
    options = (*SERVER_OPTIONS, ("grpc.max_receive_message_length", RECEIVE_LIMIT_BYTES))
    server = grpc.aio.server(interceptors=gates, options=options)
    link_grpc.add_EngineLinkServiceServicer_to_server(link, server)
    host_grpc.add_WorkerHostServiceServicer_to_server(WorkerHosts(hosts), server)
    credentials = security.server_credentials()
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        await server.stop(None)
        raise OSError("it is in use or not an address of this machine") from error
    hosts.link = address.with_port(port)
    await server.start()
    return server


def make_hosts(config: ServeConfig) -> Hosts | None:
    """The places of the group; None when it is on this host alone."""
    if config.hosts is None:
        return None
    return Hosts(config.hosts, version=version("vinf"), device_kind="cuda" if config.uses_cuda else "cpu")


def describe(security: LinkSecurity) -> str:
    """What a host needs to join, for people."""
    needs = [] if security.token_file is None else [f"with the token in {security.token_file}"]
    needs += [] if security.tls is None else [f"with a certificate signed by {security.tls.authority}"]
    return " and ".join(needs)


def with_token(security: LinkSecurity, default_file: Path) -> LinkSecurity:
    """Make a token up where nothing else guards the link; one that was made up earlier goes on to be used."""
    if security.token_file is not None or security.tls is not None:
        return security
    with suppress(FileExistsError):
        file = os.open(default_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as token:
            token.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
    return replace(security, token_file=default_file)
