"""What a real group exports while it makes a video, and whether the numbers agree with one another."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import Server
from vinf_client import Client

pytestmark = pytest.mark.process

FRAMES, STEPS, SIDE = 24, 4, 64

QUIET = {
    *("vinf_generations_waiting", "vinf_generations_suspended", "vinf_generations_running", "vinf_realtime_factor"),
    *(
        "vinf_generation_failures",
        "vinf_admission_rejections",
        "vinf_generation_resumes",
        "vinf_cancel_latency_seconds",
    ),
    *("vinf_left_out_frames", "vinf_spool_dropped_frames", "vinf_active_streams", "vinf_stream_resumes"),
    *("vinf_worker_restarts", "vinf_worker_recovery_duration_seconds"),
    *("python_gc_objects_uncollectable", "vinf_worker_prompt_cache_hits"),
    *("vinf_worker_image_cache_hits", "vinf_worker_image_cache_misses"),
}
"""What stays at 0 while nothing goes wrong and nobody is there any more."""


class Page:
    """What was scraped."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        samples = [sample for family in self.families.values() for sample in family.samples if sample.name == name]
        found = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        assert found, f"no series of {name} with {labels}"
        return sum(found)


def scrape(server: Server) -> Page:
    return Page(urllib.request.urlopen(server.metrics_url).read().decode())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """After one video that was streamed as it was made, pulled, and watched."""
    with Server(tmp_path_factory.mktemp("metrics"), "--ranks", "2", "--rank-weights", "even") as server:
        with Client(server.address) as client:
            handle = client.submit("a red ball bouncing over the sea", frames=FRAMES, seed=7, steps=STEPS)
            assert len(list(handle.frames())) == FRAMES
            assert handle.wait(timeout=60).state.name == "SUCCEEDED"
            assert list(handle.updates())
            assert len(list(handle.pull())) == FRAMES
        deadline = time.monotonic() + 30
        while True:
            found = scrape(server)
            # Beats come every second, and the disk is looked at every five.
            if found.total("vinf_worker_frames_total") == found.total("vinf_spool_frames") == FRAMES:
                break
            assert time.monotonic() < deadline, found.text
            time.sleep(0.2)  # counters in other processes: nothing to wait on but the clock
        yield found


def test_every_metric_that_must_have_data_has_some(page: Page) -> None:
    silent = {name for name, family in page.families.items() if not any(sample.value for sample in family.samples)}
    absent = {name for name in silent if not page.families[name].samples}
    assert {name for name in absent if not name.startswith("vinf_gpu_")} == set(), "known series start at 0"
    assert silent - absent - QUIET == set()
    assert QUIET - silent == set(), "there are numbers where nothing happened"


def test_frames_of_the_ranks_are_those_made_and_those_read(page: Page) -> None:
    assert page.total("vinf_worker_frames_total") == page.total("vinf_generated_frames_total") == FRAMES
    assert page.total("vinf_clip_frames_sum") == FRAMES
    assert page.total("vinf_clip_frames_count") == 2
    assert page.total("vinf_generated_pixels_total") == FRAMES * SIDE * SIDE
    for method in ("StreamFrames", "PullFrames"):
        assert page.total("vinf_delivered_frames_total", method=method) == FRAMES
        assert page.total("vinf_delivered_bytes_total", method=method) == FRAMES * SIDE * SIDE * 3
    assert page.total("vinf_spool_bytes") == FRAMES * SIDE * SIDE * 3
    assert page.total("vinf_link_frame_bytes_total", peer="unix") == FRAMES * SIDE * SIDE * 3
    # Streamed as it was made, pulled as a recording.
    assert page.total("vinf_frame_age_at_send_seconds_count", method="StreamFrames") == FRAMES
    assert page.total("vinf_frame_age_at_send_seconds_count", method="PullFrames") == 0


def test_steps_and_stages_agree(page: Page) -> None:
    assert page.total("vinf_denoise_step_duration_seconds_count") == STEPS
    assert page.total("vinf_worker_steps_total", rank="0") == page.total("vinf_worker_steps_total", rank="1") == STEPS
    steps = page.total("vinf_denoise_step_duration_seconds_sum")
    stages = {
        stage: page.total("vinf_generation_stage_duration_seconds_sum", stage=stage)
        for stage in ("text", "denoise", "decode", "deliver")
    }
    assert steps <= stages["denoise"] * 1.05
    # What is left are the moments before the first report and after the last one.
    assert sum(stages.values()) == pytest.approx(page.total("vinf_generation_inference_time_seconds_sum"), rel=0.25)
    for rank in ("0", "1"):
        busy = {
            stage: page.total("vinf_worker_busy_seconds_total", rank=rank, stage=stage)
            for stage in ("denoise", "communicate")
        }
        assert 0 < busy["denoise"] < steps
        assert busy["communicate"] > 0
    waits = page.total("vinf_time_to_first_frame_seconds_sum")
    assert waits < page.total("vinf_generation_e2e_latency_seconds_sum")


def test_calls_are_counted_as_they_were_made(page: Page) -> None:
    def handled(method: str, **labels: str) -> float:
        return page.total("grpc_server_handled_total", grpc_method=method, **labels)

    assert handled("CreateGeneration", grpc_code="OK") == 1
    # The client closes a stream behind its last message: before or after the server has.
    assert handled("StreamFrames") == 1
    assert min(handled("PullFrames"), handled("WatchGeneration")) >= 1
    assert page.total("grpc_server_started_total") == page.total("grpc_server_handled_total")


def test_the_page_is_what_prometheus_expects(page: Page) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page.text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
