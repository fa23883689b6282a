"""How frames leave the fake server: in order along a stream, or pull by pull."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import google_crc32c
import grpc

from vinf.v1 import frame_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client.testing._generation import FakeGeneration
from vinf_client.testing._pixels import Form

if TYPE_CHECKING:
    from vinf_client.testing._server import FakeServer

_STREAM_BYTES = 131_072
_PULL_BYTES = 4 * 1024 * 1024 - 64 * 1024
_KEEPALIVE = 10.0  # seconds


class FakeStream:
    """One call of StreamFrames."""

    def __init__(
        self,
        server: FakeServer,
        generation: FakeGeneration,
        request: service_pb.StreamFramesRequest,
        context: grpc.ServicerContext,
    ) -> None:
        self._server, self._generation, self._context = server, generation, context
        self._form = Form(generation.spec, request.output_format)
        self._is_latest = request.delivery == service_pb.DELIVERY_LATEST
        self._size = request.max_data_bytes or _STREAM_BYTES
        self._keepalive = request.keepalive_interval.ToTimedelta().total_seconds() or _KEEPALIVE
        self._index = request.start_frame_index
        self._stop = request.end_frame_index or generation.spec.frame_count

    def messages(self) -> Iterator[service_pb.StreamFramesResponse]:
        """Yield the header, frames as they are made, and the end."""
        yield service_pb.StreamFramesResponse(header=self._form.header)
        while self._server.is_open(self._context):
            if not self._wait():
                keepalive = service_pb.StreamKeepalive()
                keepalive.server_time.FromNanoseconds(time.time_ns())
                yield service_pb.StreamFramesResponse(keepalive=keepalive)
                continue
            newest = min(self._generation.next_frame, self._stop) - 1
            if self._index > newest:
                yield service_pb.StreamFramesResponse(end=self._end())
                return
            if self._is_latest and newest > self._index:
                gap = service_pb.FrameGap(
                    first_missing_frame_index=self._index, next_frame_index=newest, reason="SKIPPED"
                )
                yield service_pb.StreamFramesResponse(gap=gap)
                self._index = newest
            self._misbehave()
            yield from self._slices()
            self._index += 1

    def _wait(self) -> bool:
        """Return whether a frame or the end is due; False: only a sign of life."""
        until = time.monotonic() + self._keepalive
        with self._server.changed:
            while self._server.is_open(self._context):
                generation = self._generation
                if (
                    min(generation.next_frame, self._stop) > self._index
                    or generation.ended
                    or self._index >= self._stop
                ):
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._server.wait(min(left, generation.until_change()), self._context)
        return False

    def _misbehave(self) -> None:
        """Do what the script has for the frame that is due."""
        generation, index = self._generation, self._index
        with self._server.changed:
            breaks = index in generation.pending_breaks
            generation.pending_breaks.discard(index)
            is_silent = index in generation.pending_silences
            generation.pending_silences.discard(index)
            while is_silent and self._server.is_open(self._context):
                self._server.wait(None, self._context)
        if breaks:
            self._context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke, as the script says")

    def _slices(self) -> Iterator[service_pb.StreamFramesResponse]:
        data = self._form.data(self._index)
        for offset in range(0, len(data), self._size):
            message = cut(self._generation, self._form, self._index, data, offset, self._size)
            yield service_pb.StreamFramesResponse(frame=message)

    def _end(self) -> service_pb.StreamEnd:
        generation = self._generation
        return service_pb.StreamEnd(state=generation.state, error=generation.error, next_frame_index=self._index)


class FakePull:
    """One call of PullFrames."""

    def __init__(
        self,
        server: FakeServer,
        generation: FakeGeneration,
        request: service_pb.PullFramesRequest,
        context: grpc.ServicerContext,
    ) -> None:
        self._server, self._generation, self._context = server, generation, context
        self._request = request
        self._form = Form(generation.spec, request.output_format)
        self._is_latest = request.delivery == service_pb.DELIVERY_LATEST and not request.start_byte_offset

    def response(self) -> service_pb.PullFramesResponse:
        """Return what is there, after a wait for the first frame."""
        request, generation = self._request, self._generation
        with self._server.changed:
            self._wait()
            made, ended, state, error = generation.next_frame, generation.ended, generation.state, generation.error
        response = service_pb.PullFramesResponse(
            next_frame_index=request.start_frame_index,
            next_byte_offset=request.start_byte_offset,
            first_available_frame_index=min(generation.script.evict_before, made),
            latest_frame_index=made - 1,
            state=state,
            error=error,
        )
        if request.known_format_revision != self._form.header.format_revision:
            response.format.CopyFrom(self._form.header)
        first = request.start_frame_index
        if self._is_latest and made > first:
            first = made - 1
        response.skipped_frame_count = first - request.start_frame_index
        self._fill(response, first, made)
        at_end = response.next_frame_index >= generation.spec.frame_count
        response.end_of_stream = not response.next_byte_offset and (
            at_end or (ended and response.next_frame_index >= made)
        )
        return response

    def _wait(self) -> None:
        request, generation = self._request, self._generation
        wait = request.wait.ToTimedelta().total_seconds()
        limit = self._context.time_remaining()
        until = time.monotonic() + (wait if limit is None else min(wait, limit - 0.5))
        start = request.start_frame_index
        while self._server.is_open(self._context) and start < generation.spec.frame_count:
            left = until - time.monotonic()
            if generation.next_frame > start or generation.ended or left <= 0:
                return
            self._server.wait(min(left, generation.until_change()), self._context)

    def _fill(self, response: service_pb.PullFramesResponse, first: int, made: int) -> None:
        request = self._request
        room = request.max_data_bytes or _PULL_BYTES
        offset = request.start_byte_offset
        most = 1 if self._is_latest or offset else (request.max_frames or 1)
        for index in range(first, min(made, first + most)):
            data = self._form.data(index)
            if response.frames and len(data) > room:
                return
            message = cut(self._generation, self._form, index, data, offset, room)
            response.frames.append(message)
            end = offset + len(message.data)
            is_whole = end == len(data)
            response.next_frame_index, response.next_byte_offset = index + is_whole, 0 if is_whole else end
            room -= len(message.data)
            if not is_whole:
                return


def cut(generation: FakeGeneration, form: Form, index: int, data: bytes, offset: int, size: int) -> frame_pb2.Frame:
    """Return a slice of a frame; its last one has the checksum, a wrong one where the script says so."""
    message = form.facts(index)
    message.data_offset_bytes, message.data_size_bytes = offset, len(data)
    message.data = data[offset : offset + size]
    message.crc32c = -1
    if offset + size >= len(data):
        is_damaged = index in generation.pending_damages
        generation.pending_damages.discard(index)
        message.crc32c = google_crc32c.value(data) ^ is_damaged
    return message
