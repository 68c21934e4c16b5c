"""Which (candidates, ef_search) to measure, what was measured there, and the cheapest that reaches a recall."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from mrl_pg.metrics import PerQuery, summarise

# Queries after which a recall may be clear, and how many standard errors from every target that is.
_ENOUGH_QUERIES, _CLEAR = 100, 3.0
# Of the cheapest point: what fewer candidates cannot save any more, once ef_search makes for most of the cost.
_TOO_MUCH = 1.5


class Measured(Protocol):
    """Whatever was measured at a point."""

    @property
    def recall(self) -> float:
        """Mean recall@k over the queries."""

    @property
    def p50_ms(self) -> float:
        """Median latency."""


One = TypeVar("One", bound=Hashable)
OneMeasured = TypeVar("OneMeasured", bound=Measured)


class Point(NamedTuple):
    """How much a search looks at."""

    candidates: int
    ef_search: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The values a method is tried with, each ascending."""

    candidates: tuple[int, ...]
    ef_search: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one point of a method costs and finds.

    :ivar recall: mean recall@k over the queries; ``low`` and ``high`` bound it with 95 % confidence.
    :ivar qps: queries/s of one client that waits for each answer.
    """

    candidates: int
    ef_search: int
    queries: int
    recall: float
    low: float
    high: float
    p50_ms: float
    p95_ms: float
    qps: float

    @property
    def point(self) -> Point:
        """Where it was measured."""
        return Point(self.candidates, self.ef_search)


def figures(point: Point, recalls: PerQuery, seconds: PerQuery) -> Figures:
    """Returns the figures of a point from the recall of each query and the seconds of each search."""
    summary = summarise(recalls)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return Figures(
        candidates=point.candidates,
        ef_search=point.ef_search,
        queries=len(recalls),
        recall=round(summary.mean, 9),  # 4,925 of 5,000 are .985 and not a hair less
        low=summary.low,
        high=summary.high,
        p50_ms=float(p50),
        p95_ms=float(p95),
        qps=float(len(seconds) / seconds.sum()),
    )


def is_clear(recalls: PerQuery, targets: Iterable[float]) -> bool:
    """Returns whether the recall of some queries tells on which side of each target that of all of them is."""
    error = recalls.std() / np.sqrt(len(recalls))
    return len(recalls) >= _ENOUGH_QUERIES and all(abs(recalls.mean() - t) > _CLEAR * error for t in targets)


def next_point(grid: Grid, targets: Iterable[float], seen: Mapping[Point, Figures]) -> Point | None:
    """Returns the point to measure next, None when all are known that can be the cheapest for a target.

    Recall and cost both rise with candidates and with ef_search. So for each target this walks down the stairs between
    the points that reach it and those that miss it, from most candidates and least ef_search: fewer candidates after a
    point that reaches the target, a larger ef_search after one that misses it. Every other point that reaches it has
    one on the stairs that looks at less. The walk ends where even what misses costs too much.

    :param seen: the points measured so far.
    """
    for target in targets:
        candidates, ef_searches = list(grid.candidates), list(grid.ef_search)
        lowest = math.inf
        while candidates and ef_searches:
            point = Point(candidates[-1], ef_searches[0])
            if point not in seen:
                return point
            if seen[point].recall >= target:
                lowest = min(lowest, seen[point].p50_ms)
                candidates.pop()
            elif seen[point].p50_ms > _TOO_MUCH * lowest:
                break
            else:
                ef_searches.pop(0)
    return None


def next_points(
    grids: Mapping[One, Grid], targets: Iterable[float], seen: Mapping[One, Mapping[Point, Figures]]
) -> dict[One, Point]:
    """Returns the next point of each method or prefix that has one left."""
    found = {one: next_point(grid, targets, seen[one]) for one, grid in grids.items()}
    return {one: point for one, point in found.items() if point is not None}


def cheapest(measured: Sequence[Figures], target: float) -> Figures | None:
    """Returns the figures with the lowest median latency among those that reach a recall, None where none does."""
    return min((one for one in measured if one.recall >= target), key=lambda one: one.p50_ms, default=None)


def best(measured: Sequence[Figures]) -> Figures:
    """Returns the figures with the highest recall, the cheapest of them."""
    return max(measured, key=lambda one: (one.recall, -one.p50_ms))


def pareto(measured: Iterable[OneMeasured]) -> list[OneMeasured]:
    """Returns the points than which none is both as fast and better, the fastest first."""
    best = -1.0
    found = []
    for one in sorted(measured, key=lambda one: (one.p50_ms, -one.recall)):
        if one.recall > best:
            found.append(one)
            best = one.recall
    return found


def ratio(value: float | None, other: float | None) -> float | None:
    """Returns value / other, None where one of them is not there."""
    return value / other if value is not None and other else None
