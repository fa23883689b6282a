"""A tiny EasyAnimate V5.1 through the whole service: a Chinese prompt, a first and a last image, what is refused."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.easyanimate import PROMPTS, change, save_easyanimate
from tests.support.server import Server, run_vinf

pytestmark = pytest.mark.process

SIZE = ("--width", "64", "--height", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("easyanimate")
    save_easyanimate(made, native={"width": 64, "height": 64, "frame_count": 17})
    return made


def image_misses(server: Server, *, wanted: float) -> float:
    """Image conditions that all ranks have encoded, once the beats, one a second, have told of so many."""
    deadline = time.monotonic() + 20
    while True:
        text: str = urllib.request.urlopen(server.metrics_url).read().decode()
        lines = [line for line in text.splitlines() if line.startswith("vinf_worker_image_cache_misses_total{")]
        count = sum(float(line.split()[-1]) for line in lines)
        if count >= wanted:
            return count
        assert time.monotonic() < deadline, f"{wanted} conditions were encoded, the metrics tell of {count}"
        time.sleep(0.2)  # a counter in another process: nothing to wait on but the clock


@pytest.mark.timeout(240)
def test_images_at_both_ends_from_a_chinese_prompt(folder: Path, tmp_path: Path) -> None:
    for name, colour in (("first", (250, 20, 20)), ("last", (20, 20, 250))):
        Image.new("RGB", (80, 64), colour).save(tmp_path / f"{name}.png")
    images = ("--image", str(tmp_path / "first.png"), "--end-image", str(tmp_path / "last.png"))
    videos = {}
    with Server(tmp_path, "--device", "cpu", "--ranks", "2", "--model", str(folder)) as server:
        info = server.vinf("info").stdout
        assert "easyanimate-v5.1-7b-inp" in info
        assert "at most 2 a video" in info
        for name, given in (("both", images), ("first", images[:2]), ("none", ())):
            out = tmp_path / f"{name}.npy"
            arguments = (*given, *SIZE, "--frames", "33", "--steps", "2", "--seed", "3", "-o", str(out))
            server.vinf("generate", PROMPTS[1], *arguments)
            videos[name] = np.load(out).astype(int)
        assert image_misses(server, wanted=4) == 4, "two conditions on each of two ranks"
        refused = server.vinf("generate", PROMPTS[0], *SIZE, "--frames", "32", "--detach", expect=None)
        assert refused.returncode
        assert "29 or 33" in refused.stderr
    assert {video.shape for video in videos.values()} == {(33, 64, 64, 3)}
    assert not np.array_equal(videos["both"], videos["first"])
    assert not np.array_equal(videos["first"], videos["none"])


def test_v5_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "v5"
    other.mkdir()
    for part in folder.iterdir():
        (other / part.name).symlink_to(part)
    (other / "vae").unlink()
    (other / "vae").mkdir()
    (other / "vae" / "config.json").write_text((folder / "vae" / "config.json").read_text())
    change(other / "vae" / "config.json", mid_block_use_attention=True)
    done = run_vinf(
        *("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data-dir", str(tmp_path / "data")),
        *("--device", "cpu", "--ranks", "1", "--model", str(other)),
        expect=None,
    )
    assert done.returncode
    assert "that is EasyAnimate V5, whose VAE has two attentions of 512 channels" in done.stderr
    assert "Traceback" not in done.stderr
