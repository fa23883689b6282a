"""Is it up, is it fast enough, does it fail: one line of numbers."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import BAD, GOOD, About, Query, above, below, dial, number
from deploy.grafana.dashboard.promql import SHOWN, here, increase, of_model, quantile, rate, ratio, total

FRAME_AT_24_FPS = 0.0417
"""Seconds; an edge of the buckets, so that the share below it is exact."""


def row() -> Row:
    """Make the row."""
    finished = increase(of_model("vinf_generations_finished_total", 'finished_reason=~"succeeded|failed"'), over="1h")
    succeeded = increase(of_model("vinf_generations_finished_total", 'finished_reason="succeeded"'), over="1h")
    return Row(
        "Overview",
        [
            number(
                About(
                    "Ready",
                    "Whether every chosen server has its ranks up and accepts generations.",
                    "see 'Rank up' and 'Restarts a minute', then the log of the rank that ended first.",
                    "none",
                ),
                Query(f"min({here('vinf_ready')})"),
                size=(3, 4),
                spark=True,
                words={1: ("ready", GOOD), 0: ("not ready", BAD)},
            ),
            dial(
                About(
                    "Realtime factor",
                    "Seconds of video made in a second, of the generation that runs or ran last, the slowest model's: "
                    "from 1 on, a video is made faster than it plays. Low in a generation's first steps.",
                    "more ranks, fewer steps or smaller frames; the row Per GPU tells whether ranks compute or wait.",
                    "none",
                ),
                Query(f"min({of_model('vinf_realtime_factor')} > 0)"),
                size=(4, 4),
                limits=below(1.0, 0.8),
                top=2,
                last=True,
            ),
            number(
                About(
                    "Frames a second",
                    "Frames of all chosen models that became ready to be read.",
                    "0 while generations run means that they denoise, or that ranks hang: see 'Heartbeat age'.",
                    "none",
                ),
                Query(rate(of_model("vinf_generated_frames_total"))),
                size=(4, 4),
                spark=True,
                decimals=1,
            ),
            number(
                About(
                    "First frame p95",
                    "Of 100 generations in the shown time, 95 had their first frame within this, counted from when "
                    "they were accepted.",
                    "see 'Queue time': what waits for others needs capacity, what does not needs faster steps.",
                    "s",
                ),
                Query(quantile("0.95", of_model("vinf_time_to_first_frame_seconds"), over=SHOWN)),
                size=(3, 4),
                limits=above(30, 60),
            ),
            number(
                About(
                    "Between frames p95",
                    "Of 100 frames in the shown time, 95 came within this after the one before; 41.7 ms is 24 frames "
                    "a second.",
                    "slices of four frames come together: a large p95 beside a good realtime factor needs a reader "
                    "with a buffer, no change here.",
                    "s",
                ),
                Query(quantile("0.95", of_model("vinf_inter_frame_latency_seconds"), over=SHOWN)),
                size=(4, 4),
                limits=above(FRAME_AT_24_FPS, 1),
            ),
            number(
                About(
                    "Success 1 h",
                    "Generations that succeeded, of those that succeeded or failed in the last hour; cancelled ones "
                    "count as neither.",
                    "see 'Failures a minute' and docs/errors.md for each reason.",
                    "percentunit",
                ),
                Query(ratio(succeeded, finished)),
                size=(3, 4),
                limits=below(0.99, 0.95),
            ),
            dial(
                About(
                    "Queue used",
                    "Generations that wait, of those that may.",
                    "at 100 % new ones are refused with QUEUE_FULL: add servers, or have clients wait.",
                    "percentunit",
                ),
                Query(f"{total(of_model('vinf_generations_waiting'))} / {total(here('vinf_queue_capacity'))}"),
                size=(3, 4),
                limits=above(0.6, 0.8),
            ),
        ],
    )
