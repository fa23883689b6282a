"""Previews through a whole front, with scripted ranks."""

from __future__ import annotations

import pytest

from tests.server.conftest import QUICK_AGENT
from tests.server.test_serve import RPC_TIMEOUT_S, Client
from vinf.v1 import generation_pb2, video_generation_service_pb2

pytestmark = pytest.mark.process

v1 = video_generation_service_pb2


def test_the_newest_pictures_of_both_clips_reach_who_watches(front_process):
    client = Client(front_process(*QUICK_AGENT).wait_ready())
    spec = generation_pb2.GenerationSpec(prompt="a slow red circle")
    request = v1.CreateGenerationRequest(spec=spec, preview_interval_steps=2)
    generation_id = client.video.CreateGeneration(request, timeout=RPC_TIMEOUT_S).generation.generation_id
    watch = v1.WatchGenerationRequest(generation_id=generation_id, with_previews=True)
    newest = {}
    for response in client.video.WatchGeneration(watch, timeout=RPC_TIMEOUT_S):
        newest |= {preview.frame_index: preview.completed_step_count for preview in response.previews}
        if newest == {0: 4, 7: 4, 8: 4, 15: 4}:
            break
    else:
        raise AssertionError(f"it ended with {newest}")
    client.cancel(generation_id)
    assert client.watch(generation_id)[-1].state == generation_pb2.GENERATION_STATE_CANCELLED
    assert not any(r.previews for r in client.video.WatchGeneration(watch, timeout=RPC_TIMEOUT_S))
    client.channel.close()
