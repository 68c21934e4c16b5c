"""The figures of an evaluation: each prefix, alone and reranked, beside the whole embedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mrl_pg.footprint import Footprint
from mrl_pg.metrics import Summary
from mrl_pg.relevance import Relevance
from mrl_pg.spec import Distance


@dataclass(frozen=True, slots=True)
class Reranked:
    """A two-stage search: the candidates nearest by the prefix, reranked by the whole embedding.

    :ivar candidates: rows stage one hands over.
    :ivar recall: recall@k, judged by distance.
    :ivar relevance: of the first rows after the rerank; None without qrels.
    """

    candidates: int
    recall: Summary
    relevance: Relevance | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One prefix: what it finds in an exact scan, and what it costs.

    :ivar kind: ``truncate``, ``rotate``, ``binary`` or ``random``, the control.
    :ivar dims: its length.
    :ivar recall: recall@k of the prefix alone, judged by distance.
    :ivar overlap: overlap@k of the prefix alone, judged by row.
    :ivar spearman: rank correlation of its distances with the exact ones, over the exact top rows.
    :ivar kept: share of the squared norm of the embeddings that it holds; None for binary.
    :ivar reranked: recall left with that many candidates, ascending.
    :ivar footprint: for the whole table.
    :ivar relevance: of the prefix alone; None without qrels.
    """

    kind: str
    dims: int
    recall: Summary
    overlap: Summary
    spearman: Summary
    kept: float | None
    reranked: tuple[Reranked, ...]
    footprint: Footprint
    relevance: Relevance | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The two-stage search as it runs, through the index of a prefix that exists.

    :ivar prefix: its column.
    :ivar kind: of the prefix.
    :ivar dims: its length.
    :ivar candidates: rows asked of stage one.
    :ivar ef_search: size of the HNSW candidate list.
    :ivar filter: what rows had to be; None without a filter.
    :ivar selectivity: share of the rows that the filter keeps, 1 without one.
    :ivar clients: connections that searched at a time.
    :ivar searches: how many were timed, of all clients together.
    :ivar recall: recall@k, judged by distance.
    :ivar received: candidates that came.
    :ivar p50_ms: half of the searches took at most so many milliseconds, the way there and back included.
    :ivar p95_ms: the same of 95 %.
    :ivar p99_ms: the same of 99 %.
    :ivar qps: searches a second, of all clients together.
    """

    prefix: str
    kind: str
    dims: int
    candidates: int
    ef_search: int
    filter: dict[str, Any] | None
    selectivity: float
    clients: int
    searches: int
    recall: Summary
    received: Summary
    p50_ms: float
    p95_ms: float
    p99_ms: float
    qps: float


@dataclass(frozen=True, slots=True)
class Cold:
    """The first searches after the caches were emptied, one after the other on a new connection, without a filter.

    :ivar prefix: its column.
    :ivar candidates: rows asked of stage one: of what was measured warm, the setting nearest to that of a search by
        itself.
    :ivar ef_search: size of the HNSW candidate list.
    :ivar searches: how many, each for another query.
    :ivar recall: recall@k, judged by distance.
    :ivar first_ms: what the first took, with all that a new connection looks up.
    :ivar p50_ms: half of the searches took at most so many milliseconds, the way there and back included.
    :ivar p95_ms: the same of 95 %.
    """

    prefix: str
    candidates: int
    ef_search: int
    searches: int
    recall: Summary
    first_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What prefixes of an embedding find, measured by exact scans of a sample; an index finds a little less.

    Of a table, what searches through its indexes find and how long they take besides.

    :ivar rows: embeddings in the sample.
    :ivar queries: queries asked.
    :ivar table_rows: rows of the table that footprints are for.
    :ivar full_dims: length of the embedding.
    :ivar k: of recall@k and overlap@k.
    :ivar top: rows that the rank correlation looks at.
    :ivar seed: of the random dims, the sample of the rotation and the intervals.
    :ivar basis_rows: embeddings the rotation was fitted to, none of them a query; 0 without one.
    :ivar points: by kind, then by dims.
    :ivar footprint: of the whole embedding as halfvec; None where it is too long for an index.
    :ivar relevance: of the exact search by the whole embedding; None without qrels.
    :ivar notes: what to know about these figures, a sentence or two each.
    :ivar indexes: searches through the indexes that exist, where they were measured.
    :ivar cold: the first of such searches after the caches were emptied, where that was asked for.
    """

    rows: int
    queries: int
    table_rows: int
    full_dims: int
    distance: Distance
    k: int
    top: int
    seed: int
    basis_rows: int
    points: tuple[Point, ...]
    footprint: Footprint | None
    relevance: Relevance | None
    notes: tuple[str, ...]
    indexes: tuple[Measured, ...] = ()
    cold: tuple[Cold, ...] = ()

    def _repr_html_(self) -> str:
        """Returns the report, for notebooks."""
        from mrl_pg.report.notebook import notebook_html

        return notebook_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, tuples, numbers and strings, as JSON wants it."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Returns the figures as flat rows that all have the same columns, as CSV wants them.

        A row for each prefix alone (no candidates) and for each number of candidates it was reranked with, then one
        for each search through an index, warm and cold. Recall is named with its interval; what a row does not have
        is None.
        """
        found = []
        for point in self.points:
            cost = point.footprint
            same = {
                "measured": "scan",
                "kind": point.kind,
                "dims": point.dims,
                "overlap": point.overlap.mean,
                "spearman": point.spearman.mean,
                "kept": point.kept,
                "column_bytes": cost.column_bytes,
                "index_bytes": cost.index_bytes,
                "build_memory_bytes": cost.build_memory_bytes,
                "build_seconds": cost.build_seconds,
            }
            found.append(same | _recall(point.recall) | _relevance(point.relevance))
            for one in point.reranked:
                found.append(same | {"candidates": one.candidates} | _recall(one.recall) | _relevance(one.relevance))
        for search in self.indexes:
            same = {name: getattr(search, name) for name in _COLUMNS if hasattr(search, name)}
            found.append(same | {"measured": "index", "received": search.received.mean} | _recall(search.recall))
        for first in self.cold:
            same = {name: getattr(first, name) for name in _COLUMNS if hasattr(first, name)}
            found.append(same | {"measured": "cold"} | _recall(first.recall))
        return [{name: row.get(name) for name in _COLUMNS} for row in found]


_COLUMNS = (
    "measured",
    "kind",
    "dims",
    "prefix",
    "candidates",
    "ef_search",
    "clients",
    "selectivity",
    "recall",
    "recall_low",
    "recall_high",
    "recall_p5",
    "recall_worst",
    "queries",
    "overlap",
    "spearman",
    "kept",
    "ndcg_10",
    "relevant_recall",
    "received",
    "first_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "qps",
    "column_bytes",
    "index_bytes",
    "build_memory_bytes",
    "build_seconds",
)


def _recall(figure: Summary) -> dict[str, Any]:
    return {
        "recall": figure.mean,
        "recall_low": figure.low,
        "recall_high": figure.high,
        "recall_p5": figure.p5,
        "recall_worst": figure.worst,
        "queries": figure.queries,
    }


def _relevance(found: Relevance | None) -> dict[str, Any]:
    return {"ndcg_10": found.ndcg_10.mean, "relevant_recall": found.recall.mean} if found else {}
