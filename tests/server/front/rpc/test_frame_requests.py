"""Every range of the contract of requests for frames at its edges."""

from __future__ import annotations

import pytest
from google.protobuf import duration_pb2

from tests.server.fakes import normalised_spec
from vinf.v1 import frame_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError
from vinf_server.front.frames.formats import Format
from vinf_server.front.rpc.frame_requests import check_pull, check_stream

pytestmark = pytest.mark.fast

Stream = video_generation_service_pb2.StreamFramesRequest
Pull = video_generation_service_pb2.PullFramesRequest
Output = frame_pb2.OutputFormat
RAW, JPEG, PNG = 1, 2, 3
RGB24, RGBA8, BGRA8, NV12 = 1, 2, 3, 4
BOTTOM_UP = frame_pb2.ROW_ORDER_BOTTOM_UP
FRAME = 64 * 64 * 3


def spec(width=64, height=64):
    result = normalised_spec(frame_count=10)
    result.width, result.height = width, height
    return result


def violated(call, *arguments) -> dict[str, str]:
    with pytest.raises(InvalidFieldsError) as caught:
        call(*arguments)
    return {violation.field: violation.description for violation in caught.value.violations}


def duration(seconds, nanos=0):
    return duration_pb2.Duration(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 10, True, 1 << 17, 10.0)),
        ({"start_frame_index": 10}, (10, 10, False, 1 << 17, 10.0)),
        ({"start_frame_index": 3, "end_frame_index": 3}, (3, 3, False, 1 << 17, 10.0)),
        ({"end_frame_index": 10, "max_data_bytes": 65_536}, (0, 10, False, 65_536, 10.0)),
        ({"max_data_bytes": 67_108_864, "keepalive_interval": duration(60)}, (0, 10, True, 67_108_864, 60.0)),
        ({"keepalive_interval": duration(1)}, (0, 10, True, 1 << 17, 1.0)),
    ],
)
def test_stream_window(fields, expected):
    window = check_stream(Stream(**fields), spec())
    assert (window.start, window.stop, window.to_the_end, window.max_data_bytes, window.keepalive_s) == expected
    assert (window.output, window.only_latest, window.releases) == (Format(), False, False)


def test_stream_wishes():
    window = check_stream(Stream(delivery=2, release_sent_frames=True), spec())
    assert (window.only_latest, window.releases) == (True, True)
    assert not check_stream(Stream(delivery=1), spec()).only_latest


BAD_STREAMS = [
    ({"start_frame_index": -1}, "start_frame_index"),
    ({"start_frame_index": 11}, "start_frame_index"),
    ({"end_frame_index": 11}, "end_frame_index"),
    ({"end_frame_index": -1}, "end_frame_index"),
    ({"start_frame_index": 5, "end_frame_index": 4}, "end_frame_index"),
    ({"max_data_bytes": 65_535}, "max_data_bytes"),
    ({"max_data_bytes": 67_108_865}, "max_data_bytes"),
    ({"max_data_bytes": -1}, "max_data_bytes"),
    ({"keepalive_interval": duration(0)}, "keepalive_interval"),
    ({"keepalive_interval": duration(0, 999_999_999)}, "keepalive_interval"),
    ({"keepalive_interval": duration(60, 1)}, "keepalive_interval"),
    ({"keepalive_interval": duration(2, -5)}, "keepalive_interval"),
    ({"delivery": 3}, "delivery"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_STREAMS)
def test_bad_stream_request(fields, field):
    assert list(violated(check_stream, Stream(**fields), spec())) == [field]


FORMATS = [
    ({}, Format()),
    ({"encoding": RAW, "pixel_format": RGB24, "row_alignment_bytes": 1, "row_order": 1}, Format()),
    ({"pixel_format": BGRA8, "row_alignment_bytes": 256}, Format(pixel_format=BGRA8, row_alignment=256)),
    ({"pixel_format": NV12, "row_order": BOTTOM_UP}, Format(pixel_format=NV12, row_order=BOTTOM_UP)),
    ({"encoding": JPEG}, Format(encoding=JPEG, jpeg_quality=90)),
    ({"encoding": JPEG, "jpeg_quality": 1}, Format(encoding=JPEG, jpeg_quality=1)),
    ({"encoding": JPEG, "jpeg_quality": 100, "pixel_format": RGB24}, Format(encoding=JPEG, jpeg_quality=100)),
    # What a format does not use makes no format of its own.
    ({"encoding": PNG, "jpeg_quality": 7, "row_alignment_bytes": 64}, Format(encoding=PNG)),
    ({"pixel_format": RGBA8, "jpeg_quality": 7}, Format(pixel_format=RGBA8)),
]


@pytest.mark.parametrize(("fields", "expected"), FORMATS)
def test_format_within_its_ranges(fields, expected):
    output = Output(**fields)
    assert check_stream(Stream(output_format=output), spec()).output == expected
    assert check_pull(Pull(output_format=output), spec()).output == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"encoding": 4}, "encoding"),
        ({"encoding": -1}, "encoding"),
        ({"pixel_format": 5}, "pixel_format"),
        ({"encoding": JPEG, "pixel_format": 5}, "pixel_format"),
        ({"encoding": JPEG, "pixel_format": RGBA8}, "pixel_format"),
        ({"encoding": PNG, "pixel_format": NV12}, "pixel_format"),
        ({"row_alignment_bytes": -1}, "row_alignment_bytes"),
        ({"row_alignment_bytes": 3}, "row_alignment_bytes"),
        ({"row_alignment_bytes": 512}, "row_alignment_bytes"),
        ({"row_alignment_bytes": -(2**31)}, "row_alignment_bytes"),
        ({"row_order": 3}, "row_order"),
        ({"encoding": PNG, "row_order": BOTTOM_UP}, "row_order"),
        ({"encoding": JPEG, "jpeg_quality": 101}, "jpeg_quality"),
        ({"jpeg_quality": -1}, "jpeg_quality"),
    ],
)
def test_format_outside_its_ranges(fields, field):
    output = Output(**fields)
    assert list(violated(check_stream, Stream(output_format=output), spec())) == [f"output_format.{field}"]
    assert list(violated(check_pull, Pull(output_format=output), spec())) == [f"output_format.{field}"]


@pytest.mark.parametrize(("width", "height"), [(63, 64), (64, 33)])
def test_case_14_nv12_of_odd_sizes_is_refused(width, height):
    request = Stream(output_format=Output(pixel_format=NV12))
    texts = violated(check_stream, request, spec(width, height))
    expected = f"NV12 wants an even width and height, these frames have {width} x {height} pixels"
    assert texts == {"output_format.pixel_format": expected}


def test_pull_defaults():
    pull = check_pull(Pull(), spec())
    assert (pull.start, pull.max_frames, pull.max_data_bytes, pull.start_byte) == (0, 1, 4_128_768, 0)
    assert (pull.wait_s, pull.only_latest, pull.known_revision, pull.release_before) == (0.0, False, 0, 0)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"start_frame_index": 10}, "start", 10),
        ({"max_frames": 64}, "max_frames", 64),
        ({"max_data_bytes": 65_536}, "max_data_bytes", 65_536),
        ({"start_byte_offset": FRAME - 1}, "start_byte", FRAME - 1),
        ({"wait": duration(30)}, "wait_s", 30.0),
        ({"wait": duration(0, 1)}, "wait_s", 1e-9),
        ({"delivery": 2}, "only_latest", True),
        ({"known_format_revision": 2**31 - 1}, "known_revision", 2**31 - 1),
        ({"release_before_frame_index": 10}, "release_before", 10),
    ],
)
def test_pull_within_its_ranges(fields, name, value):
    assert getattr(check_pull(Pull(**fields), spec()), name) == value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start_frame_index": -1}, "start_frame_index"),
        ({"start_frame_index": 11}, "start_frame_index"),
        ({"max_frames": -1}, "max_frames"),
        ({"max_frames": 65}, "max_frames"),
        ({"max_data_bytes": 65_535}, "max_data_bytes"),
        ({"max_data_bytes": 67_108_865}, "max_data_bytes"),
        ({"start_byte_offset": -1}, "start_byte_offset"),
        ({"start_byte_offset": FRAME}, "start_byte_offset"),
        ({"start_frame_index": 10, "start_byte_offset": 1}, "start_byte_offset"),
        ({"wait": duration(-1)}, "wait"),
        ({"wait": duration(30, 1)}, "wait"),
        ({"wait": duration(2, -5)}, "wait"),
        ({"delivery": 3}, "delivery"),
        ({"known_format_revision": -1}, "known_format_revision"),
        ({"release_before_frame_index": -1}, "release_before_frame_index"),
        ({"release_before_frame_index": 11}, "release_before_frame_index"),
    ],
)
def test_bad_pull_request(fields, field):
    texts = violated(check_pull, Pull(**fields), spec())
    assert list(texts) == [field]
    assert "must be" in texts[field]
    assert "got " in texts[field]


def test_offsets_end_with_the_frame_in_its_format():
    output = Output(pixel_format=RGBA8)
    assert check_pull(Pull(start_byte_offset=FRAME, output_format=output), spec()).start_byte == FRAME
    # How large a compressed frame is turns out when it is made.
    output = Output(encoding=PNG)
    assert check_pull(Pull(start_byte_offset=10**9, output_format=output), spec()).start_byte == 10**9


def test_all_violations_come_at_once():
    output = Output(encoding=JPEG, pixel_format=NV12, row_alignment_bytes=3, row_order=BOTTOM_UP, jpeg_quality=101)
    stream = Stream(
        start_frame_index=-1,
        end_frame_index=-1,
        max_data_bytes=1,
        keepalive_interval=duration(0),
        output_format=output,
        delivery=9,
    )
    assert len(violated(check_stream, stream, spec())) == 4 + 4 + 1
    pull = Pull(
        start_frame_index=-1,
        max_frames=-1,
        max_data_bytes=1,
        start_byte_offset=-1,
        wait=duration(-1),
        delivery=9,
        output_format=output,
        known_format_revision=-1,
        release_before_frame_index=-1,
    )
    assert len(violated(check_pull, pull, spec())) == 8 + 4
