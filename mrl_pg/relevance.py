"""Relevance as people judged it (qrels), and how well ranked rows agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import EvaluationError
from mrl_pg.metrics import PerQuery, Summary, ndcg, relevant_recall, summarise
from mrl_pg.views import Rows

# Where nDCG is cut, as benchmarks of retrieval have it; whatever k is.
NDCG_AT = 10


@dataclass(frozen=True, slots=True)
class Relevance:
    """How well a search finds what people judged relevant, over the queries that have a relevant row.

    :ivar ndcg_10: nDCG@10.
    :ivar recall: share of the relevant rows among the first k.
    """

    ndcg_10: Summary
    recall: Summary


@dataclass(frozen=True, slots=True)
class Judgements:
    """The qrels of an evaluation, by position.

    :ivar queries: the queries (j,) that have a relevant row.
    :ivar pairs: query * rows + row (p,) of each judged pair, ascending.
    :ivar grades: its grade (p,).
    :ivar judged: the grades (j, m) of each query's judged rows, filled up with 0.
    :ivar rows: how many rows the corpus has.
    """

    queries: Rows
    pairs: Rows
    grades: PerQuery
    judged: PerQuery
    rows: int


def judgements(qrels: Mapping[int, Mapping[int, float]], itself: Rows, rows: int) -> Judgements:
    """Returns qrels by position, {query: {row: grade}}, as arrays; a query's own row does not count.

    :param itself: row (q,) which each query is; -1 for none.
    :raises EvaluationError: where a position does not exist, or no query has a relevant row.
    """
    outside = sum(not (0 <= query < len(itself)) for query in qrels)
    outside_rows = sum(not (0 <= row < rows) for grades in qrels.values() for row in grades)
    if outside or outside_rows:
        raise EvaluationError(
            f"qrels name {outside:,} queries beyond the {len(itself):,} there are, and {outside_rows:,} rows beyond "
            f"{rows:,}. Translate ids to positions with mrl_pg.queries.positions."
        )
    relevant = {
        query: {row: grade for row, grade in sorted(qrels[query].items()) if row != itself[query]}
        for query in sorted(qrels)
    }
    relevant = {query: grades for query, grades in relevant.items() if any(grade > 0 for grade in grades.values())}
    if not relevant:
        raise EvaluationError(
            f"no query of the {len(qrels):,} in qrels has a relevant row (a grade above 0). Check ids and grades."
        )
    judged = np.zeros((len(relevant), max(map(len, relevant.values()))))
    for line, grades in zip(judged, relevant.values(), strict=True):
        line[: len(grades)] = list(grades.values())
    pairs = [(query * rows + row, grade) for query, grades in relevant.items() for row, grade in grades.items()]
    return Judgements(
        queries=np.array(list(relevant), dtype=np.int64),
        pairs=np.array([pair for pair, _ in pairs], dtype=np.int64),
        grades=np.array([grade for _, grade in pairs], dtype=np.float64),
        judged=judged,
        rows=rows,
    )


def relevance(judgements: Judgements, found: Rows, k: int, *, seed: int = 0) -> Relevance:
    """Returns how relevant the rows (q, n) found for all queries are, nearest first, -1 for none.

    :param found: at least the first ten and the first k.
    """
    grades = _grades(judgements, found[judgements.queries])
    return Relevance(
        ndcg_10=summarise(ndcg(grades, judgements.judged, NDCG_AT), seed=seed),
        recall=summarise(relevant_recall(grades, judgements.judged, k), seed=seed),
    )


def _grades(judgements: Judgements, found: Rows) -> npt.NDArray[np.float64]:
    """Returns the grades (j, n) of rows (j, n) found for the judged queries, 0 where not judged."""
    wanted = np.where(found >= 0, judgements.queries[:, None] * judgements.rows + found, -1)
    at = np.minimum(np.searchsorted(judgements.pairs, wanted), len(judgements.pairs) - 1)
    return np.where(judgements.pairs[at] == wanted, judgements.grades[at], 0.0)
