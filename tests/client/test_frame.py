"""A frame in every form: views where the layout allows it, conversions where it does not."""

import io
import sys
import types
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image

from vinf.v1 import frame_pb2
from vinf_client import Client, FrameFormat, InvalidRequestError, ProtocolError
from vinf_client._format import VideoFormat
from vinf_client._frame import Frame, rgb_of
from vinf_client.testing import FakeServer, fake_pixels

pytestmark = pytest.mark.fast

WIDTH, HEIGHT = 48, 32


@pytest.fixture(scope="module")
def handle():
    with FakeServer() as server, Client(server.address, token="", tls=False) as client:
        yield client.submit("a red ball", frames=3, width=WIDTH, height=HEIGHT, fps=12)


def second(handle, wanted):
    (frame,) = handle.frames(1, stop=2, format=wanted)
    return frame


@pytest.mark.parametrize("bottom_up", [False, True])
@pytest.mark.parametrize("alignment", [0, 64, 256])
@pytest.mark.parametrize("name", ["rgb24", "rgba8", "bgra8"])
def test_raw_frames_are_read_only_views(handle, name, alignment, bottom_up):
    frame = second(handle, FrameFormat(name, row_alignment_bytes=alignment, bottom_up=bottom_up))
    pixels = frame.to_numpy()
    assert pixels.shape == frame.shape == (HEIGHT, WIDTH, 3 if name == "rgb24" else 4)
    assert not pixels.flags.writeable
    assert np.shares_memory(pixels, np.frombuffer(frame.data, np.uint8))
    assert np.shares_memory(frame.to_rgb(), pixels)
    np.testing.assert_array_equal(frame.to_rgb(), fake_pixels(1, WIDTH, HEIGHT))
    if name != "rgb24":
        assert (pixels[..., 3] == 255).all()
    if alignment:
        assert frame.layout.planes[0].stride % alignment == 0


@pytest.mark.parametrize("bottom_up", [False, True])
@pytest.mark.parametrize("alignment", [0, 128])
def test_nv12(handle, alignment, bottom_up):
    frame = second(handle, FrameFormat("nv12", row_alignment_bytes=alignment, bottom_up=bottom_up))
    luma, chroma = frame.planes()
    assert (luma.shape, chroma.shape) == ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH))
    assert np.shares_memory(luma, np.frombuffer(frame.data, np.uint8))
    off = frame.to_rgb().astype(int) - fake_pixels(1, WIDTH, HEIGHT)
    assert np.abs(off).max() <= 4  # chroma is kept at half the size
    assert frame.to_numpy() is frame.to_numpy()
    assert not frame.to_numpy().flags.writeable


@pytest.mark.parametrize(
    ("yuv", "rgb"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((63, 102, 240), (255, 0, 0)),
        ((173, 42, 26), (0, 255, 0)),
        ((32, 240, 118), (0, 0, 255)),
        ((255, 128, 128), (255, 255, 255)),
        ((0, 0, 0), (0, 77, 0)),
    ],
)
def test_nv12_is_bt709_in_limited_range(yuv, rgb):
    """The primaries as ITU-T H.273 has them, and values outside the range."""
    luma, cb, cr = yuv
    layout = VideoFormat.read(
        frame_pb2.VideoFormat(width=2, height=2, pixel_format=frame_pb2.PIXEL_FORMAT_NV12, frame_size_bytes=6)
    )
    frame = Frame(0, bytes([luma] * 4 + [cb, cr]), layout)
    assert np.abs(frame.to_numpy().astype(int) - rgb).max() <= 1


@pytest.mark.parametrize(("name", "off"), [("png", 0), ("jpeg", 8)])
def test_picture_files(handle, name, off):
    frame = second(handle, name)
    assert Image.open(io.BytesIO(frame.data)).format == name.upper()
    assert np.abs(frame.to_numpy().astype(int) - fake_pixels(1, WIDTH, HEIGHT)).max() <= off
    assert frame.planes() == ()


def test_a_file_that_is_none():
    layout = VideoFormat.read(
        frame_pb2.VideoFormat(width=2, height=2, encoding=frame_pb2.FRAME_ENCODING_PNG, pixel_format=1)
    )
    with pytest.raises(ProtocolError, match="frame 7 is no picture"):
        Frame(7, b"nothing", layout).to_numpy()


def test_facts(handle):
    frame = second(handle, None)
    assert (frame.index, frame.width, frame.height, frame.format) == (1, WIDTH, HEIGHT, "rgb24")
    assert frame.presentation_time == timedelta(microseconds=83_333)
    assert repr(frame) == "Frame(1, 48x32 rgb24, 0:00:00.083333)"
    assert frame.layout.frame_rate == 12


def test_numpy_takes_it(handle):
    frame = second(handle, "rgb24")
    assert np.shares_memory(np.asarray(frame), frame.to_numpy())
    assert np.asarray(frame, np.float32).dtype == np.float32
    assert np.array(frame).flags.writeable
    assert np.stack([frame, frame]).shape == (2, HEIGHT, WIDTH, 3)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(frame, np.float32, copy=False)
    assert rgb_of(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("name", "mode"), [("rgb24", "RGB"), ("rgba8", "RGBA"), ("bgra8", "RGBA"), ("nv12", "RGB"), ("png", "RGB")]
)
def test_pillow_takes_it(handle, name, mode):
    picture = second(handle, FrameFormat(name, bottom_up=name == "bgra8")).to_pil()
    assert (picture.size, picture.mode) == ((WIDTH, HEIGHT), mode)
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - fake_pixels(1, WIDTH, HEIGHT)).max() <= 4


def test_torch_gets_a_tensor_of_its_own(handle, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=lambda pixels: pixels))
    found = second(handle, "rgb24").to_torch()
    assert found.flags.writeable
    assert found.shape == (HEIGHT, WIDTH, 3)


def test_slices_are_put_together_once(handle):
    """A frame larger than a message of the server's choice: here 300 kB in slices of 128 KiB."""
    with FakeServer() as server, Client(server.address, token="", tls=False) as client:
        for frame in client.generate("a red ball", frames=2, width=400, height=256):
            np.testing.assert_array_equal(frame, fake_pixels(frame.index, 400, 256))


@pytest.mark.parametrize("wanted", ["rgb", "", 7, FrameFormat("yuv")])
def test_formats_that_are_none(handle, wanted):
    with pytest.raises(InvalidRequestError, match=r"^format: .* is not allowed; allowed: rgb24, rgba8, bgra8, nv12"):
        handle.frames(format=wanted)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (FrameFormat("rgb24", row_alignment_bytes=3), "output_format.row_alignment_bytes"),
        (FrameFormat("jpeg", jpeg_quality=101), "output_format.jpeg_quality"),
        (FrameFormat("png", bottom_up=True), "output_format.row_order"),
        (FrameFormat("rgb24", row_alignment_bytes=2**40), "format"),
    ],
)
def test_formats_that_cannot_be_had(handle, wanted, field):
    with pytest.raises(InvalidRequestError) as caught:
        list(handle.frames(format=wanted))
    assert [violation.field for violation in caught.value.violations] == [field]


HEADER = {"width": 4, "height": 2, "pixel_format": 1, "encoding": 1, "frame_size_bytes": 32}


@pytest.mark.parametrize(
    ("planes", "size"),
    [
        ([(0, 16, 12, 1)], 32),
        ([(0, 11, 12, 2)], 22),
        ([(-1, 16, 12, 2)], 32),
        ([(8, 16, 12, 2)], 32),
        ([(0, 16, 12, 2), (0, 16, 12, 2)], 64),
        ([(0, 16, 12, 2)], 33),
    ],
    ids=["rows", "stride", "before", "behind", "too many", "size"],
)
def test_planes_that_make_no_sense_are_refused(planes, size):
    names = ("offset_bytes", "stride_bytes", "row_bytes", "row_count")
    messages = [frame_pb2.Plane(**dict(zip(names, plane, strict=True))) for plane in planes]
    with pytest.raises(ProtocolError):
        VideoFormat.read(frame_pb2.VideoFormat(**{**HEADER, "frame_size_bytes": size}, planes=messages))
