"""What a frame looks like and when it is shown: numbers that follow from the specification."""

from __future__ import annotations

from vinf.v1 import frame_pb2, generation_pb2

BYTES_PER_PIXEL = 3


def frame_size_bytes(spec: generation_pb2.GenerationSpec) -> int:
    """Bytes of one RGB24 frame without padding."""
    return spec.width * spec.height * BYTES_PER_PIXEL


def presentation_time_us(frame_index: int, rate: generation_pb2.Rational) -> int:
    """When a frame is shown, in microseconds from the first one; exact integers, rounded down."""
    return frame_index * rate.den * 1_000_000 // rate.num


def video_format(spec: generation_pb2.GenerationSpec) -> frame_pb2.VideoFormat:
    """The header of a stream of this video."""
    return frame_pb2.VideoFormat(
        width=spec.width,
        height=spec.height,
        frame_rate=spec.frame_rate,
        pixel_format=frame_pb2.PIXEL_FORMAT_RGB24,
        frame_size_bytes=frame_size_bytes(spec),
        frame_count=spec.frame_count,
    )
