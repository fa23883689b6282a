"""Frames for a client that asks for each lot itself: the request is the credit, and a lost reply is asked for again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vinf.v1 import frame_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError, Violation
from vinf_server.front.frames.delivery import EVICTED, SKIPPED
from vinf_server.front.frames.formats import ENCODING_NAMES, STORED, Format
from vinf_server.front.frames.shared import Picture, SharedFrames
from vinf_server.front.frames.video import Rendition
from vinf_server.front.frames.wire import Parts, frame_field
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import PULL, Handed

Response = video_generation_service_pb2.PullFramesResponse

_FRAMES = Response.DESCRIPTOR.fields_by_name["frames"].number


@dataclass(frozen=True, kw_only=True, slots=True)
class Pull:
    """What a client asked for, checked and with defaults filled in."""

    start: int
    max_frames: int
    max_data_bytes: int
    start_byte: int = 0
    """Above 0: go on with frame `start` there, and with no other."""

    wait_s: float = 0.0
    only_latest: bool = False
    output: Format = STORED
    known_revision: int = 0
    release_before: int = 0


class FramePuller:
    """Answers one pull.

    Args:
      rendition: what is read; in the format that the pull names.
      is_draining: asked before every wait; True ends it.
      release: told that nobody needs the frames before an index.
    """

    def __init__(
        self,
        rendition: Rendition,
        pull: Pull,
        shared: SharedFrames,
        metrics: Metrics,
        *,
        is_draining: Callable[[], bool],
        release: Callable[[int], None] = lambda frame_index: None,
    ) -> None:
        self._rendition = rendition
        self._video = rendition.video
        self._pull = pull
        self._shared = shared
        self._metrics = metrics.delivery
        self._handed = Handed(metrics.delivery, PULL, ENCODING_NAMES[pull.output.encoding])
        self._is_live = not rendition.video.is_terminal
        self._is_draining = is_draining
        self._release = release
        self._pieces: list[_Piece] = []

    async def response(self, *, limit_s: float) -> Response:
        """Choose from the frames that are there, after a wait for the first one if it must be; describe them.

        The generation's state, its error and `end_of_stream` are left to the caller, and the frames to `serialised`.

        Args:
            limit_s: longest wait that the call itself allows.

        Raises:
            FrameEvictedError: the first frame is no longer kept.
            InvalidFieldsError: `start_byte_offset` is not within its frame.
        """
        pull, frames = self._pull, self._video.frames
        if pull.release_before:
            self._release(pull.release_before)
        await self._wait(min(pull.wait_s, limit_s))
        # The latest frame needs none before it.
        first = max(pull.start, frames.first_available) if self._wants_latest else pull.start
        if first < frames.first_available:
            self._metrics.left_out_frames.labels(PULL, EVICTED).inc(frames.first_available - first)
        frames.check_available(first)
        ready = frames.complete_run(first, min(frames.frame_count, self._stop(first)))
        if ready and self._wants_latest:
            first, ready = first + ready - 1, 1
        self._pieces = await self._choose(first, ready)
        return self._description(self._pieces, first)

    async def serialised(self, response: Response) -> bytes:
        """Return the response with the frames that were chosen for it."""
        return await self._shared.in_thread(_join, self._pieces, response)

    def is_last(self, response: Response) -> bool:
        """True when no frame will come after the ones in this response."""
        if response.next_byte_offset:
            return False
        frames = self._video.frames
        following = max(response.next_frame_index, frames.first_available)
        return following >= frames.frame_count or (self._video.is_terminal and not frames.is_complete(following))

    @property
    def _wants_latest(self) -> bool:
        return self._pull.only_latest and not self._pull.start_byte

    def _stop(self, first: int) -> int:
        if self._wants_latest:
            return self._video.frames.frame_count
        return first + (1 if self._pull.start_byte else self._pull.max_frames)

    async def _wait(self, wait_s: float) -> None:
        frames, start = self._video.frames, self._pull.start
        until = time.monotonic() + wait_s
        while start < frames.frame_count and not self._is_there(start):
            left = until - time.monotonic()
            if left <= 0 or self._video.is_terminal or self._is_draining():
                return
            await self._video.changed.wait(timeout_s=left)

    def _is_there(self, start: int) -> bool:
        """True when there is something to answer with; a frame that was dropped is answered with an error."""
        frames = self._video.frames
        kept = frames.first_available
        return start < kept or frames.is_complete(start)

    async def _choose(self, first: int, ready: int) -> list[_Piece]:
        """The slices of up to `ready` frames that fit into the reply."""
        pull, room = self._pull, self._pull.max_data_bytes
        pieces: list[_Piece] = []
        for index in range(first, first + ready):
            picture = await self._shared.picture(self._rendition, index)
            size = len(picture.data)
            if pull.start_byte >= size:
                raise InvalidFieldsError(
                    [Violation("start_byte_offset", f"must be in [0, {size - 1}] bytes, got {pull.start_byte}")]
                )
            if pieces and size > room:
                break
            end = min(size, pull.start_byte + room)
            pieces.append(_Piece(self._rendition.facts(index), picture, pull.start_byte, end))
            room -= end - pull.start_byte
            if end < size:
                break
        return pieces

    def _description(self, pieces: Sequence[_Piece], first: int) -> Response:
        pull, frames, header = self._pull, self._video.frames, self._rendition.header
        response = Response()
        kept = frames.first_available
        response.first_available_frame_index = kept
        response.next_frame_index, response.next_byte_offset = pull.start, pull.start_byte
        if pieces:
            last = pieces[-1]
            is_whole = last.end == len(last.picture.data)
            response.next_frame_index = last.facts.frame_index + is_whole
            response.next_byte_offset = 0 if is_whole else last.end
            response.skipped_frame_count = first - pull.start
            self._metrics.left_out_frames.labels(PULL, SKIPPED).inc(first - pull.start)
            for piece in pieces:
                if self._is_live and piece.begin == 0:
                    self._handed.sending(piece.facts.generate_time_us)
            for piece in pieces[: len(pieces) - (not is_whole)]:
                self._handed.whole(len(piece.picture.data))
        newest = frames.next_missing - 1
        sent = pieces[-1].facts.frame_index if pieces else -1  # perhaps beyond a frame that is still missing
        response.latest_frame_index = max(newest if newest >= kept else -1, sent)
        if pull.known_revision != header.format_revision:
            response.format.CopyFrom(header)
        return response


@dataclass(frozen=True, slots=True)
class _Piece:
    facts: frame_pb2.Frame
    picture: Picture
    begin: int
    end: int


def _join(pieces: Sequence[_Piece], response: Response) -> bytes:
    parts: Parts = [response.SerializeToString()]
    for piece in pieces:
        picture = piece.picture
        parts += frame_field(_FRAMES, piece.facts, picture.data, picture.crc32c, piece.begin, piece.end)
    return b"".join(parts)
