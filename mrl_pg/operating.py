"""Operating points: what settings were measured for a prefix, and which of them serves a search by recall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any, Literal, TypeAlias

from mrl_pg.errors import SearchError

# The queries that measured something: given ones, those of mrl.recorded_queries, or rows of the table, which are
# optimistic.
Source: TypeAlias = Literal["queries", "recorded", "generated", "rows"]
# As mrl.find_operating_point() in SQL has them.
SOURCES: dict[Source, str] = {
    "queries": "queries",
    "recorded": "recorded queries",
    "generated": "generated queries",
    "rows": "rows as queries",
}


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Settings of searches by a prefix with what was measured of them, by queries that had no part in their choice.

    :ivar prefix: its column.
    :ivar k: rows a search returned.
    :ivar candidates: rows stage one handed over.
    :ivar ef_search: size of the HNSW candidate list.
    :ivar target_recall: what was aimed at.
    :ivar recall: mean recall@k.
    :ivar recall_low: lower end of its 95 % confidence interval.
    :ivar recall_high: upper end.
    :ivar p50_ms: half of the searches took at most so many milliseconds.
    :ivar p95_ms: the same of 95 %.
    :ivar rows: rows with an embedding that the table had.
    :ivar queries: how many were measured.
    :ivar source: which ones; ``rows`` of the table itself are optimistic.
    """

    prefix: str
    k: int
    candidates: int
    ef_search: int
    target_recall: float
    recall: float
    recall_low: float
    recall_high: float
    p50_ms: float
    p95_ms: float
    rows: int
    queries: int
    source: Source


def read_point(row: Mapping[str, Any]) -> OperatingPoint:
    """Returns a point from a row of mrl.operating_points with its prefix."""
    return OperatingPoint(**{name: row[name] for name in OperatingPoint.__slots__})


def choose_point(
    table: str, points: Iterable[OperatingPoint], prefixes: Iterable[str], *, k: int, recall: float
) -> OperatingPoint:
    """Returns the cheapest by its median among the points whose mean recall reaches the target.

    The mean is what was asked for, and is that of queries the point was not chosen by; the lower end of its interval
    would ask for more the fewer queries there were. What was measured for more rows than k finds the nearest k of them
    at least as well. As mrl.find_operating_point() in SQL.

    :param prefixes: those that may serve, oldest first.
    :raises SearchError: where none reaches it, naming what was measured.
    """
    order = {prefix: n for n, prefix in enumerate(prefixes)}
    usable = [point for point in points if point.prefix in order]
    good = [point for point in usable if point.k >= k and point.recall >= recall]
    if good:
        return min(good, key=lambda one: (one.p50_ms, order[one.prefix], one.candidates, one.ef_search))
    best: dict[tuple[int, int], OperatingPoint] = {}
    for one in sorted(usable, key=lambda one: (order[one.prefix], one.k, -one.recall, one.source)):
        best.setdefault((order[one.prefix], one.k), one)
    measured = ", ".join(
        f"{one.recall:.4f} for k = {one.k} by {one.prefix} with {SOURCES[one.source]}" for one in best.values()
    )
    raise SearchError(
        f"no operating point of {table} reaches recall {recall:g} for k = {k}; measured: "
        f"{f'at most {measured}' if measured else 'nothing'}. "
        f"Run: mrl-pg tune {quote(table)} --recall {recall:g} --k {k}"
    )
