"""A story through a real server with real ranks: from the file to the frames, and what the ranks' caches tell."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.support.server import Server

pytestmark = pytest.mark.process

RED, STAR, BOX = (
    "a red ball bouncing over the sea",
    "a yellow star circling over the city",
    "a purple box sliding over the meadow",
)
FRAMES = ("--frames", "21", "--seed", "7", "--steps", "6")


def cache_counts(server: Server, *, asked: int) -> dict[str, float]:
    """Hits and misses of each rank once the beats, one a second, have told of this many prompts in all."""
    deadline = time.monotonic() + 20
    while True:
        text: str = urllib.request.urlopen(server.metrics_url).read().decode()
        counts = {
            f"{line.split('_')[4]} {line.split('rank=')[1][1]}": float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith(("vinf_worker_prompt_cache_hits_total{", "vinf_worker_prompt_cache_misses_total{"))
        }
        if sum(counts.values()) >= asked:
            return counts
        assert time.monotonic() < deadline, f"{asked} prompts were asked for, the metrics tell of {counts}"
        time.sleep(0.2)  # a counter in another process: nothing to wait on but the clock


def test_a_story_from_file_to_frames(tmp_path: Path) -> None:
    story = tmp_path / "story.json"

    def tell(server: Server, segments: list[dict[str, object]], name: str) -> tuple[np.ndarray, dict]:
        story.write_text(json.dumps({"prompt": RED, "segments": segments}))
        out = tmp_path / f"{name}.npy"
        done = server.vinf("generate", "--story", str(story), *FRAMES, "-o", str(out), "--json")
        return np.load(out).astype(int), json.loads(done.stdout)

    # Clips are frames 0 to 10 and 11 to 20: the transition crosses the boundary.
    segments: list[dict[str, object]] = [
        {"start_frame": 8, "prompt": STAR, "transition_frames": 6},
        {"start_frame": 16, "prompt": BOX, "cut": True},
    ]
    with Server(tmp_path, "--ranks", "2") as server:
        video, figures = tell(server, segments, "story")
        assert video.shape == (21, 64, 64, 3)
        told = [
            {key: value for key, value in entry.items() if value}
            for entry in figures["resolved_spec"]["prompt_segments"]
        ]
        assert told == segments
        # Rank 0 sees two prompts, rank 1 three; the empty negative prompt besides.
        counts = cache_counts(server, asked=7)
        assert counts == {"hits 0": 0, "hits 1": 0, "misses 0": 3, "misses 1": 4}

        again, _ = tell(server, segments, "again")
        np.testing.assert_array_equal(again, video, err_msg="embeddings from the cache make another video")
        assert cache_counts(server, asked=14) == {"hits 0": 3, "hits 1": 4, "misses 0": 3, "misses 1": 4}

        plain = tmp_path / "plain.npy"
        server.vinf("generate", RED, *FRAMES, "-o", str(plain))
        assert abs(np.load(plain).astype(int) - video).mean() > 1, "the segments change nothing"
        same, _ = tell(server, [{"start_frame": 8, "prompt": RED, "transition_frames": 6}], "same")
        np.testing.assert_array_equal(same, np.load(plain), err_msg="a segment with the same prompt changes the video")

        story.write_text(
            json.dumps({"prompt": "a red zebra", "segments": [{"start_frame": 21, "prompt": STAR}, *segments[:1]]})
        )
        refused = server.vinf("generate", "--story", str(story), *FRAMES, "-o", str(tmp_path / "x.npy"), expect=2)
        assert "Traceback" not in refused.stderr
        assert "story: prompt: has words this model does not know: 'zebra'" in refused.stderr
        assert "story: segments[0].start_frame: must be in [1, 20], got 21" in refused.stderr
