"""A front that a test plays for what a rank sends: a real gRPC server on a socket of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_server.rank.link import Link

EPOCH = 7
WAIT = 20.0
"""Seconds for what takes milliseconds."""


class KeepingFront(pb_grpc.EngineLinkServiceServicer):
    """Keeps the previews and traces that come, and answers when it may."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.came = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.refuse = False

    def SendPreview(self, request: pb.SendPreviewRequest, context: grpc.ServicerContext) -> pb.SendPreviewResponse:
        self._keep(request, context)
        return pb.SendPreviewResponse()

    def SendTrace(self, request: pb.SendTraceRequest, context: grpc.ServicerContext) -> pb.SendTraceResponse:
        self._keep(request, context)
        return pb.SendTraceResponse()

    def _keep(self, request: Any, context: grpc.ServicerContext) -> None:
        assert dict(context.invocation_metadata())["vinf-epoch"] == str(EPOCH)
        self.requests.append(request)
        self.came.set()
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "an older epoch")
        self.answers.wait(WAIT)


@contextmanager
def linked(servicer: pb_grpc.EngineLinkServiceServicer, folder: Path) -> Iterator[Link]:
    """A rank's link to a front, which serves as long as the block runs."""
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_EngineLinkServiceServicer_to_server(servicer, server)
    address = f"unix:{folder}/link"
    server.add_insecure_port(address)
    server.start()
    try:
        yield Link(address, epoch=EPOCH)
    finally:
        server.stop(None).wait()
