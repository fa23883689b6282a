"""3-D transformers from folders, through the whole service: the same videos on any number of ranks, in any mesh."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.easyanimate import save_easyanimate
from tests.support.server import Server, run_vinf
from tests.support.skyreels import save_hunyuan, save_skyreels
from vinf_client import Client, ImageCondition, InvalidRequestError

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
CHINESE = "一个红色的球在海面上跳跃"

NATIVE = {"width": 64, "height": 64, "frame_count": 49}
"""What the models are said to have been trained in: a server tries its native size out when it starts."""

MESHES = {
    "skyreels-v1-t2v": [(2, {"cfg": 2}), (3, {}), (4, {"context": 2})],
    "skyreels-v1-i2v": [(2, {}), (3, {}), (4, {"cfg": 2, "context": 2})],
    "easyanimate-v5.1-7b-inp": [(2, {"context": 2}), (3, {}), (4, {"cfg": 2})],
}
"""Ranks, and how many of them share a clip's guidance or its tokens; with one rank each."""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """What to serve each model with."""
    base, text, image, whole = (tmp_path_factory.mktemp(name) for name in ("hunyuan", "t2v", "i2v", "easyanimate"))
    save_hunyuan(base)
    save_skyreels(text, native=NATIVE)
    save_skyreels(image, takes_image=True, native=NATIVE)
    save_easyanimate(whole, native=NATIVE)
    return {
        "skyreels-v1-t2v": ("--model", str(text), "--model-base", str(base)),
        "skyreels-v1-i2v": ("--model", str(image), "--model-base", str(base)),
        "easyanimate-v5.1-7b-inp": ("--model", str(whole)),
    }


def picture(seed: int) -> bytes:
    """A PNG of 64 x 64 pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


def wanted(name: str) -> list[dict[str, object]]:
    """Videos within the trained length and beyond it, with the conditions that the model takes."""
    first, last = ImageCondition(0, picture(1)), ImageCondition(-1, picture(2))
    if name == "skyreels-v1-t2v":
        return [{"frames": 21}, {"frames": 141}, {"frames": 121, "overlap": 20}]
    if name == "skyreels-v1-i2v":
        return [{"frames": 21, "image_conditions": [first]}, {"frames": 125, "image_conditions": [first]}]
    both = {"image_conditions": [first, last]}
    return [{"frames": 21} | both, {"frames": 81} | both, {"frames": 9, "prompt": CHINESE, "guidance": 1.0}]


def videos(server: Server, name: str) -> list[np.ndarray]:
    made = []
    with Client(server.address) as client:
        for options in wanted(name):
            values = {"prompt": PROMPT, "width": 64, "height": 64, "seed": 4, "steps": 2} | options
            frames = [frame.to_numpy() for frame in client.submit(values.pop("prompt"), **values).frames()]
            assert len(frames) == options["frames"]
            made.append(np.stack(frames).astype(int))
    return made


@pytest.mark.timeout(400)  # four servers one after the other
@pytest.mark.parametrize("name", list(MESHES))
def test_the_same_videos_on_any_mesh(arguments: dict[str, tuple[str, ...]], tmp_path: Path, name: str) -> None:
    expected: list[np.ndarray] = []
    for ranks, axes in [(1, {}), *MESHES[name]]:
        folder = tmp_path / f"{ranks}-{'-'.join(axes)}"
        folder.mkdir()
        flags = [word for axis, size in axes.items() for word in (f"--{axis}-ranks", str(size))]
        with Server(folder, "--device", "cpu", "--ranks", str(ranks), *flags, *arguments[name]) as server:
            found = videos(server, name)
            if ranks == 1:
                expected = found
                assert name in run_vinf("info", "--server", server.address).stdout
                check_refusals(server, name)
        for options, one, other in zip(wanted(name), expected, found, strict=True):
            assert one.std() > 1, "nothing but one colour shows nothing"
            difference = np.abs(one - other).max()
            assert difference <= 2, f"{options['frames']} frames on {ranks} ranks {axes}: {difference} of 255 levels"


def check_refusals(server: Server, name: str) -> None:
    """What such a model cannot make is said before anything is queued."""
    image = ImageCondition(5, picture(1))
    with Client(server.address) as client:
        if name == "skyreels-v1-i2v":
            with pytest.raises(InvalidRequestError, match="needs at least 1 image, got 0"):
                client.submit(PROMPT, frames=21, width=64, height=64)
            unreadable = ImageCondition(0, "none.png")
            with pytest.raises(InvalidRequestError, match="cannot be read") as caught:
                client.submit(PROMPT, frames=21, width=64, height=64, image_conditions=[unreadable])
            assert len(caught.value.violations) == 1, "that there is no image is not said as well"
        for values, words in (
            ({"frames": 50}, "49"),
            ({"frames": 21, "solver": "ddim"}, "solver"),
            ({"frames": 21, "image_conditions": [image]}, "image_conditions"),
        ):
            with pytest.raises(InvalidRequestError, match=words):
                client.submit(PROMPT, width=64, height=64, **values)
