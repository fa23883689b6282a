"""Case 77: short generations, one after the other, and what the server has more of afterwards."""

from __future__ import annotations

import psutil
import pytest

from tests.cases.conftest import SUCCEEDED, Api

SHORT = {"frame_count": 8, "inference_step_count": 1, "width": 32, "height": 32}
WARM_UP = 5

ROOM_BYTES = 48 << 20
"""That the front may have grown by: up to 1000 ended generations are kept, and the allocator keeps pages."""


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(25, marks=pytest.mark.process),
        pytest.param(10_000, marks=(pytest.mark.soak, pytest.mark.timeout(4 * 3600))),
    ],
)
def test_case_77_short_generations_leave_nothing(api: Api, count: int) -> None:
    expected = api.video_of(SHORT)
    front = psutil.Process(api.server.process.pid)
    for _ in range(WARM_UP):
        api.video_of(SHORT)
    before = measures(front)
    for number in range(count):
        generation_id = api.create(spec=SHORT, detached=True).generation_id
        assert api.finish(generation_id).state == SUCCEEDED
        if number % 10 == 0:
            assert api.frames(generation_id) == expected
    after = measures(front)
    assert after["files"] <= before["files"] + 4, (before, after)
    assert after["threads"] <= before["threads"] + 4, (before, after)
    assert after["processes"] == before["processes"]
    assert after["bytes"] <= before["bytes"] + ROOM_BYTES, (before, after)


def measures(front: psutil.Process) -> dict[str, int]:
    """What must not grow with the number of generations."""
    return {
        "files": front.num_fds(),
        "threads": front.num_threads(),
        "processes": len(front.children(recursive=True)),
        "bytes": front.memory_info().rss,
    }
