"""What a figure shows, whatever draws it: charts of series on two axes, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf, log, log10
from typing import Literal, TypeAlias

Cell: TypeAlias = str | int | float | None

# What is missed where nothing is, so that it has a place on an axis of nines.
NOTHING_MISSED = 0.005

# The narrowest chart has this many pixels; from so many on (see report.css) it is a wide one.
_NARROW, _WIDE = 190, 420
# A character of a tick takes about so many, and texts want so many between them.
_CHARACTER, _BETWEEN = 7, 6


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
class Tick:
    """Where an axis says its value.

    :ivar wide: left out where there is not much room.
    """

    value: float
    text: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale.

    :ivar scale: ``log``: equal ratios take equal lengths; ``nines``: shares, ever wider towards 1; ``names``: a place
        for each of some names, of a vertical axis.
    """

    name: str
    low: float
    high: float
    ticks: tuple[Tick, ...]
    scale: Literal["linear", "log", "nines", "names"] = "linear"

    def at(self, value: float) -> float:
        """Returns where a value lies, from 0 at the low end to 1 at the high end."""
        low, high = self._along(self.low), self._along(self.high)
        return (self._along(value) - low) / (high - low)

    def _along(self, value: float) -> float:
        if self.scale == "log":
            return log(value)
        return nines(value) if self.scale == "nines" else value


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


def nines(share: float) -> float:
    """Returns how many nines a share has, roughly: what is missed, on a logarithmic scale that has an end."""
    return -log10(1 + NOTHING_MISSED - share)


def nines_axis(name: str, values: Sequence[float]) -> Axis:
    """Returns an axis for shares near 1, where choices are made: each step misses about half of the one before."""
    steps = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1)
    first = min(sum(step <= min(values) for step in steps) - 1, len(steps) - 4)
    return Axis(name, steps[first], 1, tuple(Tick(step, f"{step:g}") for step in steps[first:]), "nines")


def share_axis(name: str, values: Sequence[float], *, whole: bool = True) -> Axis:
    """Returns an axis between round numbers for shares.

    :param whole: up to 1, however far the values are from it.
    """
    least, most = min(values), 1.0 if whole else max(values)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if step == 0.2 or most - least <= 6 * step)
    # A value that lies on a tick is not below it, but for errors of rounding.
    last = ceil(round(most / step, 6))
    first = min(floor(round(least / step, 6)), last - 2)
    ticks = tuple(Tick(n * step, f"{n * step:.{1 if step >= 0.1 else 2}f}") for n in range(first, last + 1))
    return Axis(name, ticks[0].value, ticks[-1].value, ticks)


def names_axis(names: Sequence[str]) -> Axis:
    """Returns a vertical axis with a line for each name, the first one, whose value is 0, on top."""
    return Axis("", len(names) - 0.5, -0.5, tuple(Tick(n, name) for n, name in enumerate(names)), "names")


def value_axis(name: str, values: Sequence[float], label: Callable[[float], str] = "{:g}".format) -> Axis:
    """Returns a logarithmic axis that says the values themselves."""
    distinct = sorted(set(values))
    low, high = (distinct[0], distinct[-1]) if len(distinct) > 1 else (distinct[0] / 2, distinct[0] * 2)
    return _fitted(Axis(name, low, high, tuple(Tick(value, label(value)) for value in distinct), "log"))


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
            # What is nearly one of the next unit is said by that.
            if (tick := mantissa * 10**power * unit) < following / 1.1 and low <= tick <= high
        ]
        if len(ticks) >= 3:
            break
    return _fitted(Axis(name, low, high, tuple(Tick(tick, label(tick)) for tick in ticks), "log"))


def _fitted(axis: Axis) -> Axis:
    """Returns a horizontal axis whose texts do not run into each other, however narrow it is."""
    wide = _apart(axis, axis.ticks, _WIDE)
    narrow = _apart(axis, wide, _NARROW)
    return replace(axis, ticks=tuple(replace(tick, wide=tick not in narrow) for tick in wide))


def _apart(axis: Axis, ticks: Sequence[Tick], width: int) -> list[Tick]:
    """Returns the last one of some ticks, and before it those that leave a gap on so many pixels."""
    kept: list[Tick] = []
    edge = inf
    for tick in reversed(ticks):
        at, half = axis.at(tick.value) * width, len(tick.text) * _CHARACTER / 2
        if at + half + _BETWEEN <= edge:
            kept.insert(0, tick)
            edge = at - half
    return kept
