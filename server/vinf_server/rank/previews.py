"""Carries a rank's previews to the front, beside the engine's own thread."""

from __future__ import annotations

import logging
import threading

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.diffusion.preview import Preview
from vinf_server.rank.link import Link

logger = logging.getLogger(__name__)

SEND_SECONDS = 10.0
"""Longest a preview may be on its way, and keep the next ones from being made."""


class LinkPreviews:
    """The engine's `PreviewSink` for one generation, at the front.

    One preview at a time is on its way, sent by a thread of its own; what the front does not take is lost.
    """

    def __init__(self, link: Link, rank: int, generation_id: str) -> None:
        self._link = link
        self._rank = rank
        self._generation_id = generation_id
        self._idle = threading.Event()
        self._idle.set()

    @property
    def has_room(self) -> bool:
        """Whether nothing is under way."""
        return self._idle.is_set()

    def send(self, preview: Preview) -> None:
        """Send a preview off. There must be room."""
        self._idle.clear()
        threading.Thread(target=self._send, args=(preview,), name="vinf-preview", daemon=True).start()

    def _send(self, preview: Preview) -> None:
        try:
            preview.wait()
            self._link.stub.SendPreview(self._request(preview), metadata=self._link.metadata, timeout=SEND_SECONDS)
        except grpc.RpcError as error:
            detail = error.details() if isinstance(error, grpc.Call) else str(error)
            logger.warning("generation %s: a preview is lost: %s", self._generation_id, detail)
        finally:
            self._idle.set()

    def _request(self, preview: Preview) -> pb.SendPreviewRequest:
        _, height, width, _ = preview.pictures.shape
        return pb.SendPreviewRequest(
            generation_id=self._generation_id,
            rank=self._rank,
            step=preview.completed_steps,
            pictures=[
                pb.PreviewPicture(frame_index=frame, width=width, height=height, data=picture.numpy().tobytes())
                for frame, picture in zip(preview.frames, preview.pictures, strict=True)
            ],
        )
