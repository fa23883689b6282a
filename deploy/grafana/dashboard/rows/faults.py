"""What broke, and how long it took to go on."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import BAD, GOOD, About, Query, above, graph, number, timeline
from deploy.grafana.dashboard.promql import (
    SHOWN,
    a_minute,
    here,
    increase,
    increase_of_any,
    mean,
    of_gpu,
    of_model,
    quantile,
)

RANK = "rank {{rank}} · {{gpu}}"


def row() -> Row:
    """Make the row."""
    recovery = here("vinf_worker_recovery_duration_seconds")
    return Row(
        "Faults",
        [
            timeline(
                About(
                    "Rank up",
                    "Whether a rank's beats arrive.",
                    "red for longer than a start takes: the rank's log in the data directory says why.",
                    "none",
                ),
                Query(of_gpu("vinf_worker_up"), RANK),
                words={1: ("up", GOOD), 0: ("down", BAD)},
                size=(12, 6),
            ),
            graph(
                About(
                    "Restarts a minute",
                    "How often the group of ranks was launched anew, by cause.",
                    "oom: less memory a generation; hang: the network between ranks; signal: who killed it?",
                    "none",
                ),
                Query(a_minute(here("vinf_worker_restarts_total"), "cause"), "{{cause}}"),
                stacked=True,
                bars=True,
                size=(12, 6),
            ),
            graph(
                About(
                    "Heartbeat age",
                    "How long ago each rank's last sign of life came; one comes every second.",
                    "growing on one rank: its process stands still; on all: the front does.",
                    "s",
                ),
                Query(f"time() - {of_gpu('vinf_worker_heartbeat_timestamp_seconds')}", RANK),
                limits=above(5, 30),
            ),
            graph(
                About(
                    "Failures a minute",
                    "Generations that failed, by reason.",
                    "docs/errors.md says of each reason what it means and what to do.",
                    "none",
                ),
                Query(a_minute(of_model("vinf_generation_failures_total"), "reason"), "{{reason}}"),
                stacked=True,
                bars=True,
            ),
            graph(
                About(
                    "Time to recover",
                    "From the loss of a group to the next one that is ready.",
                    "most of it is loading the model: faster disks, or a smaller model.",
                    "s",
                ),
                Query(mean(recovery, "cause"), "{{cause}}, mean"),
                Query(quantile("0.95", recovery, "cause"), "{{cause}}, p95"),
                size=(8, 8),
            ),
            graph(
                About(
                    "Event loop lag",
                    "By how much the front was late to do what was due.",
                    "above 100 ms every call and stream waits: give the front a core of its own.",
                    "s",
                ),
                Query(quantile("0.50", here("vinf_event_loop_lag_seconds")), "p50"),
                Query(quantile("0.99", here("vinf_event_loop_lag_seconds")), "p99"),
                size=(8, 8),
                limits=above(0.1, 0.5),
            ),
            number(
                About(
                    "Time to recover, mean",
                    "Over the whole time shown.",
                    "most of it is loading the model: faster disks, or a smaller model.",
                    "s",
                ),
                Query(mean(recovery, over=SHOWN)),
                size=(4, 4),
            ),
            number(
                About(
                    "Generations resumed",
                    "Those that went on after a fault, a suspension or one of higher priority, in the shown time.",
                    "0 beside restarts: nothing ran then; far more than restarts: see 'Waiting by priority'.",
                    "none",
                ),
                Query(increase(of_model("vinf_generation_resumes_total"))),
                size=(4, 4),
                decimals=0,
            ),
            number(
                About(
                    "Checkpoints complete",
                    "How many were taken in the shown time.",
                    "0 while long generations run: a fault would cost all their steps; is the disk too slow for them?",
                    "none",
                ),
                Query(increase(of_model("vinf_checkpoints_total"))),
                size=(4, 4),
                decimals=0,
            ),
            number(
                About(
                    "XID errors",
                    "Errors the driver reported in the shown time.",
                    "look up the number in NVIDIA's list: 48, 63, 64, 79 and 94 are faults of the hardware.",
                    "none",
                ),
                Query(increase_of_any(of_gpu("vinf_gpu_xid_errors_total"))),
                size=(4, 4),
                limits=((None, GOOD), (1, BAD)),
                decimals=0,
            ),
        ],
    )
