"""Charts as SVG that is laid out by the browser: any width, text always of the same size, no script needed.

Marks and texts have their places in percent. Only lines need a viewBox, one that is stretched while strokes are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mrl_pg.report.chart import Axis, Chart, Figure, Mark, Series
from mrl_pg.report.looks import LOOKS
from mrl_pg.report.markup import joined, tag

# Of the viewBox that lines are drawn in.
_SIDE = 1_000


def legend(figure: Figure) -> Markup:
    """Returns what the series of a figure look like."""
    items = [tag("li", _sample(series), tag("span", series.name)) for series in figure.legend]
    return tag("ul", *items, class_="legend")


def chart_svg(chart: Chart, *, label: str) -> Markup:
    """Returns a chart.

    :param label: what it shows, for those who cannot see it.
    """
    parts = [
        _grid(chart),
        *([tag("text", chart.y.name, class_="name", x="-40", y="-14")] if chart.y.name else []),
        tag("text", chart.x.name, class_="name", x="50%", y="100%", dy="38", text_anchor="middle"),
        tag(
            "svg",
            *(_lines(chart, series) for series in chart.series),
            class_="lines",
            viewBox=f"0 0 {_SIDE} {_SIDE}",
            preserveAspectRatio="none",
        ),
        *(_marks(chart, series) for series in chart.series if series.dots),
    ]
    # A group with a label is read out whole; the marks in it are what the arrow keys go through.
    return tag("svg", joined(parts), role="img", aria_label=label, tabindex=0)


def _grid(chart: Chart) -> Markup:
    """Returns the lines and texts of the axes, and the rules."""
    parts: list[Markup] = []
    for tick in chart.y.ticks:
        y = _percent(1 - chart.y.at(tick.value))
        parts.append(tag("line", x1=0, x2="100%", y1=y, y2=y))
        parts.append(tag("text", tick.text, x=-8, y=y, dy="0.35em", text_anchor="end"))
    for tick in chart.x.ticks:
        x = _percent(chart.x.at(tick.value))
        wide = "wide" if tick.wide else None
        parts.append(tag("line", x1=x, x2=x, y1=0, y2="100%"))
        parts.append(tag("text", tick.text, x=x, y="100%", dy="19", text_anchor="middle", class_=wide))
    for rule in chart.rules:
        if rule.upright:
            x = _percent(chart.x.at(rule.value))
            parts.append(tag("line", x1=x, x2=x, y1=0, y2="100%", class_="rule"))
            parts.append(tag("text", rule.name, x=x, y="100%", dx=-5, dy=-7, text_anchor="end", class_="ruled"))
        else:
            y = _percent(1 - chart.y.at(rule.value))
            parts.append(tag("line", x1=0, x2="100%", y1=y, y2=y, class_="rule"))
            parts.append(tag("text", rule.name, x=0, y=y, dx=6, dy=-6, class_="ruled"))
    return tag("g", *parts, class_="grid", aria_hidden="true")


def _lines(chart: Chart, series: Series) -> Markup:
    """Returns the line of a series and the band of its intervals."""
    if not series.line or len(series.marks) < 2:
        return Markup("")
    at = [(chart.x.at(mark.x), mark) for mark in series.marks]
    high = [(x, chart.y.at(mark.high)) for x, mark in at if mark.high is not None]
    low = [(x, chart.y.at(max(mark.low, chart.y.low))) for x, mark in at if mark.low is not None]
    parts = [tag("path", d=_path([(x, chart.y.at(mark.y)) for x, mark in at]), class_="line")]
    if high and low:
        parts.insert(0, tag("path", d=_path([*high, *reversed(low)]) + "z", class_="band"))
    return tag("g", *parts, class_=f"look-{series.look}")


def _marks(chart: Chart, series: Series) -> Markup:
    """Returns the marks of a series, each with its figures as a title that browsers show without a script."""
    marks = [_mark(mark, chart.x, chart.y, series.look) for mark in series.marks]
    return tag("g", *marks, class_=f"look-{series.look}")


def _mark(mark: Mark, x: Axis, y: Axis, look: str) -> Markup:
    return tag(
        "svg",
        tag("title", mark.tip),
        tag("path", d=LOOKS[look].path),
        class_="mark",
        x=_percent(x.at(mark.x)),
        y=_percent(1 - y.at(mark.y)),
    )


def _sample(series: Series) -> Markup:
    """Returns a piece of a series for the legend."""
    parts = [tag("line", x1=0, x2=30, y1=9, y2=9, class_="line")] if series.line else []
    if series.dots:
        parts.append(tag("svg", tag("path", d=LOOKS[series.look].path), x=15, y=9, class_="mark"))
    return tag("svg", *parts, width=30, height=18, class_=f"sample look-{series.look}", aria_hidden="true")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * _SIDE:.1f},{(1 - y) * _SIDE:.1f}" for x, y in points)


def _percent(share: float) -> str:
    return f"{share * 100:.2f}%"
