"""Defaults of a search and the shape of a filter."""

from __future__ import annotations

import pytest

from mrl_pg import Hit, SearchResult
from mrl_pg.search import read_filter, search_plan


@pytest.mark.parametrize(
    ("k", "candidates", "expected"),
    [
        (10, None, (100, 100, 20_000)),
        (1, None, (100, 100, 20_000)),
        (50, None, (500, 500, 100_000)),
        (300, None, (3000, 1000, 600_000)),
        (5, 20, (20, 40, 20_000)),
    ],
)
def test_defaults(k: int, candidates: int | None, expected: tuple[int, int, int]) -> None:
    plan = search_plan(k=k, candidates=candidates)
    assert (plan.candidates, plan.ef_search, plan.max_scan_tuples) == expected


def test_ef_search_may_be_below_candidates() -> None:
    assert search_plan(candidates=400, ef_search=80).ef_search == 80


def test_filters() -> None:
    shape, values = read_filter({"lang": "en", "year": [2024, None], "deleted_at": None, "tag": {"a"}, "name": "x"})
    assert shape == (
        ("lang", "equal"),
        ("year", "any or null"),
        ("deleted_at", "null"),
        ("tag", "any"),
        ("name", "equal"),
    )
    assert values == {"filter_0": "en", "filter_1": [2024], "filter_3": ["a"], "filter_4": "x"}
    assert read_filter(None) == ((), {})


def test_result_is_a_sequence() -> None:
    hits: list[Hit[dict[str, int]]] = [Hit(key=n, distance=n / 10, row={}) for n in range(3)]
    result = SearchResult(hits, requested=100, received=3)
    assert (len(result), result[0].key, [hit.key for hit in result[1:]], result[-1] in result) == (3, 0, [1, 2], True)
    assert repr(result) == "<SearchResult: 3 hits, 3 of 100 candidates>"
