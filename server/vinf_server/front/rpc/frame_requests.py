"""Requests for frames against their documented ranges: every violation at once."""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2

from vinf.v1 import frame_pb2, generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError, Violation
from vinf_server.front.frames.delivery import Window
from vinf_server.front.frames.formats import (
    BOTTOM_UP,
    DEFAULT_JPEG_QUALITY,
    JPEG,
    NV12,
    RAW,
    RGB24,
    TOP_DOWN,
    Format,
    PixelFormat,
    RowOrder,
    video_format,
)
from vinf_server.front.frames.pulling import Pull
from vinf_server.front.rpc.durations import seconds
from vinf_server.front.rpc.spec import range_text

MIN_DATA_BYTES, MAX_DATA_BYTES = 65_536, 67_108_864
DEFAULT_STREAM_BYTES = 1 << 17
"""The contract allows 1 MiB. Other calls wait while the transport takes a message: beside four readers of 8 MB frames
the slowest hundredth of them takes a third of the time that it takes with messages of 1 MiB."""

DEFAULT_PULL_BYTES = (4 << 20) - (64 << 10)
DEFAULT_KEEPALIVE_S = 10.0
MIN_KEEPALIVE_S, MAX_KEEPALIVE_S = 1.0, 60.0
MAX_WAIT_S = 30.0
MAX_PULLED_FRAMES = 64
MAX_ALIGNMENT_BYTES = 256
MAX_REVISION = 2**31 - 1


def check_stream(
    request: video_generation_service_pb2.StreamFramesRequest, spec: generation_pb2.GenerationSpec
) -> Window:
    """Return what a reader of a stream wants, defaults filled in.

    Raises:
        InvalidFieldsError: with all violations.
    """
    fields = _Fields()
    frame_count, start, end = spec.frame_count, request.start_frame_index, request.end_frame_index
    fields.check_range("start_frame_index", start, 0, frame_count, unit="frames")
    if end:
        fields.check_range("end_frame_index", end, max(0, start), frame_count, unit="frames", zero="to the end")
    keepalive_s = DEFAULT_KEEPALIVE_S
    if request.HasField("keepalive_interval"):
        keepalive_s = fields.seconds(
            "keepalive_interval", request.keepalive_interval, MIN_KEEPALIVE_S, MAX_KEEPALIVE_S, DEFAULT_KEEPALIVE_S
        )
    window = Window(
        start=start,
        stop=end or frame_count,
        # A reader that starts behind the last frame asks for the end and gets it at once.
        to_the_end=end == 0 and start < frame_count,
        max_data_bytes=fields.data_bytes(request.max_data_bytes, DEFAULT_STREAM_BYTES),
        keepalive_s=keepalive_s,
        output=fields.output_format(request.output_format, spec),
        only_latest=fields.wants_latest(request.delivery),
        releases=request.release_sent_frames,
    )
    fields.raise_if_any()
    return window


def check_pull(request: video_generation_service_pb2.PullFramesRequest, spec: generation_pb2.GenerationSpec) -> Pull:
    """Return what a client that pulls wants, defaults filled in.

    Raises:
        InvalidFieldsError: with all violations.
    """
    fields = _Fields()
    frame_count = spec.frame_count
    fields.check_range("start_frame_index", request.start_frame_index, 0, frame_count, unit="frames")
    fields.check_range("max_frames", request.max_frames, 0, MAX_PULLED_FRAMES, unit="frames", zero="1")
    fields.check_range("release_before_frame_index", request.release_before_frame_index, 0, frame_count, unit="frames")
    fields.check_range("known_format_revision", request.known_format_revision, 0, MAX_REVISION)
    output = fields.output_format(request.output_format, spec)
    largest = fields.largest_frame(output, spec) if request.start_frame_index != frame_count else 1
    fields.check_range("start_byte_offset", request.start_byte_offset, 0, largest - 1, unit="bytes")
    pull = Pull(
        start=request.start_frame_index,
        max_frames=request.max_frames or 1,
        max_data_bytes=fields.data_bytes(request.max_data_bytes, DEFAULT_PULL_BYTES),
        start_byte=request.start_byte_offset,
        wait_s=fields.seconds("wait", request.wait, 0.0, MAX_WAIT_S, 0.0),
        only_latest=fields.wants_latest(request.delivery),
        output=output,
        known_revision=request.known_format_revision,
        release_before=request.release_before_frame_index,
    )
    fields.raise_if_any()
    return pull


class _Fields:
    """Reads fields and keeps every violation; what it returns is worthless if there are any."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def raise_if_any(self) -> None:
        if self._violations:
            raise InvalidFieldsError(self._violations)

    def check_range(self, name: str, value: float, low: float, high: float, *, unit: str = "", zero: str = "") -> None:
        if not low <= value <= high:
            self._violations.append(Violation(name, range_text(value, low, high, unit=unit, zero=zero)))

    def data_bytes(self, value: int, default: int) -> int:
        if value:
            self.check_range("max_data_bytes", value, MIN_DATA_BYTES, MAX_DATA_BYTES, unit="bytes", zero=str(default))
        return value or default

    def seconds(self, name: str, value: duration_pb2.Duration, low: float, high: float, default: float) -> float:
        found = seconds(value)
        if not low <= found <= high:
            allowed = range_text(found, low, high, unit="seconds")
            self._violations.append(Violation(name, f"{allowed} (unset = {default:g} seconds)"))
        return found

    def wants_latest(self, value: video_generation_service_pb2.Delivery.ValueType) -> bool:
        self._check_known("delivery", value, video_generation_service_pb2.Delivery)
        return value == video_generation_service_pb2.DELIVERY_LATEST

    def largest_frame(self, output: Format, spec: generation_pb2.GenerationSpec) -> int:
        """Bytes no frame has more of; how many one has is known beforehand of raw frames only."""
        if any(violation.field.startswith("output_format") for violation in self._violations):
            return 2**63
        return video_format(spec, output).frame_size_bytes or 2**63

    def output_format(self, wanted: frame_pb2.OutputFormat, spec: generation_pb2.GenerationSpec) -> Format:
        """What a reader wants its frames in; what the encoding does not use has its default."""
        encoding, pixel_format = wanted.encoding or RAW, wanted.pixel_format or RGB24
        row_order, alignment = wanted.row_order or TOP_DOWN, wanted.row_alignment_bytes
        prefix = "output_format."
        self._check_known(f"{prefix}encoding", encoding, frame_pb2.FrameEncoding)
        self._check_known(f"{prefix}pixel_format", pixel_format, frame_pb2.PixelFormat)
        self._check_known(f"{prefix}row_order", row_order, frame_pb2.RowOrder)
        if alignment and not (1 <= alignment <= MAX_ALIGNMENT_BYTES and alignment & (alignment - 1) == 0):
            allowed = f"must be a power of two in [1, {MAX_ALIGNMENT_BYTES}] bytes (default 1), got {alignment}"
            self._violations.append(Violation(f"{prefix}row_alignment_bytes", allowed))
        quality, default = wanted.jpeg_quality, DEFAULT_JPEG_QUALITY
        if quality:
            self.check_range(f"{prefix}jpeg_quality", quality, 1, 100, zero=str(default))
        if encoding != RAW:
            self._check_compressed(prefix, pixel_format, row_order)
            return Format(encoding=encoding, jpeg_quality=(quality or default) if encoding == JPEG else default)
        if pixel_format == NV12 and (spec.width % 2 or spec.height % 2):
            wrong = f"NV12 wants an even width and height, these frames have {spec.width} x {spec.height} pixels"
            self._violations.append(Violation(f"{prefix}pixel_format", wrong))
        return Format(pixel_format=pixel_format, row_alignment=alignment or 1, row_order=row_order)

    def _check_compressed(self, prefix: str, pixel_format: PixelFormat, row_order: RowOrder) -> None:
        if pixel_format != RGB24 and pixel_format in frame_pb2.PixelFormat.values():
            name = frame_pb2.PixelFormat.Name(pixel_format).removeprefix("PIXEL_FORMAT_")
            wrong = f"must be RGB24 with JPEG and PNG, got {name}"
            self._violations.append(Violation(f"{prefix}pixel_format", wrong))
        if row_order == BOTTOM_UP:
            wrong = "must be TOP_DOWN with JPEG and PNG, got BOTTOM_UP"
            self._violations.append(Violation(f"{prefix}row_order", wrong))

    def _check_known(self, name: str, value: int, kind: Any) -> None:
        known = kind.values()
        if value not in known:
            self._violations.append(
                Violation(name, f"must be a {kind.DESCRIPTOR.name} in [0, {max(known)}], got {value}")
            )
