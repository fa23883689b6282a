"""`vinf eval`: files and generations, tables and JSON, pictures, and clear words for what is no video."""

import json
import sys
from fractions import Fraction

import numpy as np
import pytest

from tests.client.evaluation.videos import gradient, planted
from vinf.v1 import generation_pb2 as pb
from vinf_client._writers import GifWriter, Mp4Writer, NpyWriter, PngWriter, VideoShape
from vinf_client.evaluation.plot import MOST

pytestmark = pytest.mark.fast

FRAMES = 48


@pytest.fixture(scope="module")
def broken():
    return planted(gradient(FRAMES, pace=0.5, side=32), [24], by=40)


def write(video, path, kind=NpyWriter):
    count, height, width, _ = video.shape
    with kind(path, VideoShape(count, width, height, Fraction(8))) as writer:
        for frame in video:
            writer.write(frame)
    return str(path)


@pytest.mark.parametrize(("name", "kind"), [
    ("a.npy", NpyWriter), ("a.mp4", Mp4Writer), ("a.gif", GifWriter), ("a", PngWriter),
])  # fmt: skip
def test_every_format_that_generate_writes(vinf, tmp_path, capsys, broken, name, kind):
    path = write(broken, tmp_path / name, kind)
    assert vinf("eval", path, "--clip-frames", "24", "--json", "-") == 0
    (told,) = json.loads(capsys.readouterr().out)["videos"]
    assert (told["name"], told["frames"], told["width"], told["boundaries"]) == (path, FRAMES, 32, [24])
    assert told["seams"]["pixels"]["ratio"] > 3
    assert told["seams"]["pixels"]["p"] == pytest.approx(1 / 24)
    assert told["drift"]["luminance"]["slope"] > 50


def test_the_table(vinf, tmp_path, capsys, broken):
    good, bad = write(gradient(FRAMES, pace=0.5, side=32), tmp_path / "g.npy"), write(broken, tmp_path / "b.npy")
    assert vinf("eval", good, bad, "--boundaries", "24") == 0
    out = capsys.readouterr().out
    assert "Seams at clip boundaries" in out
    assert "all together" in out
    assert "p 0.042" in out
    assert vinf("eval", good) == 0
    out = capsys.readouterr().out
    assert "No clip boundaries are known" in out
    assert "all together" not in out


def test_several_videos_are_pooled(vinf, tmp_path, broken):
    paths = [write(broken, tmp_path / f"{n}.npy") for n in range(2)]
    assert vinf("eval", *paths, "--clip-frames", "24", "--json", str(tmp_path / "found.json")) == 0
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["pooled"]["videos"] == 2
    assert told["pooled"]["seams"]["colour"]["count"] == 2
    assert told["pooled"]["seams"]["colour"]["p"] < 1 / 24


def test_the_picture(vinf, tmp_path, broken):
    pytest.importorskip("matplotlib")
    path = write(broken, tmp_path / "a.npy")
    picture = tmp_path / "new" / "a.png"
    assert vinf("eval", path, "--clip-frames", "24", "--cuts", "10", "--plot", str(picture), "--json", "-") == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_picture_of_many_says_which_it_shows(vinf, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    paths = [write(np.zeros((4, 8, 8, 3), np.uint8), tmp_path / f"{n}.npy") for n in range(MOST + 1)]
    picture = str(tmp_path / "a.png")
    assert vinf("eval", *paths[:MOST], "--plot", picture, "--json", "-") == 0
    assert capsys.readouterr().err == ""
    assert vinf("eval", *paths, "--plot", picture, "--json", "-") == 0
    assert capsys.readouterr().err == f"vinf: {picture}: it shows the first {MOST} of {MOST + 1} videos\n"


def test_other_pictures_beside_the_frames_are_none(vinf, tmp_path, capsys):
    folder = tmp_path / "frames"
    write(np.zeros((4, 8, 8, 3), np.uint8), folder, PngWriter)
    (folder / "contact_sheet.png").write_bytes((folder / "frame_000000.png").read_bytes())
    (folder / "eval.png").write_bytes(b"no picture of that size")
    assert vinf("eval", str(folder), "--json", "-") == 0
    (told,) = json.loads(capsys.readouterr().out)["videos"]
    assert told["frames"] == 4
    for number in range(4):
        (folder / f"frame_{number:06}.png").rename(folder / f"{number}.png")
    (folder / "eval.png").unlink()
    assert vinf("eval", str(folder), "--json", "-") == 0
    (told,) = json.loads(capsys.readouterr().out)["videos"]
    assert told["frames"] == 5, "without names of frames all pictures are"


def test_a_picture_without_matplotlib(vinf, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert vinf("eval", "a.npy", "--plot", str(tmp_path / "a.png")) == 2
    assert "pip install 'vinf[eval]'" in capsys.readouterr().err


def test_what_batch_writes_beside_a_video_tells_clips_and_cuts(vinf, tmp_path, capsys, broken):
    path = write(broken, tmp_path / "ball.npy")
    segments = [{"start_frame": 12, "cut": True}, {"start_frame": 36, "cut": False}]
    clips = [{"start_frame_index": 0, "frame_count": 24}, {"start_frame_index": 24, "frame_count": 24}]
    told = {"output": "ball.npy", "resolved_spec": {"prompt_segments": segments}, "clips": clips}
    (tmp_path / "ball.json").write_text(json.dumps(told))
    assert vinf("eval", path, "--json", "-") == 0
    (found,) = json.loads(capsys.readouterr().out)["videos"]
    assert (found["boundaries"], found["cuts"]) == ([24], [12])
    (tmp_path / "ball.json").write_text(json.dumps(told | {"output": "another.npy"}))
    assert vinf("eval", path, "--json", "-") == 0
    (found,) = json.loads(capsys.readouterr().out)["videos"]
    assert (found["boundaries"], found["cuts"]) == ([], []), "it is of another video"


def test_a_generation_of_a_server(vinf, server, capsys):
    server.width, server.height, server.frame_count = 16, 16, 36
    server.clips = [(0, 12), (12, 12), (24, 0), (24, 12)]
    server.segments = [pb.PromptSegment(start_frame_index=24, prompt="a ball", cut=True)]
    assert vinf("eval", "gen-1", "--server", server.address, "--json", "-") == 0
    (found,) = json.loads(capsys.readouterr().out)["videos"]
    assert (found["frames"], found["boundaries"], found["cuts"]) == (36, [12], [24])
    levels = server.video().astype(np.int64)
    steps = np.abs(np.diff(levels, axis=0)).mean(axis=(1, 2, 3))
    step = np.delete(steps, 23).mean()  # the one across the cut
    assert found["flicker"] == pytest.approx((255 - step) / 255)


def test_a_generation_that_is_not_there_yet(vinf, server, capsys):
    server.state, server.available = pb.GENERATION_STATE_RUNNING, (0, 3)
    assert vinf("eval", "gen-1", "--server", server.address) == 6
    assert "3 of its 7 frames are there" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "told"), [
    (["nowhere.mp4"], "'nowhere.mp4': there is no such file"),
    (["text.txt"], "text.txt: there is no video in it"),
    (["sound.wav"], "sound.wav: there is no video in it"),
    (["numbers.npy"], "numbers.npy: float64 [3] is not uint8 [F, H, W, 3]"),
    (["pickle.npy"], "pickle.npy: it is no NumPy file"),
    (["empty"], "there are no PNG files in this folder"),
    (["gap"], "the picture after number 1 is missing, the next is 3"),
    (["bad"], "it is no picture"),
    (["one.npy"], "one.npy: 1 frames are not a video; at least 2 are needed"),
    (["good.npy", "--boundaries", "9"], "good.npy: boundaries: 9 is not in [1, 7]"),
    (["good.npy", "--boundaries", "4,2"], "--boundaries: '4,2' does not ascend"),
    (["good.npy", "--boundaries", "a"], "'a' is not frame numbers"),
    (["good.npy", "--clip-frames", "0"], "--clip-frames: 0 is not allowed; allowed: at least 1"),
    (["good.npy", "--window", "0"], "--window: 0 is not allowed; allowed: at least 1"),
    (["good.npy", "--boundaries", "3", "--clip-frames", "2"], "not allowed with"),
    (["good.npy", "--plot", "a.jpg"], "--plot: 'a.jpg' is not allowed; allowed: a name that ends in .png"),
    (["good.npy", "--json", "good.npy/a.json"], "cannot be written"),
    (["good.npy", "--vbench"], "--vbench: the package vbench is not installed here"),
    (["gen-1", "--vbench"], "--vbench: gen-1: VBench reads files; vinf download writes one"),
    ([""], "there is no such file"),
])  # fmt: skip
def test_mistakes_are_one_line(vinf, tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no video\n" * 100)
    (tmp_path / "sound.wav").write_bytes(wave())
    np.save("numbers.npy", np.zeros(3))
    np.save("pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("one.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save("good.npy", np.zeros((8, 8, 8, 3), np.uint8))
    for folder in ("empty", "gap", "bad"):
        (tmp_path / folder).mkdir()
    write(np.zeros((4, 8, 8, 3), np.uint8), tmp_path / "gap", PngWriter)
    (tmp_path / "gap" / "frame_000002.png").unlink()
    (tmp_path / "bad" / "frame_000000.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert vinf("eval", *arguments) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def wave():
    """A sound of silence."""
    samples = bytes(800)
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + b"\1\0\1\0" + (8000).to_bytes(4, "little") * 2 + b"\1\0\x08\0"
    body = head + b"data" + len(samples).to_bytes(4, "little") + samples
    return b"RIFF" + len(body).to_bytes(4, "little") + body
