"""What the front does when its ranks are ready."""

from __future__ import annotations

import asyncio

import pytest

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.cli import parse_config
from vinf_server.front import app
from vinf_server.front.engine.group import Group, Loss

pytestmark = pytest.mark.fast


def test_a_smaller_group_takes_the_place_of_a_larger_one(tmp_path, monkeypatch):
    """A host that joins again may bring fewer ranks: what is said of the others would be wrong for good."""
    monkeypatch.setattr(app, "disable_created_metrics", lambda: None)  # it is for the whole process
    arguments = ["--data-dir", str(tmp_path), "--device", "cpu", "--ranks", "4", "--cfg-ranks", "2"]

    async def scenario():
        front = app.Front(parse_config(arguments))
        for epoch, world_size in ((1, 6), (2, 4)):
            group = Group(epoch, world_size)
            for rank in range(world_size):
                group.take_beat(pb.BeatRequest(rank=rank, device="cpu"))
                front._worker_metrics.take_beat(epoch, group.ranks[rank].beat)
            report = pb.ReadyReport(world_size=world_size)
            report.model.name = "sprites"
            group.take_ready(report)
            front.group_ready(group)
            if epoch == 1:
                front.group_lost(Loss(message="the cable was cut", cause="connection"))
        for closed in (front._store, front._spool, front._checkpoints, front._data_dir):
            closed.close()
        return front._metrics

    metrics = asyncio.run(asyncio.wait_for(scenario(), 20))
    (up,), (config,) = metrics.ranks.up.collect(), metrics.config_info.collect()
    assert [sample.labels["rank"] for sample in up.samples] == ["0", "1", "2", "3"]
    (running,) = config.samples
    assert running.labels["world_size"] == "4"
    assert running.labels["parallel_layout"] == "2 clips x 2 cfg x 1 context"
