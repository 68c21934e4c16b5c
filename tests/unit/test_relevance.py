"""Qrels by position, and how search results agree with them."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_pg.errors import EvaluationError
from mrl_pg.relevance import judgements, relevance

NOT_THERE = np.full(3, -1, dtype=np.int64)


def test_relevance_by_hand() -> None:
    # Query 0: rows 5 (grade 2) and 7 (1); query 2: row 0. Query 1 has none that is relevant and does not count.
    judged = judgements({2: {0: 1}, 0: {7: 1, 5: 2, 4: 0}, 1: {3: 0}}, NOT_THERE, rows=10)
    found = np.array([[7, 3, 5, 9], [3, 5, 7, 0], [4, 5, 0, -1]])
    result = relevance(judged, found, k=2)
    first = (1 + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    second = 1 / np.log2(4)
    assert result.ndcg_10.mean == pytest.approx((first + second) / 2)
    assert result.ndcg_10.worst == pytest.approx(second)
    assert (result.recall.mean, result.recall.queries) == (0.25, 2)


def test_the_row_that_is_the_query_does_not_count() -> None:
    judged = judgements({0: {4: 3, 5: 1}}, np.array([4, -1, -1]), rows=10)
    assert judged.judged.tolist() == [[1]]
    with pytest.raises(EvaluationError, match="no query of the 1 in qrels has a relevant row"):
        judgements({0: {4: 3}}, np.array([4, -1, -1]), rows=10)


def test_rows_not_found_have_no_grade() -> None:
    # -1 is no row: neither the last one of this query nor one of the query before.
    judged = judgements({0: {9: 1}, 1: {9: 1}}, NOT_THERE, rows=10)
    result = relevance(judged, np.full((3, 10), -1), k=10)
    assert (result.ndcg_10.mean, result.recall.mean) == (0, 0)


def test_positions_that_do_not_exist_are_counted() -> None:
    with pytest.raises(EvaluationError, match=r"1 queries beyond the 3 there are, and 2 rows beyond 10\. "):
        judgements({3: {1: 1}, 0: {10: 1, -1: 1}}, NOT_THERE, rows=10)
