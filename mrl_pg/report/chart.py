"""What a figure shows, whatever draws it: charts of series on two axes, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf, log
from typing import TypeAlias

Cell: TypeAlias = str | int | float | None
Ticks: TypeAlias = tuple[tuple[float, str], ...]

# A phone leaves a chart this many pixels, and a character of a tick takes about so many.
_NARROW, _CHARACTER, _BETWEEN = 270, 7, 8


@dataclass(frozen=True, slots=True)
class Mark:
    """One figure in a chart.

    :ivar tip: what to say of it where it is pointed at; lines.
    :ivar low: lower end of its confidence interval; None without.
    :ivar high: the upper end.
    """

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Marks that belong together.

    :ivar look: a name of :data:`mrl_pg.report.looks.LOOKS`.
    :ivar line: joined by a line.
    :ivar dots: drawn each.
    """

    name: str
    look: str
    marks: tuple[Mark, ...]
    line: bool = True
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale.

    :ivar ticks: values and what to write there.
    :ivar log: equal ratios take equal lengths.
    """

    name: str
    low: float
    high: float
    ticks: Ticks
    log: bool = False

    def at(self, value: float) -> float:
        """Returns where a value lies, from 0 at the low end to 1 at the high end."""
        if self.log:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across a chart at one value: of y, or of x where it is upright."""

    name: str
    value: float
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Series on two axes.

    :ivar title: what sets it apart from the other charts of its figure; empty for the only one.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers under their columns. Floats are shares or figures like them, written with three decimals."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts of one question and their numbers.

    :ivar name: of its files and its anchor.
    :ivar about: how to read it, a sentence or two.
    """

    name: str
    title: str
    about: str
    charts: tuple[Chart, ...]
    table: Table

    @property
    def legend(self) -> tuple[Series, ...]:
        """Its series, each name once, in the order in which they appear."""
        named = {series.name: series for chart in self.charts for series in chart.series}
        return tuple(named.values())


def share_axis(name: str, values: Sequence[float], *, whole: bool = True) -> Axis:
    """Returns an axis between round numbers for shares.

    :param whole: up to 1, however far the values are from it.
    """
    least, most = min(values), 1.0 if whole else max(values)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if step == 0.2 or most - least <= 6 * step)
    # A value that lies on a tick is not below it, but for errors of rounding.
    last = ceil(round(most / step, 6))
    first = min(floor(round(least / step, 6)), last - 2)
    ticks = tuple((n * step, f"{n * step:.{1 if step >= 0.1 else 2}f}") for n in range(first, last + 1))
    return Axis(name, ticks[0][0], ticks[-1][0], ticks)


def value_axis(name: str, values: Sequence[float]) -> Axis:
    """Returns a logarithmic axis that says the values themselves, those left out that would not fit on a phone."""
    distinct = sorted(set(values))
    low, high = (distinct[0], distinct[-1]) if len(distinct) > 1 else (distinct[0] / 2, distinct[0] * 2)
    axis = Axis(name, low, high, tuple((value, f"{value:g}") for value in distinct), log=True)
    return replace(axis, ticks=_thinned(axis))


def log_axis(name: str, values: Sequence[float], units: Sequence[float], label: Callable[[float], str]) -> Axis:
    """Returns a logarithmic axis with room around the values, and round ticks.

    :param units: what ticks count, ascending: 1, 2, 5, 10, 20, 50 … of each, below one of the next.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks: list[float] = []
    # The coarsest round numbers of which at least three fall on the axis; the finest where none do.
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(n / 10 for n in range(10, 100))):
        ticks = [
            tick
            for unit, following in zip(units, [*units[1:], inf], strict=True)
            for power in range(5)
            for mantissa in mantissas
            if (tick := mantissa * 10**power * unit) < following and low <= tick <= high
        ]
        if len(ticks) >= 3:
            break
    axis = Axis(name, low, high, tuple((tick, label(tick)) for tick in ticks), log=True)
    return replace(axis, ticks=_thinned(axis))


def _thinned(axis: Axis) -> Ticks:
    """Returns the ticks of a horizontal axis, the last one and before it those that leave a gap between their texts."""
    kept: list[tuple[float, str]] = []
    edge = inf
    for value, text in reversed(axis.ticks):
        at, half = axis.at(value) * _NARROW, len(text) * _CHARACTER / 2
        if at + half + _BETWEEN <= edge:
            kept.append((value, text))
            edge = at - half
    return tuple(reversed(kept))
