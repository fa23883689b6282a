"""The whole server killed in the middle of a video, and another one that goes on with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.test_end_to_end import PROMPT, wait_for_files, wait_for_step, wait_until_empty
from tests.support.server import Server
from vinf_client import Client

pytestmark = pytest.mark.process

WANTED = {"frames": 24, "seed": 2, "steps": 16}
SERVER = ("--ranks", "2", "--rank-weights", "even")


def restart(folder: Path) -> Server:
    """Another server on the folder of one that was killed."""
    (folder / "ready.json").unlink()
    return Server(folder, *SERVER)


@pytest.mark.timeout(400)  # three servers start, one after the other
def test_case_58_a_killed_server_costs_time_and_no_bit(tmp_path: Path) -> None:
    """Killed while it denoises, and again while frames leave, it goes on from checkpoint and spool to the same bits."""
    server = Server(tmp_path, *SERVER)
    with Client(server.address) as client:
        undisturbed = np.stack(list(client.submit(PROMPT, **WANTED).frames()))
        handle = client.submit(PROMPT, **WANTED)
        wait_for_step(handle, 2)
        folder = tmp_path / "data" / "checkpoints" / handle.generation_id
        checkpoint = wait_for_files(
            folder, "step-*-frames-00000000-00000012-of-*", "step-*-frames-00000012-00000024-of-*"
        )
    server.process.kill()
    server.stop()

    with restart(tmp_path) as server, Client(server.address) as client:
        handle = client.attach(handle.generation_id)
        assert handle.progress.completed_step_count >= checkpoint
        seen = []
        for frame in handle.frames():
            seen.append(frame)
            if len(seen) == 3:
                break
        server.process.kill()
        server.stop()

    with restart(tmp_path) as server, Client(server.address) as client:
        handle = client.attach(handle.generation_id)
        seen += list(handle.frames(start=len(seen)))
        np.testing.assert_array_equal(np.stack(seen), undisturbed)
        np.testing.assert_array_equal(np.stack(list(handle.frames())), undisturbed)
        wait_until_empty(folder.parent)
