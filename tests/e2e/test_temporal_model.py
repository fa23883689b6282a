"""A model whose VAE knows time, through the whole service: lengths, checkpoints and hand-overs in latent frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.packages import install
from tests.support.published import save_modelscope
from tests.support.server import ROOT, Server
from tests.support.temporal_card import CARD, ENVIRONMENT
from vinf_client import Client, InvalidRequestError, PromptSegment, Solver

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
WANTED = {"frames": 13, "seed": 4, "steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files."""
    folder = tmp_path_factory.mktemp("tides")
    save_modelscope(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that serves it on two ranks."""
    site = tmp_path_factory.mktemp("site")
    install(site, "vinf-tides", "1", {"vinf.models": {"tides": "tests.support.temporal_card:CARD"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]))
        arguments = ("--device", "cpu", "--ranks", "2", "--model", CARD.name)
        server = Server(tmp_path_factory.mktemp("server"), *arguments)
    with server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_a_rank_that_dies_between_two_chunks_leaves_the_video_as_it_was(client: Client, folder: Path) -> None:
    undisturbed = list(client.submit(PROMPT, **WANTED).frames())
    assert [frame.index for frame in undisturbed] == list(range(13))
    assert np.stack(undisturbed).std() > 1, "nothing but one colour shows nothing"
    (folder / "die-1").touch()
    handle = client.submit(PROMPT, **WANTED)
    frames = np.stack(list(handle.frames()))
    np.testing.assert_array_equal(frames, np.stack(undisturbed))
    assert not (folder / "die-1").exists()
    reasons = [event.state_reason for update in handle.updates() for event in update.events]
    assert "WORKER_LOST" in reasons
    assert [(clip.start_frame_index, clip.frame_count) for clip in handle.refresh().clips] == [(0, 5), (5, 8)]


def test_previews_are_those_of_frames(client: Client) -> None:
    ahead = client.submit(PROMPT, **(WANTED | {"steps": 100}))
    updates = client.submit(PROMPT, preview_every=1, **(WANTED | {"steps": 12})).updates(previews=True)
    next(updates)  # it waits, and is watched from its first step on: its previews go when it ends
    ahead.cancel()
    shown = {preview.frame_index for update in updates for preview in update.previews}
    assert shown
    assert shown <= {0, 1, 5, 9}, "the first frames of latent frames"


def test_the_server_says_what_the_model_takes(client: Client, server: Server) -> None:
    model = client.info().models[0]
    assert (model.frame_count_step, model.solvers, model.single_prompt) == (4, (Solver.DDIM,), True)
    told = server.vinf("info").stdout
    assert "13 [1, 65536], a multiple of 4 plus 1" in told
    assert "one prompt for the whole video" in told


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"frames": 48}, "must be a multiple of 4, plus 1: 45 or 49 would do, got 48"),
        ({"solver": "flow-euler"}, "must be one of 1 = ddim (default: the model's own), got 3 = flow_euler"),
        (
            {"segments": [PromptSegment(5, "a blue square")]},
            "must be empty, model 'tides' takes one prompt for the whole video, got 1 segments",
        ),
    ],
)
def test_what_it_cannot_make_is_refused_in_clear_words(client: Client, wanted: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.submit(PROMPT, **(WANTED | wanted))
    assert words in str(refused.value)
