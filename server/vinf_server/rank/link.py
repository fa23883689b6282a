"""The rank's channel to the front; when it breaks, the rank leaves (crash-only)."""

from __future__ import annotations

import logging
import os
import threading

import grpc

from vinf.engine.v1.engine_link_service_pb2_grpc import EngineLinkServiceStub
from vinf_server.link_security import UNIX_SOCKET, LinkSecurity, open_channel

logger = logging.getLogger(__name__)


class Link:
    """Channel, stub and metadata that every call to the front carries."""

    def __init__(self, address: str, epoch: int, security: LinkSecurity = UNIX_SOCKET) -> None:
        self._channel = open_channel(address, security)
        self.stub = EngineLinkServiceStub(self._channel)
        self.metadata = (("vinf-epoch", str(epoch)), *security.metadata())
        self._stopping = threading.Event()

    def leave(self) -> None:
        """From now on a broken stream is expected."""
        self._stopping.set()

    def lost(self, stream: str, error: grpc.RpcError | None) -> None:
        """End the process because a stream to the front broke; no collective may run any more.

        ``os._exit``: the main thread may sit in a collective that nothing but the end of the process interrupts.
        """
        if self._stopping.is_set():
            return
        detail = error.details() if isinstance(error, grpc.Call) else "the stream ended"
        logger.error("lost the front: %s: %s", stream, detail)
        logging.shutdown()
        os._exit(1)
