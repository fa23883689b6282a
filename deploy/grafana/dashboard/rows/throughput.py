"""How much is made, and what the time goes into."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, graph
from deploy.grafana.dashboard.promql import (
    WINDOW,
    here,
    mean,
    of_gpu,
    of_model,
    of_the_group,
    quantile,
    rate,
    ratio,
)

BUSY = of_gpu("vinf_worker_busy_seconds_total")


def row() -> Row:
    """Make the row."""
    step = of_model("vinf_denoise_step_duration_seconds")
    return Row(
        "Throughput",
        [
            graph(
                About(
                    "Frames a second by model",
                    "Frames that became ready to be read.",
                    "falling with the same queue: compare 'Denoising step' and the row Per GPU.",
                    "none",
                ),
                Query(rate(of_model("vinf_generated_frames_total"), "model_name"), "{{model_name}}"),
            ),
            graph(
                About(
                    "Megapixels a second by model",
                    "Pixels of those frames: comparable across frame sizes.",
                    "falling while frames a second stay: users ask for smaller frames.",
                    "none",
                ),
                Query(f"{rate(of_model('vinf_generated_pixels_total'), 'model_name')} / 1e6", "{{model_name}}"),
            ),
            graph(
                About(
                    "Stage time",
                    "Seconds of a second that generations spent in each stage, counted when the stage ends. Waiting "
                    "for other ranks is part of them: 'Rank time by stage' tells it apart.",
                    "decode or deliver growing against denoise: the decoder, the disk or the front is what limits.",
                    "none",
                ),
                Query(rate(f"{_sum_of(of_model('vinf_generation_stage_duration_seconds'))}", "stage"), "{{stage}}"),
                stacked=True,
            ),
            graph(
                About(
                    "Denoising step",
                    "One step of the whole group.",
                    "growing at the same frame count: a slower rank or link; see 'Step skew'.",
                    "s",
                ),
                Query(quantile("0.50", step), "p50"),
                Query(quantile("0.95", step), "p95"),
                Query(mean(step), "mean"),
            ),
            graph(
                About(
                    "Start to end",
                    "Time on the ranks, without the queue, of generations that ended.",
                    "see 'Stage time' for the stage that grew.",
                    "s",
                ),
                Query(quantile("0.50", of_model("vinf_generation_inference_time_seconds")), "p50"),
                Query(quantile("0.95", of_model("vinf_generation_inference_time_seconds")), "p95"),
            ),
            graph(
                About(
                    "Frames a clip",
                    "How many frames of a video a clip has; a rank, or the ranks that share a clip, makes one.",
                    "short clips exchange as much as long ones: fewer ranks, or longer videos.",
                    "none",
                ),
                Query(mean(of_model("vinf_clip_frames"), "model_name"), "{{model_name}}, mean"),
                Query(quantile("0.95", of_model("vinf_clip_frames"), "model_name"), "{{model_name}}, p95"),
            ),
            graph(
                About(
                    "Rank time by stage",
                    "Seconds of a second that a rank spends in each stage, the mean of all; waiting for others apart.",
                    "communicate growing against denoise: see 'Waiting for other ranks' and 'Step skew'.",
                    "none",
                ),
                Query(f"avg by (stage) ({of_the_group(f'rate({BUSY}[{WINDOW}])')})", "{{stage}}"),
                stacked=True,
                size=(6, 8),
            ),
            graph(
                About(
                    "Checkpoints",
                    "Bytes a second of the states that a generation can go on from.",
                    "a large part of what the disk can write: steps wait for it; use a faster one for --data-dir.",
                    "Bps",
                ),
                Query(rate(of_model("vinf_checkpoint_bytes_total"), "model_name"), "{{model_name}}"),
                size=(6, 8),
            ),
            graph(
                About(
                    "Frames from the ranks",
                    "Bytes a second that ranks send to the front, by the way they come.",
                    "near the link's rate: the network limits, not the GPUs.",
                    "Bps",
                ),
                Query(rate(here("vinf_link_frame_bytes_total"), "peer"), "{{peer}}"),
                size=(6, 8),
            ),
            graph(
                About(
                    "Found in the caches",
                    "Share of prompts whose embeddings, and of images whose latents a rank had already.",
                    "low is normal for prompts and images that never repeat.",
                    "percentunit",
                ),
                Query(_found("prompt"), "prompts"),
                Query(_found("image"), "images"),
                size=(6, 8),
                top=1,
            ),
        ],
    )


def _found(cache: str) -> str:
    hits, misses = (rate(of_gpu(f"vinf_worker_{cache}_cache_{what}_total")) for what in ("hits", "misses"))
    return ratio(hits, f"({hits} + {misses})")


def _sum_of(histogram: str) -> str:
    name, brace, matchers = histogram.partition("{")
    return f"{name}_sum{brace}{matchers}"
