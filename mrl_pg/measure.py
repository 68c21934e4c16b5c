"""What searches that were timed have found: their distances against those of exact searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrl_pg.evaluate import Progress, run_scan
from mrl_pg.evaluation import Measured
from mrl_pg.metrics import PerQuery, recall, summarise, tolerance
from mrl_pg.scan import distances, scan
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Distance, Prefix
from mrl_pg.vectors import FloatArray
from mrl_pg.views import Embeddings, Rows, View


@dataclass(frozen=True, slots=True)
class Truth:
    """What searches are measured against.

    :ivar nearest: distances (q, k) of the exact search, ascending, a query's own row left out.
    :ivar own: distance (q,) of each query from the row that it is itself; infinite where it is none.
    :ivar distance: which one it is.
    """

    nearest: FloatArray
    own: FloatArray
    distance: Distance

    @property
    def k(self) -> int:
        """Rows to find, the own one aside."""
        return int(self.nearest.shape[1])

    @property
    def asked(self) -> int:
        """Rows to ask a search for, which may find the own one too."""
        return self.k + int(np.isfinite(self.own).any())

    def part(self, queries: Rows) -> Truth:
        """Returns that of some queries, by their numbers."""
        return replace(self, nearest=self.nearest[queries], own=self.own[queries])


@dataclass(frozen=True, slots=True)
class Run:
    """What one client found for each query.

    :ivar found: distances (q, n), ascending; infinite where fewer rows came.
    :ivar received: candidates that came (q,).
    :ivar seconds: what each search took (q,).
    """

    found: FloatArray
    received: PerQuery
    seconds: PerQuery


def exact_truth(
    corpus: Embeddings,
    queries: FloatArray,
    k: int,
    distance: Distance,
    *,
    itself: Rows,
    kept: Rows | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Truth:
    """Returns the truth by a scan of all rows of a table.

    :param corpus: all embeddings (n, full_dims).
    :param queries: embeddings (q, full_dims), checked.
    :param itself: row (q,) which each query is; -1 for none.
    :param kept: rows that a filter keeps, ascending; all if left out.
    """
    own = own_distances(corpus, queries, distance, itself=itself, kept=kept)
    if kept is not None:
        corpus = corpus[kept]
        itself = np.where(np.isfinite(own), np.searchsorted(kept, itself), -1)
    nobody = np.empty((len(queries), 0), dtype=np.int64)
    view = View("exact", (corpus.shape[1],))
    steps = scan(corpus, queries, view, distance, depth=k, itself=itself, watched=nobody)
    (found,) = run_scan(steps, Progress("exact", 0, len(corpus)), on_progress)
    return Truth(np.sort(distances(corpus, queries, found.rows, distance), axis=1), own, distance)


def own_distances(
    corpus: Embeddings, queries: FloatArray, distance: Distance, *, itself: Rows, kept: Rows | None = None
) -> FloatArray:
    """Returns how far (q,) each query is from the row that it is itself; infinite where it is none, or not kept."""
    if kept is not None:
        itself = np.where(np.isin(itself, kept), itself, -1)
    return distances(corpus, queries, itself[:, None], distance)[:, 0]


def without_own(found: FloatArray, own: FloatArray, distance: Distance) -> FloatArray:
    """Returns the distances (q, n) with that of the query's own row made infinite.

    Which of the rows at its distance is the own one does not matter where rows are judged by distance; so no key has
    to be known.
    """
    found = found.copy()
    some = np.flatnonzero(np.isfinite(own))
    gap = np.abs(found[some] - own[some, None])
    at = gap.argmin(axis=1)
    there = gap[np.arange(len(some)), at] <= tolerance(own[some], distance)
    found[some[there], at[there]] = np.inf
    return np.sort(found, axis=1)


def recalls(truth: Truth, found: FloatArray) -> PerQuery:
    """Returns recall@k (q,) of what searches for the first q queries found.

    :param found: distances (q, n), infinite where fewer rows came.
    """
    q = len(found)
    limit = truth.nearest[:q, truth.k - 1]
    far = without_own(found, truth.own[:q], truth.distance)[:, : truth.k]
    return recall(truth.nearest[:q], far, truth.k, tolerance=tolerance(limit, truth.distance))


def measured(
    prefix: Prefix,
    plan: SearchPlan,
    runs: Sequence[Run],
    wall: float,
    truth: Truth,
    *,
    filter: Mapping[str, Any] | None,
    selectivity: float,
    seed: int,
) -> Measured:
    """Returns the figures of one setting.

    :param runs: of each client, over the same queries.
    :param wall: seconds from the start of the first search to the end of the last.
    """
    first = runs[0]
    shares = recalls(truth, first.found)
    seconds = np.concatenate([run.seconds for run in runs])
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1_000
    return Measured(
        prefix=prefix.prefix,
        kind=prefix.kind,
        dims=prefix.dims,
        candidates=plan.candidates,
        ef_search=plan.ef_search,
        filter=dict(filter) if filter else None,
        selectivity=selectivity,
        clients=len(runs),
        searches=len(seconds),
        recall=summarise(shares, seed=seed),
        received=summarise(first.received, seed=seed),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        qps=len(seconds) / wall,
    )
