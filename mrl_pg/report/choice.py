"""Which prefix is good enough: what was measured, weighed against a recall that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mrl_pg.evaluation import Evaluation, Point, Reranked
from mrl_pg.metrics import Summary

CONTROL = "random"
DEFAULT_TARGET = 0.98


class IndexPoint(Protocol):
    """Searches through a real index under one setting.

    :ivar prefix: column that stage one looked at.
    :ivar filter: what rows had to be; None without a filter.
    :ivar selectivity: share of the rows that the filter keeps, 1 without one.
    :ivar clients: connections that searched at a time.
    :ivar received: candidates that came.
    :ivar p50_ms: median latency of a search; ``p95_ms`` and ``p99_ms`` of the slow ones.
    :ivar qps: searches a second, of all clients together.
    """

    @property
    def prefix(self) -> str: ...
    @property
    def candidates(self) -> int: ...
    @property
    def ef_search(self) -> int: ...
    @property
    def filter(self) -> Mapping[str, Any] | None: ...
    @property
    def selectivity(self) -> float: ...
    @property
    def clients(self) -> int: ...
    @property
    def recall(self) -> Summary: ...
    @property
    def received(self) -> Summary: ...
    @property
    def p50_ms(self) -> float: ...
    @property
    def p95_ms(self) -> float: ...
    @property
    def p99_ms(self) -> float: ...
    @property
    def qps(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A prefix and how many of its candidates to rerank."""

    point: Point
    reranked: Reranked

    def __str__(self) -> str:
        return f"{self.point.kind}, {self.point.dims} dims, {self.reranked.candidates} candidates"

    @property
    def cost(self) -> tuple[int, int]:
        """The size of the index, then the candidates."""
        return self.point.footprint.index_bytes, self.reranked.candidates


def choices(evaluation: Evaluation, kind: str | None = None) -> list[Choice]:
    """Returns all that was measured after a rerank, cheapest first; not the control, which nobody builds.

    More candidates than usual come last: they make every search slower, where a longer prefix costs but memory.

    :param kind: only those of this kind.
    """
    usual = usual_candidates(evaluation)
    found = [
        Choice(point, reranked)
        for point in evaluation.points
        if point.kind != CONTROL and kind in (None, point.kind)
        for reranked in point.reranked
    ]
    return sorted(found, key=lambda choice: (choice.reranked.candidates > usual, choice.cost))


def good_enough(evaluation: Evaluation, target: float, kind: str | None = None) -> Choice | None:
    """Returns the cheapest whose whole interval reaches a recall, None where none does.

    A mean just above the target would be below it for other queries of the same sort half of the time.
    """
    reaching = (choice for choice in choices(evaluation, kind) if choice.reranked.recall.low >= target)
    return next(reaching, None)


def best(evaluation: Evaluation, kind: str | None = None) -> Choice | None:
    """Returns the one with the highest recall, the cheapest of those; None where only the control was measured."""
    return max(choices(evaluation, kind), key=lambda choice: choice.reranked.recall.mean, default=None)


def usual_candidates(evaluation: Evaluation) -> int:
    """Returns the candidates to compare prefixes at: what a search takes by default, or the next fewer measured."""
    sizes = [reranked.candidates for reranked in evaluation.points[0].reranked]
    return max((size for size in sizes if size <= max(100, 10 * evaluation.k)), default=sizes[0])


def at(point: Point, candidates: int) -> Reranked:
    """Returns what reranking that many candidates leaves."""
    return next(reranked for reranked in point.reranked if reranked.candidates == candidates)


def searches_of(evaluation: Evaluation) -> tuple[IndexPoint, ...]:
    """Returns the searches through real indexes that an evaluation holds, none where nothing but scans were made."""
    found: tuple[IndexPoint, ...] = getattr(evaluation, "indexes", ())
    return found


def alike(measured: Sequence[IndexPoint]) -> list[list[IndexPoint]]:
    """Returns the points that may be compared with each other: under one filter, with as many clients.

    First those without a filter and with the fewest clients, which a recommendation is made from; then what keeps more.
    """
    groups: dict[str, list[IndexPoint]] = {}
    for point in sorted(measured, key=lambda point: (point.filter is not None, point.clients, -point.selectivity)):
        groups.setdefault(repr((point.filter, point.clients)), []).append(point)
    return list(groups.values())


def frontier(points: Sequence[IndexPoint]) -> list[IndexPoint]:
    """Returns the Pareto set of points that are alike, fastest first: each finds more than all that are faster."""
    kept: list[IndexPoint] = []
    for point in sorted(points, key=lambda point: (point.p50_ms, -point.recall.mean)):
        if not kept or point.recall.mean > kept[-1].recall.mean:
            kept.append(point)
    return kept


def fastest(measured: Sequence[IndexPoint], target: float) -> IndexPoint | None:
    """Returns the one with the lowest median latency whose whole interval reaches a recall, None where none does.

    Of those without a filter, where there are any.
    """
    reaching = [point for point in next(iter(alike(measured)), []) if point.recall.low >= target]
    return min(reaching, key=lambda point: point.p50_ms, default=None)
