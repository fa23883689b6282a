"""Every format byte by byte, and the number that names it."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image

from tests.server.fakes import normalised_spec
from vinf.v1 import frame_pb2
from vinf_server.front.frames.conversion import convert
from vinf_server.front.frames.formats import BOTTOM_UP, JPEG, NV12, PNG, RGB24, STORED, TOP_DOWN, Format, video_format

pytestmark = pytest.mark.fast

RGBA8, BGRA8 = frame_pb2.PIXEL_FORMAT_RGBA8, frame_pb2.PIXEL_FORMAT_BGRA8
REVISION_OF_64_BY_64 = 53697953

PIXELS = bytes(range(1, 19))
"""Three pixels in each of two rows."""


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Format(), PIXELS),
        (Format(row_alignment=4), PIXELS[:9] + bytes(3) + PIXELS[9:] + bytes(3)),
        (Format(row_order=BOTTOM_UP), PIXELS[9:] + PIXELS[:9]),
        (Format(row_alignment=16, row_order=BOTTOM_UP), PIXELS[9:] + bytes(7) + PIXELS[:9] + bytes(7)),
        (
            Format(pixel_format=RGBA8),
            bytes([1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 255, 10, 11, 12, 255, 13, 14, 15, 255, 16, 17, 18, 255]),
        ),
        (
            Format(pixel_format=BGRA8, row_alignment=8, row_order=BOTTOM_UP),
            bytes([12, 11, 10, 255, 15, 14, 13, 255, 18, 17, 16, 255, 0, 0, 0, 0])
            + bytes([3, 2, 1, 255, 6, 5, 4, 255, 9, 8, 7, 255, 0, 0, 0, 0]),
        ),
    ],
    ids=["rgb24", "aligned", "bottom up", "aligned bottom up", "rgba8", "bgra8"],
)
def test_bytes_of_packed_pixels(output, expected):
    assert bytes(convert(PIXELS, 3, 2, output)) == expected


def reference_nv12(colors):
    """BT.709 in limited range, as its definition says, in floating point and without rounding."""
    red, green, blue = np.moveaxis(colors.astype(np.float64) / 255, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748


def planes_of(frame, header):
    """The planes as the header describes them, paddings cut off."""
    data = np.frombuffer(frame, np.uint8)
    for plane in header.planes:
        end = plane.offset_bytes + plane.stride_bytes * plane.row_count
        yield data[plane.offset_bytes : end].reshape(plane.row_count, plane.stride_bytes)[:, : plane.row_bytes]


@pytest.mark.parametrize(("row_order", "alignment"), list(product((TOP_DOWN, BOTTOM_UP), (1, 64))))
def test_nv12_is_the_nearest_to_its_definition(row_order, alignment):
    colors = picture(34, 70)
    colors[:2, :6] = [[[0, 0, 0]] * 2 + [[255, 255, 255]] * 2 + [[255, 0, 0]] * 2] * 2
    output = Format(pixel_format=NV12, row_order=row_order, row_alignment=alignment)
    header = header_of(34, 70, output)
    frame = convert(colors.tobytes(), 34, 70, output)
    assert len(frame) == header.frame_size_bytes
    luma, chroma = planes_of(frame, header)
    if row_order == BOTTOM_UP:
        luma, chroma = luma[::-1], chroma[::-1]
    means = colors.reshape(35, 2, 17, 2, 3).mean(axis=(1, 3))
    expected_luma, (_, cb, cr) = reference_nv12(colors)[0], reference_nv12(means)
    chroma = chroma.reshape(35, 17, 2)
    for found, expected in ((luma, expected_luma), (chroma[..., 0], cb), (chroma[..., 1], cr)):
        assert np.abs(found - expected).max() <= 0.502
    assert luma[0, :6].tolist() == [16, 16, 235, 235, 63, 63]
    assert chroma[0, :3].tolist() == [[128, 128], [128, 128], [102, 240]]


def header_of(width, height, output):
    spec = normalised_spec()
    spec.width, spec.height = width, height
    return video_format(spec, output)


@pytest.mark.parametrize(
    ("output", "planes"),
    [
        (Format(), [(0, 30, 30, 6)]),
        (Format(row_alignment=256), [(0, 256, 30, 6)]),
        (Format(pixel_format=RGBA8, row_alignment=16), [(0, 48, 40, 6)]),
        (Format(pixel_format=NV12, row_alignment=4), [(0, 12, 10, 6), (72, 12, 10, 3)]),
        (Format(encoding=JPEG), []),
        (Format(encoding=PNG), []),
    ],
)
def test_header_says_where_the_planes_lie(output, planes):
    header = header_of(10, 6, output)
    found = [(p.offset_bytes, p.stride_bytes, p.row_bytes, p.row_count) for p in header.planes]
    assert found == planes
    assert header.frame_size_bytes == sum(stride * rows for _, stride, _, rows in planes)
    assert (header.encoding, header.row_order) == (output.encoding, output.row_order)


@pytest.mark.parametrize(
    ("output", "matrix", "full_range"),
    [
        (Format(), 0, True),
        (Format(pixel_format=NV12), 1, False),
        (Format(encoding=JPEG), 6, True),
        (Format(encoding=PNG), 0, True),
    ],
)
def test_colors_are_described(output, matrix, full_range):
    color = header_of(10, 6, output).color
    assert (color.primaries, color.transfer, color.matrix, color.full_range) == (1, 13, matrix, full_range)


def test_jpeg_and_png_can_be_read_back():
    smooth = np.linspace(0, 255, 48 * 32 * 3).astype(np.uint8).reshape(32, 48, 3)
    png = Image.open(io.BytesIO(convert(smooth.tobytes(), 48, 32, Format(encoding=PNG))))
    assert (png.format, png.tobytes()) == ("PNG", smooth.tobytes())
    sizes = []
    for quality in (100, 90, 10):
        data = convert(smooth.tobytes(), 48, 32, Format(encoding=JPEG, jpeg_quality=quality))
        sizes.append(len(data))
        jpeg = Image.open(io.BytesIO(data))
        assert (jpeg.format, "progressive" in jpeg.info) == ("JPEG", False)
        if quality >= 90:
            assert np.abs(np.asarray(jpeg).astype(int) - smooth).mean() < 4
    assert sizes[0] > sizes[1] > sizes[2]


def test_revisions_name_formats():
    every = [
        Format(pixel_format=pixel_format, row_alignment=alignment, row_order=row_order)
        for pixel_format, alignment, row_order in product(
            (RGB24, RGBA8, BGRA8, NV12), (1, 2, 4, 8, 16, 32, 64, 128, 256), (TOP_DOWN, BOTTOM_UP)
        )
    ]
    every += [Format(encoding=PNG), *(Format(encoding=JPEG, jpeg_quality=quality) for quality in range(1, 101))]
    named, headers = {}, {}
    for width, height in ((64, 64), (64, 128), (128, 64), (10, 10)):
        for output in every:
            header = header_of(width, height, output)
            revision, header.format_revision = header.format_revision, 0
            assert 0 < revision < 2**31
            what = (header.SerializeToString(deterministic=True), output.encoding == JPEG and output.jpeg_quality)
            assert named.setdefault(revision, what) == what, "two formats with one number"
            assert headers.setdefault(what, revision) == revision, "one format with two numbers"
    # Clients keep it: no release may change it without a reason.
    assert header_of(64, 64, STORED).format_revision == REVISION_OF_64_BY_64
