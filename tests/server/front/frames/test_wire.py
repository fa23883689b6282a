"""Messages put together by hand are those that protobuf makes."""

from __future__ import annotations

import pytest

from vinf.v1 import frame_pb2
from vinf.v1.video_generation_service_pb2 import PullFramesResponse, StreamFramesResponse
from vinf_server.front.frames.wire import frame_field

pytestmark = pytest.mark.fast

FACTS = frame_pb2.Frame(frame_index=300, presentation_time_us=12_500_000, generate_time_us=1 << 50, format_revision=1)


@pytest.mark.parametrize("size", [1, 100, 127, 128, 16_000, 16_384, 3_000_000])
@pytest.mark.parametrize("crc32c", [0, 1, 2**32 - 1])
def test_a_whole_frame(size: int, crc32c: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    parts = frame_field(2, FACTS, memoryview(data)[:size], crc32c, 0, size)
    wanted = frame_pb2.Frame(data_size_bytes=size, crc32c=crc32c, data=data[:size])
    wanted.MergeFrom(FACTS)
    assert StreamFramesResponse.FromString(b"".join(parts)) == StreamFramesResponse(frame=wanted)


@pytest.mark.parametrize(("begin", "end", "crc32c"), [(0, 400, -1), (400, 900, -1), (900, 1000, 77)])
def test_slices_of_a_frame(begin: int, end: int, crc32c: int) -> None:
    data = bytes(range(250)) * 4
    joined = b"".join(frame_field(1, FACTS, memoryview(data), 77, begin, end))
    wanted = frame_pb2.Frame(data_offset_bytes=begin, data_size_bytes=1000, crc32c=crc32c, data=data[begin:end])
    wanted.MergeFrom(FACTS)
    reply = PullFramesResponse(next_frame_index=301)
    found = PullFramesResponse.FromString(reply.SerializeToString() + joined + joined)
    assert found == PullFramesResponse(next_frame_index=301, frames=[wanted, wanted])
