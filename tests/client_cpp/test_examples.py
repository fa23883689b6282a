"""The programs that come with the library, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.client_cpp.conftest import BUILD_TIMEOUT_S
from tests.client_cpp.toolchain import SOURCE, VIEWER, need
from vinf_client import Client, GenerationCancelledError

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]

WIDTH, HEIGHT, FRAMES = 64, 32, 12


@pytest.fixture(scope="module")
def video(front):
    return front.make(frames=FRAMES, width=WIDTH, height=HEIGHT)


def call(*command: object, expect: int = 0, **options: object) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=120, check=False, **options)
    assert done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stderr.decode()}"
    return done


def y4m_frames(path: Path, size: int) -> tuple[str, list[bytes]]:
    header, _, rest = path.read_bytes().partition(b"\n")
    pieces = [rest[begin + 6 : begin + 6 + size] for begin in range(0, len(rest), 6 + size)]
    assert rest == b"".join(b"FRAME\n" + piece for piece in pieces)
    return header.decode(), pieces


def luma(rgb: bytes) -> np.ndarray:
    """BT.709 in limited range."""
    pixels = np.frombuffer(rgb, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(float) / 255
    return 16 + 219 * (pixels @ np.array([0.2126, 0.7152, 0.0722]))


def test_the_short_program_of_the_docs_saves_a_video(front, built, tmp_path):
    out = tmp_path / "ball.y4m"
    environment = {**os.environ, "VINF_SERVER": front.address}
    done = call(built / "save_video", "a red circle", out, env=environment)
    assert b"frame 16 of 16" in done.stdout
    header, frames = y4m_frames(out, 64 * 64 * 3 // 2)
    assert header == "YUV4MPEG2 W64 H64 F24:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED"
    assert len(frames) == 16


def test_the_short_program_has_forty_lines():
    lines = (SOURCE / "examples" / "save_video.cc").read_text().splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith("//")]) <= 40


def test_the_short_program_says_what_is_wrong(built, tmp_path):
    environment = {**os.environ, "VINF_SERVER": "127.0.0.1:1"}
    done = call(built / "save_video", "a red circle", tmp_path / "x.y4m", expect=1, env=environment)
    assert done.stderr.decode().strip() == "save_video: cannot reach a vinf server at 127.0.0.1:1: connection refused"


def test_the_recorder_writes_a_file_for_players(front, built, video, tmp_path):
    out = tmp_path / "video.y4m"
    call(built / "vinf_record", "--server", front.address, "--generation", video, "--y4m", out)
    header, frames = y4m_frames(out, WIDTH * HEIGHT * 3 // 2)
    assert header.startswith(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F24:1 ")
    assert len(frames) == FRAMES
    for written, rgb in zip(frames, front.frames(video), strict=True):
        got = np.frombuffer(written[: WIDTH * HEIGHT], np.uint8).reshape(HEIGHT, WIDTH)
        assert np.abs(got - luma(rgb)).max() <= 2


def test_a_player_reads_what_the_recorder_writes(front, built, video, tmp_path):
    av = pytest.importorskip("av")
    out = tmp_path / "video.y4m"
    call(built / "vinf_record", "--server", front.address, "--generation", video, "--y4m", out)
    with av.open(str(out)) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 24
    assert len(decoded) == FRAMES
    assert decoded[0].shape == (HEIGHT, WIDTH)


def test_the_recorder_writes_pictures(front, built, video, tmp_path):
    call(built / "vinf_record", "--server", front.address, "--generation", video, "--png", tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"frame_{index:06}.png" for index in range(FRAMES)]
    assert [Image.open(file).convert("RGB").tobytes() for file in files] == front.frames(video)


def test_the_recorder_writes_into_a_pipe(front, built, video):
    done = call(built / "vinf_record", "--server", front.address, "--generation", video, "--raw", "-")
    assert done.stdout == b"".join(front.frames(video))
    assert f"{FRAMES} frames".encode() in done.stderr


def test_the_recorder_starts_a_generation_and_cancels_it_on_ctrl_c(front, built, tmp_path):
    command = [built / "vinf_record", "--server", front.address, "--prompt", "a slow circle", "--raw", tmp_path / "x"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as running:
        line = running.stderr.readline()
        generation_id = re.fullmatch(r"vinf_record: generation (\S+)\n", line).group(1)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 1
    with Client(front.address) as client, pytest.raises(GenerationCancelledError):
        client.attach(generation_id).wait(timeout=30)


WRONG = {
    "nothing": ([], "needs either --prompt or --generation"),
    "no output": (["--generation", "x"], "needs one of --y4m, --png and --raw"),
    "unknown": (["--generation", "x", "--raw", "-", "--colour", "red"], "'--colour' is not known"),
    "no number": (["--prompt", "x", "--raw", "-", "--frames", "many"], "--frames must be a whole number, got 'many'"),
    "pixels": (["--generation", "x", "--raw", "-", "--pixels", "cmyk"], "--pixels must be rgb24, rgba8, bgra8 or nv12"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_line_gets_one_line(built, name):
    words, expected = WRONG[name]
    done = call(built / "vinf_record", *words, expect=2)
    (line,) = done.stderr.decode().splitlines()
    assert expected in line


@pytest.mark.parametrize("program", ["vinf_record", "vinf_viewer", "vinf_pull_bench"])
def test_every_program_has_help(built, program):
    if not (built / program).exists():
        need(VIEWER)
    text = call(built / program, "--help").stdout.decode()
    assert text.startswith(f"{program} - ")
    assert "--server" in text


@pytest.fixture
def display(tmp_path):
    """A virtual display whose picture is a file."""
    need(VIEWER)
    if shutil.which("Xvfb") is None:
        pytest.skip("no Xvfb")
    reader, writer = os.pipe()
    command = [
        "Xvfb",
        "-displayfd",
        str(writer),
        "-screen",
        "0",
        "320x200x24",
        "-fbdir",
        str(tmp_path),
        "-nolisten",
        "tcp",
    ]
    with subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL) as server:
        os.close(writer)
        with os.fdopen(reader) as told:
            number = told.readline().strip()
        yield f":{number}", tmp_path / "Xvfb_screen0"
        server.terminate()


def screen(path: Path) -> np.ndarray:
    """The X server's picture ``[H, W, 3]``, from an XWD file: 32-bit words, the first their size, then rows."""
    data = path.read_bytes()
    words = np.frombuffer(data[:100], ">u4")
    header, width, height, colours = (int(words[at]) for at in (0, 4, 5, 19))
    stride = int(words[12])
    rows = np.frombuffer(data, np.uint8, count=height * stride, offset=header + 12 * colours).reshape(height, stride)
    return rows[:, : width * 4].reshape(height, width, 4)[..., 2::-1]


@pytest.mark.parametrize("mode", [[], ["--live"]], ids=["playback", "live"])
def test_the_viewer_shows_the_frame(front, built, video, display, mode):
    """The picture on the screen is the last frame, pixel by pixel."""
    number, path = display
    if not (built / "vinf_viewer").exists():
        pytest.skip("vinf_viewer was not built: SDL2 was not there when the client was")
    command = [built / "vinf_viewer", "--server", front.address, "--generation", video, "--scale", "1", *mode]
    environment = {**os.environ, "DISPLAY": number, "SDL_VIDEODRIVER": "x11", "SDL_RENDER_DRIVER": "software"}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as viewer:
        lines = []
        while not lines or lines[-1] != "end":
            line = viewer.stdout.readline()
            assert line, f"it ended after {lines}: {viewer.stderr.read()}"
            lines.append(line.strip())
        expected = np.frombuffer(front.frames(video)[-1], np.uint8).reshape(HEIGHT, WIDTH, 3)
        shown = None
        for _ in range(200):  # X draws when it gets to it
            shown = screen(path)[:HEIGHT, :WIDTH]
            if np.array_equal(shown, expected):
                break
            time.sleep(0.05)
        viewer.terminate()
        assert viewer.wait(30) == 0
    assert np.array_equal(shown, expected)
    frames = [int(line.split(" ")[1]) for line in lines[:-1]]
    assert frames == sorted(set(frames))
    assert frames[-1] == FRAMES - 1


def test_the_viewer_leaves_at_the_end(front, built, video, display):
    if not (built / "vinf_viewer").exists():
        pytest.skip("vinf_viewer was not built: SDL2 was not there when the client was")
    environment = {**os.environ, "DISPLAY": display[0], "SDL_VIDEODRIVER": "x11", "SDL_RENDER_DRIVER": "software"}
    command = [built / "vinf_viewer", "--server", front.address, "--generation", video, "--close"]
    assert call(*command, env=environment).stdout.decode().splitlines()[-1] == "end"


def test_the_bench_counts_every_frame(front, built, video):
    for mode in ("next", "stream"):
        line = call(
            built / "vinf_pull_bench", "--mode", mode, "--server", front.address, "--generation", video, "--json"
        )
        told = json.loads(line.stdout)
        assert (told["mode"], told["frames"], told["bytes"]) == (mode, FRAMES, FRAMES * WIDTH * HEIGHT * 3)
        assert told["frames_per_s"] > 0
