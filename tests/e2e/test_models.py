"""Models from folders, through the whole service: found, loaded, and the same video on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.animatediff import save_adapter, save_stable_diffusion
from tests.support.published import save_modelscope, save_videocrafter2
from tests.support.server import Server, run_vinf
from vinf_client import Client

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"


NATIVE = {"width": 64, "height": 64, "frame_count": 16}
"""What the models are said to have been trained in: a server tries its native size out when it starts."""


def say_native(folder: Path, name: str) -> None:
    """Write what the model is called and was trained in beside it."""
    (folder / "vinf.json").write_text(json.dumps({"model": name} | NATIVE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    base, bare = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("videocrafter2")
    save_modelscope(base)
    save_videocrafter2(bare)
    say_native(base, "modelscope")
    say_native(bare, "videocrafter2")
    return base, bare


@pytest.fixture(scope="module")
def animatediff(tmp_path_factory) -> tuple[Path, Path]:
    base, adapter = tmp_path_factory.mktemp("stable-diffusion"), tmp_path_factory.mktemp("adapter")
    save_stable_diffusion(base)
    save_adapter(adapter)
    say_native(adapter, "animatediff-v2")
    return base, adapter


def video(server: Server, **options: object) -> np.ndarray:
    with Client(server.address) as client:
        options = {"frames": 20, "width": 64, "height": 64, "seed": 4, "steps": 3} | options
        return np.stack([frame.to_numpy() for frame in client.submit(PROMPT, **options).frames()]).astype(int)


@pytest.mark.timeout(400)  # three servers one after the other
@pytest.mark.parametrize("name", ["videocrafter2", "modelscope", "animatediff-v2"])
def test_a_folder_is_served_the_same_on_any_number_of_ranks(
    folders: tuple[Path, Path], animatediff: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    base, bare = animatediff if name == "animatediff-v2" else folders
    arguments = ("--model", str(base)) if name == "modelscope" else ("--model", str(bare), "--model-base", str(base))
    videos = {}
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        with Server(folder, "--device", "cpu", "--ranks", str(ranks), *arguments) as server:
            videos[ranks] = video(server)
            if ranks == 1:
                assert name in run_vinf("info", "--server", server.address).stdout
                other = video(server, fps=9)
    assert videos[1].std() > 1, "nothing but one colour shows nothing"
    for ranks in (2, 3):
        difference = np.abs(videos[1] - videos[ranks]).max()
        assert difference <= 2, f"{ranks} ranks differ from one by {difference} of 255 levels"
    # Only VideoCrafter2 was trained with the frame rate as a condition.
    assert np.array_equal(other, videos[1]) == (name != "videocrafter2")


def test_a_folder_that_cannot_be_served_says_why(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, bare = folders
    lame = tmp_path / "lame"
    lame.mkdir()
    (lame / "unet").symlink_to(base / "unet")
    for arguments, words in (
        (("--model", str(bare), "--model-base", str(lame)), (str(lame / "vae"), "missing")),
        (("--model", str(bare), "--model-base", str(base), "--model-option", "latent-scale=1"), ("on, off",)),
    ):
        done = run_vinf(
            *("serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data-dir", str(tmp_path / "data")),
            *("--device", "cpu", "--ranks", "1", *arguments),
            expect=2,
        )
        assert "Traceback" not in done.stderr
        assert all(word in done.stderr for word in words), done.stderr
