"""What a frame looks like and when it is shown: numbers that follow from the specification."""

from __future__ import annotations

from vinf.v1 import generation_pb2

BYTES_PER_PIXEL = 3


def frame_size_bytes(spec: generation_pb2.GenerationSpec) -> int:
    """Bytes of one RGB24 frame without padding."""
    return spec.width * spec.height * BYTES_PER_PIXEL


def presentation_time_us(frame_index: int, rate: generation_pb2.Rational) -> int:
    """When a frame is shown, in microseconds from the first one; exact integers, rounded down."""
    return frame_index * rate.den * 1_000_000 // rate.num
