"""How long users wait: for the first frame, for the next one, for the whole video."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, graph, heat, number
from deploy.grafana.dashboard.promql import SHOWN, WINDOW, aggregated, buckets, increase, mean, of_model, quantile

FIRST_FRAME = of_model("vinf_time_to_first_frame_seconds")
INTER_FRAME = of_model("vinf_inter_frame_latency_seconds")
END_TO_END = of_model("vinf_generation_e2e_latency_seconds")


def row() -> Row:
    """Make the row."""
    return Row(
        "Latency",
        [
            *_figures(
                FIRST_FRAME,
                "Time to first frame",
                "From acceptance to the first frame that can be read.",
                "compare 'Queue time': what is left is text, denoising and the first slice of decoding.",
            ),
            *_figures(
                INTER_FRAME,
                "Between frames",
                "Between successive frames of a generation becoming ready to be read.",
                "frames come in slices of four: the mean tells the rate, p99 the wait between slices.",
            ),
            *_figures(
                END_TO_END,
                "End to end",
                "From acceptance to the end, of generations that ended.",
                "see 'Stage time' for the stage that grew.",
            ),
            heat(
                About(
                    "Time to first frame, spread",
                    "How many generations had their first frame after how long.",
                    "two bands are two kinds of requests, or some that waited and some that did not.",
                    "s",
                ),
                Query(increase(buckets(FIRST_FRAME), "le", over=WINDOW), "{{le}}"),
            ),
            heat(
                About(
                    "Between frames, spread",
                    "How many frames came after how long.",
                    "a band far above the others are slices that waited: for a rank, a disk or a released frame.",
                    "s",
                ),
                Query(increase(buckets(INTER_FRAME), "le", over=WINDOW), "{{le}}"),
            ),
        ],
    )


def _figures(histogram: str, title: str, means: str, when_bad: str) -> list[Panel]:
    over_time = graph(
        About(f"{title}, ${{agg_method:text}}", f"{means} By model and server, as chosen above.", when_bad, "s"),
        Query(
            aggregated(histogram, "model_name", "instance"),
            "{{model_name}} · {{instance}}",
        ),
    )
    numbers = {
        "P99": quantile("0.99", histogram, over=SHOWN),
        "P90": quantile("0.90", histogram, over=SHOWN),
        "mean": mean(histogram, over=SHOWN),
        "P50": quantile("0.50", histogram, over=SHOWN),
    }
    return [
        over_time,
        *(
            number(About(f"{title}, {name}", f"{means} Over the whole time shown.", when_bad, "s"), Query(expr))
            for name, expr in numbers.items()
        ),
    ]
