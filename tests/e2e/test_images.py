"""An image through the whole service, to a model of somebody else's on real ranks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.test_third_party import make_site
from tests.support.server import Server
from vinf_client import Client, ImageCondition, InvalidRequestError

pytestmark = pytest.mark.process

COLOUR = (200, 100, 0)


def test_every_rank_gets_the_image_and_only_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of docs/adapters.md mixes the image's mean colour into every frame."""
    site, folder = tmp_path / "site", tmp_path / "server"
    site.mkdir()
    folder.mkdir()
    make_site(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    picture = folder / "first.png"
    Image.new("RGB", (300, 200), COLOUR).save(picture)
    options = {"frames": 12, "width": 64, "height": 64, "seed": 4, "steps": 2}
    with Server(folder, "--device", "cpu", "--ranks", "2", "--model", "toy") as server:
        assert "images          taken for the first frame, at most 1 a video" in server.vinf("info").stdout
        wanted = ["generate", "a red ball", "--image", str(picture), "-o", str(folder / "tinted.npy"), "--quiet"]
        server.vinf(*wanted, *(word for name, value in options.items() for word in (f"--{name}", str(value))))
        with Client(server.address) as client:
            handle = client.submit("a red ball", **options)
            plain = np.stack([frame.to_numpy() for frame in handle.frames()]).astype(float)
            clips = handle.refresh().clips
            with pytest.raises(InvalidRequestError, match=r"image_conditions\[0\]\.frame_index: must be 0, got"):
                client.submit("a red ball", image_conditions=[ImageCondition(-1, picture)])
    assert len(clips) == 2
    assert all(clip.frame_count for clip in clips)
    tinted = np.load(folder / "tinted.npy").astype(float)
    assert np.abs(tinted - (plain + COLOUR) / 2).max() <= 1.5
    assert np.abs(tinted - plain).max() > 20
