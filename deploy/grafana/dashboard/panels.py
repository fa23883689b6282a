"""Panels of one look: what every graph, number, gauge, heatmap and timeline of the dashboard has in common."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import gauge as gauges
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import prometheus, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import statetimeline as timelines
from grafana_foundation_sdk.models import common, dashboard, heatmap
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${DS_PROMETHEUS}")

GOOD, WARN, BAD, PLAIN = "green", "yellow", "red", "blue"

Limits = tuple[tuple[float | None, str], ...]
"""Colours from a value on; the first value is None."""

NO_LIMITS: Limits = ((None, PLAIN),)

Builder = timeseries.Panel | stats.Panel | gauges.Panel | heatmaps.Panel | timelines.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel, and the name of its lines: ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What stands above a panel and behind its (i).

    Attributes:
        title: above it.
        means: what the numbers are.
        when_bad: what to look at or do when they are not as they should be.
        unit: Grafana's name of the unit.
    """

    title: str
    means: str
    when_bad: str
    unit: str

    @property
    def description(self) -> str:
        """The text behind the (i)."""
        return f"{self.means}\n\n**When it is bad:** {self.when_bad}"


def above(warn: float, bad: float) -> Limits:
    """Colour what should be small."""
    return ((None, GOOD), (warn, WARN), (bad, BAD))


def below(warn: float, bad: float) -> Limits:
    """Colour what should be large: bad under ``bad``, good from ``warn`` on."""
    return ((None, BAD), (bad, WARN), (warn, GOOD))


def graph(
    about: About,
    *queries: Query,
    size: tuple[int, int] = (12, 8),
    limits: Limits = NO_LIMITS,
    stacked: bool = False,
    bars: bool = False,
    top: float | None = None,
) -> dashboard.Panel:
    """Lines over time.

    Args:
        about: title, meaning, unit.
        queries: one or more, each for one or more lines.
        size: width and height on the grid.
        limits: dashed lines across.
        stacked: one stands on the other.
        bars: not lines.
        top: what the axis reaches at least.
    """
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(60 if bars else 30 if stacked else 8)
        .show_points(common.VisibilityMode.AUTO)
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))
        .tooltip(look.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .legend(
            look.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "mean", "max"])
            .sort_by("Max")
            .sort_desc(True)
            .show_legend(True)
        )
        .thresholds(_thresholds(limits))
        .min(0)
    )
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(look.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if limits is not NO_LIMITS:
        panel.thresholds_style(look.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    if top is not None:
        panel.axis_soft_max(top)
    return _finished(panel, about, queries, size)


def number(
    about: About,
    *queries: Query,
    size: tuple[int, int] = (6, 4),
    limits: Limits = NO_LIMITS,
    spark: bool = False,
    words: dict[float, tuple[str, str]] | None = None,
    decimals: int | None = None,
    names: bool = False,
) -> dashboard.Panel:
    """One number; with ``spark`` its last hours behind it, otherwise it is about the whole time shown.

    Args:
        about: title, meaning, unit.
        queries: as a rule one.
        size: width and height on the grid.
        limits: its colours.
        spark: whether the query is one over time.
        words: what to show instead of a value, and in which colour.
        decimals: digits behind the point.
        names: show the names of the series, not their values: what the labels say.
    """
    panel = (
        stats.Panel()
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA if spark else common.BigValueGraphMode.NONE)
        .reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(limits))
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .no_value("no data")
    )
    if words:
        panel.mappings([_worded(words)])
    if decimals is not None:
        panel.decimals(decimals)
    if names:
        panel.text_mode(common.BigValueTextMode.NAME)
    return _finished(panel, about, queries, size, instant=not spark)


def dial(
    about: About,
    *queries: Query,
    size: tuple[int, int] = (6, 8),
    limits: Limits,
    top: float = 1,
    last: bool = False,
) -> dashboard.Panel:
    """A gauge from 0 to ``top``, one dial a series: of what is now, or with ``last`` of the last value there was."""
    panel = (
        gauges.Panel()
        .reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]))
        .show_threshold_markers(True)
        .thresholds(_thresholds(limits))
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .min(0)
        .max(top)
        .no_value("no data")
    )
    return _finished(panel, about, queries, size, instant=not last)


def heat(about: About, query: Query, *, size: tuple[int, int] = (12, 8)) -> dashboard.Panel:
    """How many observations fell into each bucket of a histogram, over time."""
    panel = (
        heatmaps.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmaps.HeatmapColorOptions()
            .mode(heatmap.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .fill("dark-orange")
            .scale(heatmap.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .filter_values(heatmaps.FilterValueRange().le(1e-9))
        .y_axis(heatmaps.YAxisConfig().unit(about.unit))
        .show_legend()
    )
    return _finished(panel, about, (query,), size, form=PromQueryFormat.HEATMAP)


def timeline(
    about: About, query: Query, *, words: dict[float, tuple[str, str]], size: tuple[int, int] = (12, 8)
) -> dashboard.Panel:
    """One bar a series, coloured by what it was at the time."""
    panel = (
        timelines.Panel()
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(80)
        .mappings([_worded(words)])
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(NO_LIMITS))
        .legend(
            look.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    return _finished(panel, about, (query,), size)


def _finished(
    panel: Builder,
    about: About,
    queries: tuple[Query, ...],
    size: tuple[int, int],
    *,
    instant: bool = False,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> dashboard.Panel:
    width, height = size
    panel.title(about.title).description(about.description).unit(about.unit).datasource(SOURCE)
    panel.span(width).height(height)
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE).format(form)
        target.legend_format(query.legend or "__auto")
        panel.with_target(target.instant() if instant else target.range())
    return panel.build()


def _thresholds(limits: Limits) -> build.ThresholdsConfig:
    steps = [dashboard.Threshold(value=value, color=colour) for value, colour in limits]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _worded(words: dict[float, tuple[str, str]]) -> dashboard.ValueMapping:
    results = {
        f"{value:g}": dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(words.items())
    }
    return dashboard.ValueMap(options=results)
