"""Names and label sets that dashboards rely on."""

from __future__ import annotations

import asyncio
import platform
import threading
import time

import pytest
from prometheus_client import generate_latest

from tests.server.fakes import until
from vinf_server.flag_values import RankMesh

pytestmark = pytest.mark.fast


def test_known_series_start_at_zero(metrics):
    metrics.model_is_known("sprites", world_size=2, dtype="float32")
    metrics.ranks.rank_is_known(1, "cuda:1")
    page = generate_latest(metrics.registry).decode()
    for line in (
        "vinf_ready 0.0",
        'vinf_generations_running{model_name="sprites"} 0.0',
        'vinf_generations_waiting{model_name="sprites",priority="5"} 0.0',
        'vinf_generations_finished_total{finished_reason="succeeded",model_name="sprites"} 0.0',
        'vinf_generation_failures_total{model_name="sprites",reason="WORKER_LOST"} 0.0',
        'vinf_admission_rejections_total{reason="queue_full"} 0.0',
        'vinf_checkpoints_total{model_name="sprites"} 0.0',
        'vinf_checkpoint_bytes_total{model_name="sprites"} 0.0',
        'vinf_generation_resumes_total{model_name="sprites"} 0.0',
        'vinf_generated_frames_total{model_name="sprites"} 0.0',
        'vinf_time_to_first_frame_seconds_count{model_name="sprites"} 0.0',
        'vinf_inter_frame_latency_seconds_bucket{le="0.0417",model_name="sprites"} 0.0',
        'vinf_denoise_step_duration_seconds_count{model_name="sprites"} 0.0',
        'vinf_delivered_frames_total{encoding="raw",method="StreamFrames"} 0.0',
        'vinf_worker_frames_total{gpu="cuda:1",rank="1"} 0.0',
        'vinf_worker_prompt_cache_hits_total{gpu="cuda:1",rank="1"} 0.0',
        'vinf_worker_prompt_cache_misses_total{gpu="cuda:1",rank="1"} 0.0',
        'vinf_worker_image_cache_hits_total{gpu="cuda:1",rank="1"} 0.0',
        'vinf_worker_image_cache_misses_total{gpu="cuda:1",rank="1"} 0.0',
        'vinf_worker_busy_seconds_total{gpu="cuda:1",rank="1",stage="communicate"} 0.0',
        'vinf_worker_restarts_total{cause="signal"} 0.0',
        'vinf_link_frame_bytes_total{peer="unix"} 0.0',
        'vinf_left_out_frames_total{method="PullFrames",reason="FRAME_EVICTED"} 0.0',
    ):
        assert f"\n{line}\n" in page, line
    assert 'vinf_build_info{api_version="v1",version="' in page


def test_the_configuration_is_that_of_the_newest_group(metrics):
    for ranks in (6, 4):
        metrics.model_is_known(
            "sprites", world_size=ranks, dtype="float32", parallel_layout=RankMesh(cfg=2).layout(ranks)
        )
    (family,) = metrics.config_info.collect()
    assert [sample.labels for sample in family.samples] == [
        {
            "model_name": "sprites",
            "world_size": "4",
            "dtype": "float32",
            "parallel_layout": "2 clips x 2 cfg x 1 context",
        }
    ]


def test_labels_have_few_values(metrics):
    metrics.model_is_known("sprites", world_size=2, dtype="float32")
    families = [family for family in metrics.registry.collect() if not family.name.startswith("python_")]
    names = {label for family in families for s in family.samples for label in s.labels}
    allowed = {
        "model_name",
        "finished_reason",
        "reason",
        "cause",
        "method",
        "encoding",
        "pixel_format",
        "le",
        "version",
    }
    configuration = {"api_version", "world_size", "dtype", "parallel_layout"}
    assert names <= allowed | configuration | {"rank", "gpu", "stage", "peer", "priority"}


def test_a_loop_that_is_held_is_late(metrics, sample):
    async def scenario():
        watch = asyncio.create_task(metrics.process.watch_event_loop())
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251  # that is the point
        await until(lambda: sample("vinf_event_loop_lag_seconds_count"))
        watch.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert sample("vinf_event_loop_lag_seconds_sum") >= 0.1


def test_the_process_shows_itself(sample):
    assert sample("process_resident_memory_bytes") > 1 << 20
    assert sample("process_threads") >= threading.active_count()
    assert sample("python_gc_collections_total", generation="0") > 0
    assert sample("python_info", **_python()) == 1


def _python():
    version = platform.python_version_tuple()
    names = ("major", "minor", "patchlevel")
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        **dict(zip(names, version, strict=True)),
    }
