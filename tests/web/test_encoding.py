"""Frames into fragments that a browser plays."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from vinf.v1 import generation_pb2
from vinf_server.front.web.encoding import FragmentEncoder, write_plain_file
from vinf_server.front.web.errors import NoVideoError

pytestmark = pytest.mark.fast


def spec(width=64, height=48, rate=8):
    return generation_pb2.GenerationSpec(
        width=width, height=height, frame_rate=generation_pb2.Rational(num=rate, den=1), frame_count=100
    )


def pictures(count, width=64, height=48):
    """Flat colours, one a frame, that no codec confuses."""
    colours = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220], [200, 200, 40]], np.uint8)
    return np.stack([np.broadcast_to(colours[index % 4], (height, width, 3)) for index in range(count)])


def encode(encoder, frames, *, first=0, at_once=3):
    """All fragments of a video, which comes a few frames at a time."""
    fragments = []
    for begin in range(0, len(frames), at_once):
        fragments += encoder.add(first + begin, frames[begin : begin + at_once].tobytes())
    return fragments + encoder.finish()


def decode(data):
    with av.open(io.BytesIO(data)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 65), (320, 272), (257, 301)])
def test_every_frame_is_there_at_its_time_and_in_its_colour(width, height):
    frames = pictures(11, width, height)
    encoder = FragmentEncoder(spec(width, height))
    fragments = encode(encoder, frames)
    assert [fragment.first_frame for fragment in fragments] == [0, 4, 8]
    shown = decode(encoder.head + b"".join(fragment.data for fragment in fragments))
    assert [float(time * 8) for time, _ in shown] == list(range(11))
    scale = 2 if min(width, height) < 256 else 1
    for (_, picture), frame in zip(shown, frames, strict=True):
        assert picture.shape[0] - scale * height in (0, 1), "even, as H.264 needs it"
        assert picture.shape[1] - scale * width in (0, 1)
        middle = picture[height // 2, width // 2].astype(int)
        assert np.abs(middle - frame[0, 0]).max() <= 6, "the colours are those of the frames"


def test_a_fragment_can_be_played_without_those_before_it():
    encoder = FragmentEncoder(spec(rate=24))
    fragments = encode(encoder, pictures(40))
    assert [fragment.first_frame for fragment in fragments] == [0, 12, 24, 36]
    shown = decode(encoder.head + fragments[2].data)
    assert [round(float(time * 24)) for time, _ in shown] == list(range(24, 36))


def test_frames_may_be_missing():
    encoder = FragmentEncoder(spec())
    fragments = encoder.add(0, pictures(4).tobytes()) + encoder.add(50, pictures(4).tobytes()) + encoder.finish()
    shown = decode(encoder.head + b"".join(fragment.data for fragment in fragments))
    assert [round(float(time * 8)) for time, _ in shown] == [0, 1, 2, 3, 50, 51, 52, 53]


def test_the_first_frame_may_be_a_later_one():
    encoder = FragmentEncoder(spec())
    fragments = encode(encoder, pictures(6), first=10)
    shown = decode(encoder.head + b"".join(fragment.data for fragment in fragments))
    assert [round(float(time * 8)) for time, _ in shown] == list(range(10, 16))


def test_the_type_is_what_the_stream_says_of_itself():
    encoder = FragmentEncoder(spec())
    profile = encoder.mime_type.removeprefix('video/mp4; codecs="avc1.').rstrip('"')
    configuration = encoder.head[encoder.head.index(b"avcC") + 4 :]
    assert profile == configuration[1:4].hex().upper()


def test_the_plain_file_has_the_same_frames(tmp_path):
    encoder = FragmentEncoder(spec())
    fragments = encode(encoder, pictures(11))
    whole = encoder.head + b"".join(fragment.data for fragment in fragments)
    (tmp_path / "video.fragments").write_bytes(whole)
    write_plain_file(tmp_path / "video.fragments", tmp_path / "video.mp4")
    plain = (tmp_path / "video.mp4").read_bytes()
    assert b"moof" not in plain
    assert plain.index(b"moov") < plain.index(b"mdat"), "it can be played while it is fetched"
    for (time, picture), (expected_time, expected) in zip(decode(plain), decode(whole), strict=True):
        assert time == expected_time
        np.testing.assert_array_equal(picture, expected)


def test_no_encoder_is_no_crash(monkeypatch):
    with pytest.raises(NoVideoError, match=r"the server's H\.264 encoder refuses"):
        FragmentEncoder(spec(width=40_000, height=40_000))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(NoVideoError, match="the server has no PyAV"):
        FragmentEncoder(spec())
