"""The few shapes of PromQL that the panels are made of.

Every selector carries the variables of the dashboard that its metric has labels for, so that choosing a model, an
instance or a GPU narrows every panel alike.
"""

from __future__ import annotations

WINDOW = "$__rate_interval"
"""What a graph's rates are taken over: at least four scrapes, at least the space between two points."""

SHOWN = "$__range"
"""The whole time that the dashboard shows: for single numbers, which rare events would leave empty otherwise."""

AGGREGATION = "$agg_method"
"""A quantile as the reader chose it; -1 stands for the mean."""


def here(metric: str, *matchers: str) -> str:
    """Select a metric of the chosen instances."""
    return _selector(metric, *matchers, 'instance=~"$instance"')


def of_model(metric: str, *matchers: str) -> str:
    """Select a metric of the chosen models and instances."""
    return _selector(metric, *matchers, 'model_name=~"$model_name"', 'instance=~"$instance"')


def of_gpu(metric: str, *matchers: str) -> str:
    """Select a metric of the chosen GPUs and instances."""
    return _selector(metric, *matchers, 'gpu=~"$gpu"', 'instance=~"$instance"')


def of_device(dcgm: str, own: str) -> str:
    """Select what NVIDIA's exporter says of the chosen GPUs, or else what the server asked the driver itself.

    The exporter's series carry other labels, and a GPU another number where only some are visible to the server: they
    are joined by UUID, and take the server's labels.

    Args:
        dcgm: an expression over the exporter's metrics, in the unit of ``own``.
        own: the server's metric; empty where only the exporter knows.
    """
    exporter = f'max by (gpu_uuid) (label_replace({dcgm}, "gpu_uuid", "$1", "UUID", "(.+)"))'
    preferred = f"0 * {of_gpu('vinf_gpu_memory_total_bytes')} + on (gpu_uuid) group_left() {exporter}"
    return with_card(f"({preferred}) or {of_gpu(own)}" if own else preferred)


def of_the_group(series: str) -> str:
    """Leave out ranks that only an earlier, larger group had: their counters stay, their gauges do not."""
    return f"{series} and on (instance, rank, gpu) {of_gpu('vinf_worker_up')}"


def with_card(series: str) -> str:
    """Add a label ``card``, the UUID's beginning: on several hosts there are several GPUs of one name."""
    return f'label_replace({series}, "card", "$1", "gpu_uuid", "(.{{12}}).*")'


def _selector(metric: str, *matchers: str) -> str:
    return f"{metric}{{{', '.join(matchers)}}}"


def total(series: str, *by: str) -> str:
    """Sum series, over everything or by labels."""
    return f"sum{_by(by)} ({series})" if by else f"sum({series})"


def rate(counter: str, *by: str, over: str = WINDOW) -> str:
    """Sum what counters grow by in a second."""
    return total(f"rate({counter}[{over}])", *by)


def a_minute(counter: str, *by: str) -> str:
    """Sum what counters grow by in a minute: readable for what happens now and then."""
    return f"60 * {rate(counter, *by)}"


def increase(counter: str, *by: str, over: str = SHOWN) -> str:
    """Sum what counters grew by."""
    return total(f"increase({counter}[{over}])", *by)


def increase_of_any(counter: str, *, over: str = SHOWN) -> str:
    """Sum what counters grew by, new ones included: `increase` takes the first value of a series as old."""
    new = f"min_over_time({counter}[{over}]) unless {counter} offset {over}"
    return f"{increase(counter, over=over)} + ({total(new)} or vector(0))"


def ratio(part: str, whole: str) -> str:
    """Divide; nothing where the whole is 0, not NaN."""
    return f"{part} / ({whole} > 0)"


def buckets(selector: str) -> str:
    """Name the buckets of a histogram; the selector names the histogram."""
    return _suffixed(selector, "_bucket")


def quantile(q: str, selector: str, *by: str, over: str = WINDOW) -> str:
    """Estimate a quantile of a histogram."""
    return f"histogram_quantile({q}, {rate(buckets(selector), 'le', *by, over=over)})"


def mean(selector: str, *by: str, over: str = WINDOW) -> str:
    """Divide a histogram's sum by its count."""
    sums, counts = (rate(_suffixed(selector, end), *by, over=over) for end in ("_sum", "_count"))
    return ratio(sums, counts)


def aggregated(selector: str, *by: str, over: str = WINDOW) -> str:
    """Give the quantile of a histogram that the reader chose, or its mean."""
    chosen = f"({quantile(AGGREGATION, selector, *by, over=over)} and on() (vector({AGGREGATION}) >= 0))"
    return f"{chosen} or ({mean(selector, *by, over=over)} and on() (vector({AGGREGATION}) < 0))"


def _suffixed(selector: str, end: str) -> str:
    name, brace, matchers = selector.partition("{")
    return f"{name}{end}{brace}{matchers}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})"
