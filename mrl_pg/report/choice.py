"""Which prefix is good enough: what was measured, weighed against a recall that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrl_pg.evaluation import Evaluation, Measured, Point, Reranked

CONTROL = "random"
DEFAULT_TARGET = 0.98


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


def alike(measured: Sequence[Measured]) -> list[list[Measured]]:
    """Returns the points that may be compared with each other: under one filter, with as many clients.

    First those without a filter and with the fewest clients, which a recommendation is made from; then what keeps more.
    """
    groups: dict[str, list[Measured]] = {}
    for point in sorted(measured, key=lambda point: (point.filter is not None, point.clients, -point.selectivity)):
        groups.setdefault(repr((point.filter, point.clients)), []).append(point)
    return list(groups.values())


def frontier(points: Sequence[Measured]) -> list[Measured]:
    """Returns the Pareto set of points that are alike, fastest first: each finds more than all that are faster."""
    kept: list[Measured] = []
    for point in sorted(points, key=lambda point: (point.p50_ms, -point.recall.mean)):
        if not kept or point.recall.mean > kept[-1].recall.mean:
            kept.append(point)
    return kept


def fastest(measured: Sequence[Measured], target: float) -> Measured | None:
    """Returns the one with the lowest median latency whose whole interval reaches a recall, None where none does.

    Of those without a filter, where there are any.
    """
    reaching = [point for point in next(iter(alike(measured)), []) if point.recall.low >= target]
    return min(reaching, key=lambda point: point.p50_ms, default=None)
