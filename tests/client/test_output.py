"""What was written reads back as what was given, and nothing half-done is left lying about."""

import os
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from vinf_client import OutputError
from vinf_client._writers import VideoShape
from vinf_client.output import Target
from vinf_client.sheet import check_sheet

pytestmark = pytest.mark.fast

SHAPE = VideoShape(frame_count=9, width=53, height=37, frame_rate=Fraction(24000, 1001))


def make_frames():
    ramp = np.linspace(0, 255, SHAPE.width, dtype=np.uint8)
    frame = np.stack([np.tile(ramp, (SHAPE.height, 1))] * 3, axis=-1)
    return [np.roll(frame, 5 * index, axis=1) for index in range(SHAPE.frame_count)]


def write(text, frames):
    target = Target.parse(str(text))
    target.prepare()
    with target.open(SHAPE) as writer:
        for frame in frames:
            writer.write(frame)
    assert not list(target.path.parent.glob(".*"))  # no temporary neighbour
    return target.path


def test_npy(tmp_path):
    frames = make_frames()
    path = write(tmp_path / "new" / "folder" / "a.npy", frames)
    read = np.load(path, mmap_mode="r")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.stack(frames))


def test_npy_in_mapped_memory_is_not_needed(tmp_path):
    path = write(tmp_path / "a.npy", [frame[:, ::1] for frame in make_frames()])
    assert path.stat().st_size == 128 + 9 * 37 * 53 * 3


def test_mp4(tmp_path):
    import av

    frames = make_frames()
    with av.open(str(write(tmp_path / "a.mp4", frames))) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == SHAPE.frame_rate
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
    assert len(pictures) == 9
    assert pictures[0].shape == (38, 54, 3)  # padded to even
    inside = pictures[5][:37, :53].astype(int)
    assert np.abs(inside - frames[5]).mean() < 4


def test_gif(tmp_path):
    frames = make_frames()
    with Image.open(write(tmp_path / "a.GIF", frames)) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (9, (53, 37), 0)
        for index in (0, 4, 8):
            picture.seek(index)
            assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - frames[index]).max() < 8


@pytest.mark.parametrize("name", ["frames", "frames/", "frames.v2/"])
def test_png_folder(tmp_path, name):
    frames = make_frames()
    for _ in range(2):  # a second result takes the place of the first
        folder = write(f"{tmp_path}/{name}", frames)
    names = sorted(os.listdir(folder))
    assert names == [f"frame_{index:06d}.png" for index in range(9)]
    with Image.open(folder / names[3]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), frames[3])


@pytest.mark.parametrize("name", ["a.mp4", "a.npy", "a.gif", "a"])
def test_an_error_leaves_what_was_there(tmp_path, name):
    path = write(tmp_path / name, make_frames())
    before = sorted(entry.name for entry in tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), Target.parse(str(path)).open(SHAPE) as writer:  # noqa: PT012
        writer.write(make_frames()[0])
        raise RuntimeError
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == before


def test_memory_does_not_grow_with_the_video(tmp_path):
    import tracemalloc

    frame = np.zeros((256, 256, 3), np.uint8)
    target = Target.parse(str(tmp_path / "a.npy"))
    with target.open(VideoShape(200, 256, 256, Fraction(24))) as writer:
        tracemalloc.start()
        for _ in range(200):
            writer.write(frame)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * frame.nbytes
    assert (tmp_path / "a.npy").stat().st_size > 200 * frame.nbytes


@pytest.mark.parametrize("name", ["a.avi", "a.mp4.txt", "", ".", "a.png"])
def test_unknown_endings_are_refused_with_the_allowed_ones(name):
    with pytest.raises(OutputError, match=r"allowed: .mp4, .npy, .gif, or a folder"):
        Target.parse(name)


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for text in (tmp_path / "file" / "a.mp4", "/proc/nothing/a.mp4"):
        with pytest.raises(OutputError, match="cannot be written: the folder"):
            Target.parse(str(text)).prepare()


def test_nothing_of_somebody_else_is_lost(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputError, match="other files in it"):
        Target.parse(str(tmp_path / "photos")).prepare()
    with pytest.raises(OutputError, match="is a file"):
        Target.parse(str(tmp_path / "file")).prepare()
    with pytest.raises(OutputError, match="is a folder"):
        Target.parse(str(tmp_path / "a.mp4")).prepare()
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OutputError, match="a device or a pipe"):
        Target.parse(str(tmp_path / "pipe.npy")).prepare()
    with pytest.raises(OutputError, match="a device or a pipe"):
        check_sheet(str(tmp_path / "pipe.png"))


def test_a_full_disk_is_an_output_error():
    target = Target.parse("/dev/full.npy")
    writer = target.open(SHAPE)
    writer.partial = type(target.path)("/dev/full")
    writer.path = type(target.path)("/dev/full.npy")
    frame = np.zeros((1000, 1000, 3), np.uint8)
    with open("/dev/full", "wb", buffering=0) as full:
        writer._file = full
        with pytest.raises(OutputError, match="No space left"):
            writer.write(frame)
