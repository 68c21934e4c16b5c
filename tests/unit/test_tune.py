"""Choosing settings: what is built, what is confirmed, and what is recommended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mrl_pg.errors import SearchError
from mrl_pg.evaluate import evaluate
from mrl_pg.operating import OperatingPoint, choose_point
from mrl_pg.points import Figures, Point, pareto
from mrl_pg.search import plan_at, search_plan
from mrl_pg.tune import (
    choose_best,
    exact_is_enough,
    grid_of,
    halves,
    promising,
    scanned_candidates,
    stored_points,
    to_confirm,
)
from tests.conftest import vectors


def point(prefix: str = "a", recall: float = 0.98, p50: float = 1.0, **others: Any) -> OperatingPoint:
    made = OperatingPoint(prefix, 10, 100, 100, 0.98, recall, recall - 0.01, 1.0, p50, 2 * p50, 1000, 50, "queries")
    return replace(made, **others)


def figures(candidates: int, recall: float, p50: float) -> Figures:
    return Figures(
        candidates=candidates, ef_search=40, queries=50, recall=recall, low=0, high=1, p50_ms=p50, p95_ms=p50, qps=1
    )


def test_halves_share_no_query() -> None:
    for queries in (2, 3, 500):
        one, other = halves(queries, 0)
        assert sorted([*one, *other]) == list(range(queries))
        assert len(other) - len(one) in (0, 1)
    assert not np.array_equal(halves(500, 0)[0], halves(500, 1)[0])


def test_grid() -> None:
    grid = grid_of(10, 100_000, itself=False)
    assert grid.candidates[0] == 15
    assert grid.candidates == tuple(sorted(grid.candidates))
    assert grid_of(1, 100_000, itself=True).candidates[0] == 2
    assert grid_of(10, 12, itself=True).candidates == (12,)
    assert max(scanned_candidates(10)) == 200


def test_promising_are_few_and_the_cheapest_first() -> None:
    corpus = vectors(400, 64)
    found = evaluate(corpus, vectors(40, 64, seed=1), dims=[8, 16, 32], candidates=scanned_candidates(10))
    chosen = promising(found, 0.9, ())
    assert [one.cost for one in chosen] == sorted(one.cost for one in chosen)
    assert 1 <= len(chosen) <= 4
    assert all(one.kind != "random" for one in chosen)
    first = chosen[0]
    assert (first.kind, first.dims) not in {
        (one.kind, one.dims) for one in promising(found, 0.9, [(first.kind, first.dims)])
    }
    assert promising(found, 1.1, ()) == []


def test_pareto() -> None:
    slow, dear = point(recall=0.99, p50=3), point(recall=0.9, p50=2)
    fast, best = point(recall=0.95, p50=1), point(recall=1, p50=4)
    assert pareto([slow, dear, fast, best]) == [fast, slow, best]
    other = point("b", recall=0.9, p50=9)
    assert stored_points([slow, dear, fast, best, other], ["a", "b"]) == [fast, slow, best, other]


def test_what_is_confirmed() -> None:
    a = {Point(n, 40): figures(n, recall, p50) for n, recall, p50 in [(10, 0.8, 1), (20, 0.98, 2), (30, 0.99, 3)]}
    b = {Point(10, 40): figures(10, 0.7, 5)}
    seen = {"a": a, "b": b}
    first = to_confirm(seen, {}, [0.98])
    assert first == [("a", Point(10, 40)), ("a", Point(20, 40)), ("a", Point(30, 40))]
    # It was lucky: the next one, which is known already.
    missed = {("a", Point(20, 40)): figures(20, 0.97, 2)}
    assert to_confirm(seen, missed, [0.98]) == [("a", Point(30, 40))]
    both = missed | {("a", Point(30, 40)): figures(30, 0.985, 3)}
    assert to_confirm(seen, both, [0.98]) == []
    # Another recall has guesses of its own.
    assert to_confirm(seen, both, [0.98, 0.6]) == [("a", Point(10, 40)), ("b", Point(10, 40))]


def test_recommended() -> None:
    points = [point(recall=0.97, p50=1), point(recall=0.98, p50=2), point(recall=0.99, p50=3)]
    assert choose_best(points, 0.98, None) == points[1]
    assert choose_best(points, 0.98, 4) == points[1]
    assert choose_best(points, 0.98, 3.9) is None
    assert choose_best(points, 0.995, None) is None
    assert exact_is_enough(2.9, 9, points[1], None)
    assert not exact_is_enough(3.1, 9, points[1], None)
    assert not exact_is_enough(3.1, 9, None, None)
    assert exact_is_enough(3.1, 9, None, 9)
    assert not exact_is_enough(3.1, 9, points[1], 8)


def test_choose_point() -> None:
    points = [point(p50=3), point("b", p50=2), point("gone", p50=1), point("b", recall=0.9, p50=0.1)]
    assert choose_point("t", points, ["a", "b"], k=10, recall=0.98) == points[1]
    assert choose_point("t", points, ["a"], k=3, recall=0.98) == points[0]
    assert choose_point("t", [point("b"), point("a")], ["a", "b"], k=10, recall=0.98).prefix == "a"
    points[1] = replace(points[1], source="rows")
    measured = (
        r"at most 0.9800 for k = 10 by a with queries, 0.9800 for k = 10 by b with rows as queries. Run: mrl-pg tune"
    )
    with pytest.raises(SearchError, match=measured):
        choose_point("t", points, ["a", "b"], k=10, recall=0.99)


def test_a_plan_by_recall_gets_its_numbers() -> None:
    plan = search_plan(k=5, recall=0.98)
    assert plan_at(plan, 50, 60) == search_plan(k=5, candidates=50, ef_search=60)
    plan = search_plan(k=5, recall=0.98, max_scan_tuples=7)
    assert plan_at(plan, 50, 60) == search_plan(k=5, candidates=50, ef_search=60, max_scan_tuples=7)
