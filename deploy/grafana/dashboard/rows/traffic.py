"""What comes in, what waits, how it ends."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, graph
from deploy.grafana.dashboard.promql import a_minute, here, of_model, quantile, total


def row() -> Row:
    """Make the row."""
    queue_time = of_model("vinf_generation_queue_time_seconds")
    cancelling = here("vinf_cancel_latency_seconds")
    return Row(
        "Traffic and queue",
        [
            graph(
                About(
                    "Generations now",
                    "How many run, wait and are suspended.",
                    "suspended ones wait for the disk or for their readers: see 'Disk used' and 'Clients stall'.",
                    "none",
                ),
                Query(total(of_model("vinf_generations_running")), "running"),
                Query(total(of_model("vinf_generations_waiting")), "waiting"),
                Query(total(of_model("vinf_generations_suspended"), "reason"), "suspended: {{reason}}"),
            ),
            graph(
                About(
                    "Finished a minute",
                    "Generations that ended, by how.",
                    "failed: see 'Failures a minute'; lease_expired: nobody asked for them; deadline: too late.",
                    "none",
                ),
                Query(a_minute(of_model("vinf_generations_finished_total"), "finished_reason"), "{{finished_reason}}"),
                stacked=True,
                bars=True,
            ),
            graph(
                About(
                    "Refused a minute",
                    "CreateGeneration calls that were refused, by reason.",
                    "queue_full or disk_full: no room; invalid or too_large: a client asks for what it cannot get.",
                    "none",
                ),
                Query(a_minute(here("vinf_admission_rejections_total"), "reason"), "{{reason}}"),
                stacked=True,
                bars=True,
            ),
            graph(
                About(
                    "Queue time",
                    "From acceptance to the start, of generations that started.",
                    "growing: more comes in than is made; add servers, or lower --max-waiting so that clients know.",
                    "s",
                ),
                Query(quantile("0.50", queue_time), "p50"),
                Query(quantile("0.95", queue_time), "p95"),
                Query(quantile("0.99", queue_time), "p99"),
            ),
            graph(
                About(
                    "Waiting by priority",
                    "Generations in the queue, 9 being the first to go.",
                    "low priorities that never fall wait behind steady work of higher ones.",
                    "none",
                ),
                Query(f"{total(of_model('vinf_generations_waiting'), 'priority')} > 0", "priority {{priority}}"),
                stacked=True,
            ),
            graph(
                About(
                    "Time to cancel",
                    "From the wish to end a running generation until the ranks have stopped.",
                    "a rank agrees to stop between steps: as long as a step is normal, more is a rank that hangs.",
                    "s",
                ),
                Query(quantile("0.50", cancelling), "p50"),
                Query(quantile("0.95", cancelling), "p95"),
            ),
        ],
    )
