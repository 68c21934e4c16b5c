"""Marks and cells for the summaries of an evaluation, said the same way in every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mrl_pg.evaluation import Point
from mrl_pg.metrics import Summary
from mrl_pg.report.chart import Cell, Mark, Series
from mrl_pg.report.choice import CONTROL
from mrl_pg.report.units import figure, interval, share

SPREAD = ("95 % interval", "5th percentile", "worst query")


def summary_mark(x: float, summary: Summary, of: str, name: str) -> Mark:
    """Returns a mean with its interval, and what to say where it is pointed at.

    :param of: what it is a figure of.
    :param name: of the figure.
    """
    tip = f"{of}\n{name} {figure(summary)}\n5th percentile {share(summary.p5)}, worst query {share(summary.worst)}"
    return Mark(x, summary.mean, tip, summary.low, summary.high)


def spread(summary: Summary) -> tuple[Cell, ...]:
    """Returns the cells of a mean and of :data:`SPREAD`."""
    return summary.mean, interval(summary), summary.p5, summary.worst


def mean(summary: Summary) -> tuple[Cell, ...]:
    """Returns the cells of a mean and its interval."""
    return summary.mean, interval(summary)


def by_kind(points: Sequence[Point], marks: Callable[[Point], Iterable[Mark]]) -> tuple[Series, ...]:
    """Returns a series for each kind among some points, of the marks of each point."""
    kinds = dict.fromkeys(point.kind for point in points)
    return tuple(
        Series(
            "random (control)" if kind == CONTROL else kind,
            kind,
            tuple(mark for point in points if point.kind == kind for mark in marks(point)),
        )
        for kind in kinds
    )


def prefix_name(point: Point) -> str:
    """Returns the kind and the dims of a prefix."""
    return f"{point.kind} {point.dims}"
