"""From a prompt to a video, through real servers with real ranks."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.remains import remains_of
from tests.support.server import Server, run_vinf
from vinf_client import Client, GenerationCancelledError, GenerationHandle, Progress

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
FRAMES = ("--frames", "47", "--seed", "7", "--steps", "6")
OPTIONS = (
    "--frames",
    "24",
    "--seed",
    "7",
    "--steps",
    "4",
    "--initial-noise",
    "freenoise",
    "--global-choice",
    "key-frames",
)
WINDOWS = ("--frames", "24", "--seed", "7", "--steps", "2", "--overlap", "6")


def wait_for_step(handle: GenerationHandle, step: int) -> None:
    """Return when the generation has done this many denoising steps."""
    reached = threading.Event()

    def look(progress: Progress) -> None:
        if progress.completed_step_count >= step:
            reached.set()

    handle.watch(look)
    assert reached.wait(60), f"step {step} was not reached: {handle.progress}"


def scrape(server: Server, *, credited_frames: int) -> str:
    """Read /metrics once the ranks' beats, one a second, have credited this many frames."""
    deadline = time.monotonic() + 20
    while True:
        text: str = urllib.request.urlopen(server.metrics_url).read().decode()
        lines = [line for line in text.splitlines() if line.startswith("vinf_worker_frames_total{")]
        credited = sum(float(line.split()[-1]) for line in lines)
        if credited >= credited_frames:
            assert credited == credited_frames, lines
            return text
        assert time.monotonic() < deadline, f"{credited} of {credited_frames} frames were credited: {lines}"
        time.sleep(0.2)  # a counter in another process: nothing to wait on but the clock


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Even clips. A test may have it lose its ranks; when it ends they are back."""
    with Server(tmp_path_factory.mktemp("two"), "--ranks", "2", "--rank-weights", "even") as server:
        yield server


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("three"), "--ranks", "3") as server:
        yield server


@pytest.fixture(scope="module")
def two_to_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two ranks, the first of them with twice the frames."""
    with Server(tmp_path_factory.mktemp("uneven"), "--ranks", "2", "--rank-weights", "2,1") as server:
        yield server


@pytest.mark.timeout(400)  # two servers start, one after the other
def test_the_video_does_not_depend_on_the_ranks_nor_on_what_ran_before(three_ranks: Server, tmp_path: Path) -> None:
    """One rank makes a video; three ranks make another one, cancel a second, and then the same video."""
    (tmp_path / "one").mkdir()
    with Server(tmp_path / "one", "--ranks", "1") as one:
        one.vinf("generate", PROMPT, *FRAMES, "-o", str(tmp_path / "one.npy"))
        one.vinf("generate", PROMPT, *OPTIONS, "-o", str(tmp_path / "one_options.npy"))
        one.vinf("generate", PROMPT, *WINDOWS, "-o", str(tmp_path / "one_windows.npy"))

    three = three_ranks
    three.vinf("generate", PROMPT, "--frames", "5", "--seed", "1", "--steps", "2", "-o", str(tmp_path / "first"))
    with Client(three.address) as client:
        handle = client.submit(PROMPT, frames=64, seed=2, steps=100)
        wait_for_step(handle, 2)
        handle.cancel()
        with pytest.raises(GenerationCancelledError):
            handle.wait(timeout=60)
        assert handle.progress.completed_step_count < 100
    three.vinf("generate", PROMPT, *OPTIONS, "-o", str(tmp_path / "three_options.npy"))
    three.vinf("generate", PROMPT, *WINDOWS, "-o", str(tmp_path / "three_windows.npy"))
    three.vinf("generate", PROMPT, *FRAMES, "-o", str(tmp_path / "three.npy"))
    metrics = scrape(three, credited_frames=5 + 24 + 24 + 47)

    a, b = np.load(tmp_path / "one.npy").astype(int), np.load(tmp_path / "three.npy").astype(int)
    assert a.shape == b.shape == (47, 64, 64, 3)
    assert abs(a - b).max() <= 2, f"1 and 3 ranks differ by {abs(a - b).max()} of 255, expected at most 2"
    for kind in ("options", "windows"):
        a, b = (np.load(tmp_path / f"{name}_{kind}.npy").astype(int) for name in ("one", "three"))
        assert abs(a - b).max() <= 2, f"1 and 3 ranks differ by {abs(a - b).max()} of 255, expected at most 2"
    assert 'vinf_generations_finished_total{finished_reason="cancelled",model_name="sprites"} 1.0' in metrics
    busy = {line.split("stage=")[1][1:].split('"')[0] for line in metrics.splitlines() if "busy_seconds_total{" in line}
    assert busy >= {"text", "denoise", "communicate", "decode"}


def test_a_killed_rank_costs_time_and_no_bit(two_ranks: Server) -> None:
    """Killed in the middle of denoising, the ranks go on from a checkpoint; a reader notices nothing but the wait.

    Which frames are global ones was chosen before, and stands in the checkpoint, too.
    """
    wanted = {"frames": 24, "seed": 2, "steps": 16, "global_choice": "key-frames"}
    server, resumes = two_ranks, 'vinf_generation_resumes_total{model_name="sprites"}'
    resumed_before = counter(server, resumes)
    with Client(server.address) as client:
        undisturbed = np.stack(list(client.submit(PROMPT, **wanted).frames()))
        handle = client.submit(PROMPT, **wanted)
        seen: list[np.ndarray] = []
        reader = threading.Thread(target=lambda: seen.extend(handle.frames()))
        reader.start()
        wait_for_step(handle, 2)
        folder = server.folder / "data" / "checkpoints" / handle.generation_id
        checkpoint = wait_for_files(
            folder, "step-*-frames-00000000-00000012-of-*", "step-*-frames-00000012-00000024-of-*"
        )
        rank = client.info().ranks[1]
        next(p for p in server.note_family() if p.pid == rank.pid).kill()
        reader.join(120)
        assert not reader.is_alive(), f"no end of the stream: {handle.progress}"
        np.testing.assert_array_equal(np.stack(seen), undisturbed)
        log = server.log.read_text()
        resumed = int(log.partition("goes on after step ")[2].partition(":")[0])
        assert checkpoint <= resumed <= 16
        assert counter(server, resumes) == resumed_before + 1
        wait_until_empty(folder.parent)


def counter(server: Server, name: str) -> float:
    """A number from /metrics; 0 while there is no such line."""
    text: str = urllib.request.urlopen(server.metrics_url).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def wait_for_files(folder: Path, *patterns: str) -> int:
    """Return the smallest step of the files once there is one for every pattern."""
    deadline = time.monotonic() + 30
    while True:
        found = [sorted(path.name for path in folder.glob(pattern)) for pattern in patterns]
        if all(found):
            return min(int(names[0].split("-")[1]) for names in found)
        assert time.monotonic() < deadline, f"no checkpoint in {folder}: {found}"
        time.sleep(0.02)  # another process's files: nothing to wait on but the clock


def wait_until_empty(folder: Path) -> None:
    """Return once nothing is in the folder: what ended generations leave is removed after their last frame."""
    deadline = time.monotonic() + 30
    while left := sorted(path.name for path in folder.iterdir()):
        assert time.monotonic() < deadline, f"checkpoints outlived their generations in {folder}: {left}"
        time.sleep(0.02)  # another process's files: nothing to wait on but the clock


def test_weights_of_ranks_make_unequal_clips_and_the_same_video(
    two_ranks: Server, two_to_one: Server, tmp_path: Path
) -> None:
    videos = []
    for server, clips in ((two_ranks, [48, 48]), (two_to_one, [64, 32])):
        out = tmp_path / "video.npy"
        arguments = ("--frames", "96", "--seed", "7", "--steps", "2", "-o", str(out), "--json")
        assert json.loads(server.vinf("generate", PROMPT, *arguments).stdout)["clips"] == clips
        videos.append(np.load(out).astype(int))
    assert abs(videos[0] - videos[1]).max() <= 2


@pytest.mark.parametrize(
    ("fixture", "how"), [("three_ranks", signal.SIGTERM), ("two_to_one", signal.SIGINT)], ids=["SIGTERM", "SIGINT"]
)
def test_case_69_a_stopped_server_leaves_nothing(
    request: pytest.FixtureRequest, fixture: str, how: signal.Signals
) -> None:
    """The last test of these servers."""
    server: Server = request.getfixturevalue(fixture)
    with Client(server.address) as client:
        client.submit(PROMPT, frames=32, seed=2, steps=100)
    assert len(server.note_family()) >= 4  # front, agent, two ranks
    assert server.stop(how) == 0
    assert not remains_of(server.folder / "data")


def test_bad_input_through_the_command(two_ranks: Server, tmp_path: Path) -> None:
    """Every mistake: one clear message, an exit code, no traceback; several at once are all reported."""
    out = str(tmp_path / "x.npy")
    cases: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        ((PROMPT, "--model", "dalek"), ("dalek", "sprites")),
        (("",), ("PROMPT", "empty")),
        (("a red zebra bouncing over the sea",), ("zebra", "ball")),
        ((PROMPT, "--frames", "0"), ("frames", "0")),
        ((PROMPT, "--frames=-1"), ("frames", "-1")),
        ((PROMPT, "--frames", "1000000000"), ("frames", "1000000000", "65536")),
        ((PROMPT, "--width", "50", "--height", "9999"), ("width", "50", "16", "height", "9999")),
        ((PROMPT, "--guidance", "nan"), ("guidance", "nan")),
        ((PROMPT, "--window", "3"), ("window", "3", "even")),
        ((PROMPT, "--global-choice", "key-frames", "--global-frames", "0"), ("--global-choice", "global_frames is 0")),
    ]
    for arguments, words in cases:
        done = two_ranks.vinf("generate", *arguments, "-o", out, expect=None)
        assert done.returncode != 0, arguments
        assert "Traceback" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words), f"{arguments}: {done.stderr}"
    done = two_ranks.vinf("generate", PROMPT, "-o", str(tmp_path / "x.avi"), expect=None)
    assert done.returncode != 0
    assert ".mp4" in done.stderr
    taken = run_vinf(
        *("serve", "--ranks", "1", "--listen", two_ranks.address, "--metrics", "off"),
        *("--data-dir", str(tmp_path / "other")),
        expect=None,
    )
    assert taken.returncode != 0
    assert two_ranks.address.rpartition(":")[2] in taken.stderr
    assert "Traceback" not in taken.stderr


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    for arguments, words in (
        (("--model", "dalek"), ("dalek", "sprites")),
        (("--ranks", "0"), ("--ranks", "0")),
        (("--device", "cuda", "--ranks", "64"), ("--device", "CUDA")),
    ):
        done = run_vinf(
            *("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data-dir", str(tmp_path / "data")),
            *arguments,
            expect=None,
        )
        assert done.returncode not in (0, None)
        assert "Traceback" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words), f"{arguments}: {done.stderr}"


def test_local_mode_starts_and_stops_its_own_server(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = run_vinf(
        *("generate", PROMPT, "--local", "--ranks", "2", "--frames", "20", "--steps", "2", "--seed", "3"),
        *("-o", str(tmp_path / "x.mp4"), "--sheet", str(sheet), "--json"),
    )
    figures = json.loads(done.stdout)
    assert figures["frames"] == 20
    assert figures["clips"] == [10, 10]
    assert sheet.stat().st_size > 1000


def test_two_readers_see_the_same_frames_while_they_are_made(two_ranks: Server) -> None:
    with Client(two_ranks.address) as client:
        handle = client.submit(PROMPT, frames=24, seed=4, steps=2)
        seen: dict[int, list[np.ndarray]] = {}

        def read(start: int) -> None:
            with Client(two_ranks.address) as other:
                seen[start] = list(other.attach(handle.generation_id).frames(start=start))

        readers = [threading.Thread(target=read, args=(start,)) for start in (0, 10)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        assert len(seen[0]) == 24
        np.testing.assert_array_equal(np.stack(seen[0][10:]), np.stack(seen[10]))
