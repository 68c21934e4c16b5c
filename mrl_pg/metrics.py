"""What is measured of a search, one number a query, and the summary of many queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.spec import Distance

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
PerQuery: TypeAlias = npt.NDArray[np.float64]

# Cosine distances in float32 carry an error of about 1e-7.
TOLERANCE = 1e-6
RESAMPLES = 1_000
# Resamples drawn at once, so that 100,000 queries need 160 MB and not 1.6 GB.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over all queries.

    :ivar mean: their mean.
    :ivar p5: the value that 5 % of the queries do not exceed, one that occurred.
    :ivar worst: the lowest value.
    :ivar low: lower end of the 95 % confidence interval of the mean.
    :ivar high: its upper end.
    :ivar queries: how many there are.
    """

    mean: float
    p5: float
    worst: float
    low: float
    high: float
    queries: int


def tolerance(limit: Floats, distance: Distance) -> PerQuery:
    """Returns how much distances (q,) may be off: those of cosine end at 2 and are off alike at any size."""
    return TOLERANCE * (np.ones(len(limit)) if distance == "cosine" else np.abs(limit, dtype=np.float64))


def recall(exact: Floats, found: Floats, k: int, *, tolerance: float | Floats = TOLERANCE) -> PerQuery:
    """Returns recall@k (q,): the share of the exact top k that was found, judged by distance.

    A row that is as near as the k-th nearest is as good an answer, whichever of them the exact search named; so do
    ann-benchmarks (Aumüller, Bernhardsson and Faithfull 2018, section 2.1).

    :param exact: distances of the exact search (q, at least k), nearest first.
    :param found: exact distances of the distinct rows found (q, any number), in any order; infinite for none. With
        more than k of them it is the recall after they are reranked.
    :param tolerance: how much farther than the k-th nearest still counts, one number or one a query.
    """
    limit = exact[:, k - 1].astype(np.float64) + tolerance
    hits = (found <= limit[:, None]) & np.isfinite(found)
    return np.asarray(np.minimum(hits.sum(axis=1), k) / k, dtype=np.float64)


def overlap(exact: npt.NDArray[np.int64], found: npt.NDArray[np.int64], k: int) -> PerQuery:
    """Returns overlap@k (q,): the share of rows that the first k of two lists have in common, judged by row.

    :param exact: rows (q, at least k), nearest first, no row twice; negative for none.
    :param found: the same of another search.
    """
    one, other = exact[:, :k], found[:, :k]
    same = (one[:, :, None] == other[:, None, :]) & (one[:, :, None] >= 0)
    return np.asarray(same.sum(axis=(1, 2)) / k, dtype=np.float64)


def spearman(one: Floats, other: Floats) -> PerQuery:
    """Returns Spearman's rank correlation (q,) of two distances of the same n rows, both (q, n): -1 to 1.

    Pearson's correlation of the ranks, where ties share their average rank (Kendall and Gibbons 1990, chapter 3).
    0 where all distances of one side are equal: it says nothing on the order.
    """
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0))


def ndcg(found: Floats, judged: Floats, k: int) -> PerQuery:
    """Returns nDCG@k (q,): the gain of the first k results over that of the best order; nan where no row is relevant.

    A result at rank i gains grade / log2(i + 1) (Järvelin and Kekäläinen 2002, with the discount from rank 1), as in
    trec_eval and BEIR; grades below 0 gain nothing.

    :param found: grades of the results (q, any number) in their order, 0 where not judged.
    :param judged: grades of all judged rows (q, any number) in any order, filled up with 0.
    """
    best = -np.sort(-np.maximum(judged, 0), axis=1)
    ideal = _gain(best, k)
    return np.asarray(np.divide(_gain(found, k), ideal, out=np.full(len(ideal), np.nan), where=ideal > 0))


def relevant_recall(found: Floats, judged: Floats, k: int) -> PerQuery:
    """Returns recall@k by relevance (q,): the share of all relevant rows among the first k results.

    Relevant is a grade above 0; nan where no row is. With more than k relevant rows it cannot reach 1 (as in
    trec_eval and BEIR).

    :param found: as in :func:`ndcg`.
    :param judged: as in :func:`ndcg`.
    """
    relevant = (judged > 0).sum(axis=1)
    hits = (found[:, :k] > 0).sum(axis=1)
    return np.asarray(np.divide(hits, relevant, out=np.full(len(relevant), np.nan), where=relevant > 0))


def summarise(values: Floats, *, seed: int = 0) -> Summary:
    """Returns the summary of a figure of each query (q,), at least one; the same seed gives the same interval.

    The interval is the percentile bootstrap (Efron and Tibshirani 1993, chapter 13), over 1,000 resamples. It has no
    width where all queries agree, which does not prove that the next query will.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(n, size=(_AT_ONCE, n))].mean(axis=1) for _ in range(RESAMPLES // _AT_ONCE)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Summary(
        mean=float(values.mean()),
        p5=float(np.quantile(values, 0.05, method="inverted_cdf")),
        worst=float(values.min()),
        low=float(low),
        high=float(high),
        queries=n,
    )


def _gain(grades: Floats, k: int) -> PerQuery:
    """Returns the discounted gain (q,) of the first k grades (q, n)."""
    first = np.maximum(grades[:, :k], 0)
    return np.asarray(first @ (1 / np.log2(np.arange(2, first.shape[1] + 2))), dtype=np.float64)


def _ranks(values: Floats) -> PerQuery:
    """Returns the ranks (q, n) of values (q, n) in their row, from 0; ties share their average."""
    n = values.shape[1]
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), dtype=bool)
    positions = np.arange(n)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), positions, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([differs, edge]), positions, n - 1)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, axis=1)
    return ranks
