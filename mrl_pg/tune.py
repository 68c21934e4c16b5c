"""Choosing settings for a recall: what to build, what to measure, and what the figures come to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mrl_pg.evaluation import Evaluation
from mrl_pg.evaluation import Point as Scanned
from mrl_pg.operating import SOURCES, OperatingPoint, Source
from mrl_pg.points import Figures, Grid, Point, pareto
from mrl_pg.search import MAX_EF_SEARCH
from mrl_pg.spec import Distance, Prefix
from mrl_pg.views import Rows

# What is tried: candidates as multiples of k, and sizes of the HNSW candidate list.
_OVERSAMPLING = (1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 60)
_EF_SEARCH = (10, 15, 20, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400, 600, MAX_EF_SEARCH)
# Exact search is the answer where it takes at most so much longer than the best setting.
ABOUT_AS_FAST = 1.5
# At most so many prefixes are built, so many of one kind, and none that is projected to cost so much more than the
# cheapest.
_BUILDS, _BUILDS_OF_A_KIND, _TOO_DEAR = 4, 2, 2.0
# An index needs about that ef_search however few candidates the rerank needs; and a distance by the index costs a
# constant and its bytes (see footprint.py), a rerank about as much as the constant.
_USUAL_EF_SEARCH, _COST_PER_BYTE = 60, 1 / 1_250


def grid_of(k: int, rows: int, *, itself: bool) -> Grid:
    """Returns the settings to try.

    :param rows: of the table.
    :param itself: whether each query is a row, and finds itself besides.
    """
    sizes = {round(k * factor) for factor in _OVERSAMPLING}
    candidates = sorted({min(max(n, k + itself), rows) for n in sizes})
    return Grid(tuple(candidates), tuple(ef for ef in _EF_SEARCH if ef < 2 * rows) or _EF_SEARCH[:1])


def scanned_candidates(k: int) -> tuple[int, ...]:
    """Returns the candidates to scan for, before anything is built: the grid's up to 20 times k."""
    return tuple(sorted({round(k * factor) for factor in _OVERSAMPLING if factor <= 20}))


def halves(queries: int, seed: int) -> tuple[Rows, Rows]:
    """Returns which queries choose, and which confirm: as many or one more, at random."""
    order = np.random.default_rng(seed).permutation(queries).astype(np.int64)
    return np.sort(order[: queries // 2]), np.sort(order[queries // 2 :])


@dataclass(frozen=True, slots=True)
class Promising:
    """A prefix that is worth building.

    :ivar kind: ``truncate``, ``rotate`` or ``binary``.
    :ivar dims: its length.
    :ivar candidates: the fewest that reach the recall in an exact scan.
    :ivar cost: of a search, projected; comparable among prefixes only.
    """

    kind: str
    dims: int
    candidates: int
    cost: float


def promising(evaluation: Evaluation, recall: float, there: Collection[tuple[str, int]]) -> list[Promising]:
    """Returns the prefixes that are worth building for a recall, the cheapest to search first.

    :param there: (kind, dims) of those the table has.
    """
    found = []
    for point in evaluation.points:
        enough = [one.candidates for one in point.reranked if one.recall.mean >= recall]
        if point.kind != "random" and (point.kind, point.dims) not in there and enough:
            found.append(Promising(point.kind, point.dims, enough[0], _projected(point, enough[0])))
    found.sort(key=lambda one: one.cost)
    kept: list[Promising] = []
    for one in found:
        alike = sum(other.kind == one.kind for other in kept)
        if alike < _BUILDS_OF_A_KIND and len(kept) < _BUILDS and one.cost <= _TOO_DEAR * found[0].cost:
            kept.append(one)
    return kept


def _projected(point: Scanned, candidates: int) -> float:
    by_index = max(candidates, _USUAL_EF_SEARCH) * (1 + _COST_PER_BYTE * point.footprint.column_bytes)
    return by_index + candidates


class _Tried(NamedTuple):
    prefix: str
    point: Point
    recall: float
    p50_ms: float


def to_confirm(
    seen: Mapping[str, Mapping[Point, Figures]],
    confirmed: Mapping[tuple[str, Point], Figures],
    recalls: Sequence[float],
) -> list[tuple[str, Point]]:
    """Returns what to measure with the other queries: first the Pareto set, then of each prefix its next best guess.

    A guess is the cheapest point that reached a recall by the queries that chose, and has not missed it by those that
    confirm. Nothing is left where each prefix has one that reached it both times, or no guess more, for each recall.
    """
    front: list[tuple[str, Point]] = []
    if not confirmed:
        tried = (
            _Tried(prefix, point, one.recall, one.p50_ms)
            for prefix, points in seen.items()
            for point, one in points.items()
        )
        front = [(one.prefix, one.point) for one in pareto(tried)]
    for (prefix, points), recall in product(seen.items(), recalls):
        good = sorted((one for one in points.values() if one.recall >= recall), key=lambda one: one.p50_ms)
        for one in good:
            again = confirmed.get((prefix, one.point))
            if again is None:
                front.append((prefix, one.point))
            if again is None or again.recall >= recall:
                break
    return list(dict.fromkeys(front))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was measured for a recall, and what is recommended.

    :ivar target_recall: what was asked for.
    :ivar latency_ms: what 95 % of the searches may take; None for any time.
    :ivar rows: of the table, with an embedding.
    :ivar source: of the queries; ``rows`` of the table itself are optimistic.
    :ivar chosen_by: queries that chose the settings.
    :ivar confirmed_by: other queries, which all figures are of.
    :ivar points: what was confirmed, the fastest first.
    :ivar best: the cheapest that reaches the recall (in time); None where none does.
    :ivar also: the same for each other recall that was asked for, as (recall, point or None).
    :ivar exact_p50_ms: half of the exact searches took at most so many milliseconds.
    :ivar exact_p95_ms: the same of 95 %.
    :ivar exact_is_enough: whether exact search is the answer.
    :ivar scanned: prefixes that an exact scan found promising; empty without a build.
    :ivar built: prefixes that were built.
    :ivar dropped: those of them that were dropped again.
    :ivar stored: points that were stored, for searches by recall.
    :ivar notes: what to know of these figures, a sentence or two each.
    """

    table: str
    target_recall: float
    k: int
    latency_ms: float | None
    distance: Distance
    rows: int
    source: Source
    chosen_by: int
    confirmed_by: int
    points: tuple[OperatingPoint, ...]
    best: OperatingPoint | None
    also: tuple[tuple[float, OperatingPoint | None], ...]
    exact_p50_ms: float
    exact_p95_ms: float
    exact_is_enough: bool
    scanned: tuple[Promising, ...]
    built: tuple[str, ...]
    dropped: tuple[str, ...]
    stored: int
    notes: tuple[str, ...]

    @property
    def runner_ups(self) -> tuple[OperatingPoint, ...]:
        """The cheapest of each other prefix that reaches the recall (in time), the fastest first."""
        found: dict[str, OperatingPoint] = {}
        for one in self.points:
            if self.best and one.prefix != self.best.prefix and reaches(one, self.target_recall, self.latency_ms):
                found.setdefault(one.prefix, one)
        return tuple(found.values())

    @property
    def pareto(self) -> tuple[OperatingPoint, ...]:
        """The points than which none is both as fast and better, the fastest first."""
        return tuple(pareto(self.points))

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, tuples, numbers and strings, as JSON wants it."""
        return asdict(self) | {
            "runner_ups": [asdict(one) for one in self.runner_ups],
            "pareto": [asdict(one) for one in self.pareto],
        }


def reaches(point: OperatingPoint, recall: float, latency_ms: float | None) -> bool:
    """Returns whether a point reaches a recall, in time where a latency is given."""
    return point.recall >= recall and (latency_ms is None or point.p95_ms <= latency_ms)


def choose_best(points: Sequence[OperatingPoint], recall: float, latency_ms: float | None) -> OperatingPoint | None:
    """Returns the fastest by its median that reaches a recall, in time; None where none does."""
    good = [one for one in points if reaches(one, recall, latency_ms)]
    return min(good, key=lambda one: one.p50_ms, default=None)


def exact_is_enough(p50_ms: float, p95_ms: float, best: OperatingPoint | None, latency_ms: float | None) -> bool:
    """Returns whether exact search is the answer: in time, or where no time is given about as fast as the best."""
    if latency_ms is not None:
        return p95_ms <= latency_ms
    return best is not None and p50_ms <= ABOUT_AS_FAST * best.p50_ms


def stored_points(points: Sequence[OperatingPoint], prefixes: Collection[str]) -> list[OperatingPoint]:
    """Returns what to store: the Pareto set of each prefix that stays, so that one can also be asked for by name."""
    return [one for prefix in prefixes for one in pareto(p for p in points if p.prefix == prefix)]


def named_prefixes(prefixes: Iterable[Prefix]) -> set[tuple[str, int]]:
    """Returns (kind, dims) of prefixes as a scan makes them: without a layer norm."""
    return {(p.kind, p.dims) for p in prefixes if not p.layer_norm}


def sentences(tuning: Tuning) -> list[str]:
    """Returns what was found, in words; the first sentence is the recommendation."""
    late = "" if tuning.latency_ms is None else f" with 95 % of the searches within {tuning.latency_ms:g} ms"
    wanted = f"a recall@{tuning.k} of {tuning.target_recall:g}{late}"
    exact = f"{tuning.exact_p50_ms:.1f} ms (p95 {tuning.exact_p95_ms:.1f} ms)"
    best = tuning.best
    found = []
    if tuning.exact_is_enough:
        fast = f"; the fastest setting with {wanted} takes {best.p50_ms:.1f} ms" if best else ""
        # A search of ours needs a prefix to know what is searched, also without its index.
        stays = any(one.prefix not in tuning.dropped for one in tuning.points)
        how = "exact=True (--exact)" if stays else "ORDER BY the distance of the embedding itself"
        found.append(
            f"Exact search is the answer: with {tuning.rows:,} rows it takes {exact}{fast}. It finds everything and "
            f"needs no index: search with {how}."
        )
    elif best:
        found.append(
            f"The cheapest with {wanted}: {_described(best)}. Exact search takes {exact}. "
            f"Search with recall={tuning.target_recall:g} (--recall {tuning.target_recall:g})."
        )
    else:
        found.append(f"Nothing that was measured has {wanted}. Exact search takes {exact}.")
        if closest := _closest(tuning):
            found.append(f"The closest: {_described(closest)}.")
    for recall, point in tuning.also:
        what = f"a recall@{tuning.k} of {recall:g}{late}"
        found.append(f"For {what}: {_described(point)}." if point else f"Nothing that was measured has {what}.")
    return [*found, *tuning.notes]


def _closest(tuning: Tuning) -> OperatingPoint | None:
    """Returns the fastest that reaches the recall, too late; where none does, the one with the highest recall."""
    late = choose_best(tuning.points, tuning.target_recall, None)
    return late or max(tuning.points, key=lambda one: (one.recall, -one.p50_ms), default=None)


def _described(point: OperatingPoint) -> str:
    return (
        f"{point.prefix} with {point.candidates:,} candidates and ef_search {point.ef_search}, recall@{point.k} "
        f"{point.recall:.3f} ({point.recall_low:.3f} to {point.recall_high:.3f}) with {SOURCES[point.source]}, half of "
        "the searches within "
        f"{point.p50_ms:.1f} ms and 95 % within {point.p95_ms:.1f} ms"
    )
