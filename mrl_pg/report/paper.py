"""The figures of an evaluation as files for a paper, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrl_pg.errors import MrlError
from mrl_pg.evaluation import Evaluation
from mrl_pg.report.chart import NOTHING_MISSED, Chart, Figure, Series, nines
from mrl_pg.report.choice import DEFAULT_TARGET
from mrl_pg.report.figures import figures
from mrl_pg.report.looks import LOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
# Inches of a chart, and the most charts in a row: two columns of a paper are about seven inches wide.
_WIDE, _NARROW, _HIGH, _IN_A_ROW = 4.8, 3.4, 2.7, 3
_STYLE: Any = {
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mrl-pg",  # the same figures make the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6eb",
    "axes.axisbelow": True,
}


def save_figures(
    evaluation: Evaluation,
    directory: str | Path,
    *,
    target: float = DEFAULT_TARGET,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Returns the files it writes, one for each figure and format: ``recall-by-dims.svg`` and so on.

    :param directory: is made where it does not exist; files of these names are replaced.
    :param target: the recall that is wanted.
    :param formats: endings that matplotlib knows, ``pdf`` too.
    :raises MrlError: where matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MrlError(f"matplotlib cannot be imported ({error}). Run: pip install 'mrl-pg[report]'") from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    with mpl.rc_context(_STYLE):
        for one in figures(evaluation, target=target):
            drawn = _draw(one)
            for ending in formats:
                path = directory / f"{one.name}.{ending}"
                # Without the date, which would make every file a new one.
                metadata = {"Date": None} if ending == "svg" else {"CreationDate": None} if ending == "pdf" else None
                drawn.savefig(path, dpi=200, metadata=metadata)
                saved.append(path)
    return saved


def _draw(one: Figure) -> Any:
    """Returns a figure of matplotlib that no window knows of."""
    from matplotlib.figure import Figure as Drawn

    columns = min(len(one.charts), _IN_A_ROW)
    lines = -(-len(one.charts) // columns)
    width = _WIDE if columns == 1 else columns * _NARROW
    drawn = Drawn(figsize=(width, lines * _HIGH + 0.5), layout="constrained")
    grid = drawn.subplots(lines, columns, squeeze=False)
    panels = [axes for line in grid for axes in line]
    for axes, chart in zip(panels, one.charts, strict=False):
        _chart(axes, chart)
    for axes in panels[len(one.charts) :]:
        axes.set_axis_off()
    handles = {}
    for axes in panels:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    names = [series.name for series in one.legend]
    # An inch of a legend holds about a dozen characters.
    fitting = max(1, int(width * 12 / (max(map(len, names)) + 8)))
    drawn.legend([handles[name] for name in names], names, loc="outside upper center", ncols=fitting, frameon=False)
    return drawn


def _chart(axes: Axes, chart: Chart) -> None:
    axes.set_title(chart.title, fontsize=9)
    axes.set_xlabel(chart.x.name)
    axes.set_ylabel(chart.y.name)
    if chart.x.scale == "log":
        axes.set_xscale("log")
    if chart.y.scale == "nines":
        axes.set_yscale("function", functions=(_nines, _shares))
    shown = [tick for tick in chart.x.ticks if not tick.wide]
    axes.set_xticks([tick.value for tick in shown], [tick.text for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_yticks([tick.value for tick in chart.y.ticks], [tick.text for tick in chart.y.ticks])
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    for series in chart.series:
        _series(axes, series)
    for rule in chart.rules:
        line = axes.axvline if rule.upright else axes.axhline
        line(rule.value, color="#565d6b", linestyle=":", linewidth=1)
        at = (rule.value, chart.y.low) if rule.upright else (chart.x.low, rule.value)
        axes.annotate(
            rule.name,
            at,
            xytext=(-3 if rule.upright else 3, 3),
            textcoords="offset points",
            ha="right" if rule.upright else "left",
            fontsize=7,
            color="#565d6b",
        )


def _series(axes: Axes, series: Series) -> None:
    look = LOOKS[series.look]
    ring = series.look == "pick"
    x = [mark.x for mark in series.marks]
    axes.plot(
        x,
        [mark.y for mark in series.marks],
        label=series.name,
        color=look.light,
        linestyle=(0, [length / 1.5 for length in look.dash] or ()) if series.line else "none",
        linewidth=1.4,
        marker=look.marker if series.dots else "none",
        markersize=11 if ring else 4.5,
        markerfacecolor="none" if ring else look.light,
        markeredgecolor=look.light if ring else "white",
        markeredgewidth=1.2 if ring else 0.4,
        # Marks at the edge are drawn whole.
        clip_on=False,
        zorder=3,
    )
    ends = [(mark.low, mark.high) for mark in series.marks if mark.low is not None and mark.high is not None]
    if series.line and len(ends) == len(x):
        low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=look.light, alpha=0.14, linewidth=0)


def _nines(shares: Any) -> Any:
    import numpy as np

    return np.vectorize(nines, otypes=[float])(np.minimum(shares, 1))


def _shares(along: Any) -> Any:
    """Returns what :func:`_nines` was given."""
    return 1 + NOTHING_MISSED - 10.0**-along
