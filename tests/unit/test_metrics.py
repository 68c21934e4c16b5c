"""Metrics agree with hand-computed examples and with scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_pg.metrics import ndcg, overlap, recall, relevant_recall, spearman, summarise

Floats = npt.NDArray[np.float64]


def floats(*rows: list[float]) -> Floats:
    return np.array(rows)


def matrices(low: float, high: float) -> st.SearchStrategy[Floats]:
    """Small matrices of whole numbers, so that ties are many."""
    return hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8),
        elements=st.integers(int(low), int(high)).map(float),
    )


def test_recall_by_hand() -> None:
    exact = floats([0.1, 0.2, 0.3, 0.4])
    assert recall(exact, floats([0.1, 0.3, 0.4]), 3).tolist() == pytest.approx([2 / 3])
    assert recall(exact, floats([0.4, 0.5, np.inf]), 3).tolist() == [0]
    # In any order, from more than k: what is left after the rerank.
    assert recall(exact, floats([0.9, 0.3, 0.8, 0.2, 0.1]), 3).tolist() == [1]


def test_recall_takes_another_row_as_near_as_the_kth() -> None:
    exact = floats([0.1, 0.2, 0.2, 0.2])
    assert recall(exact, floats([0.1, 0.2]), 2).tolist() == [1]
    assert recall(exact, floats([0.2, 0.2]), 2).tolist() == [1]
    # Never more than all.
    assert recall(exact, floats([0.1, 0.2, 0.2, 0.2]), 2).tolist() == [1]


def test_recall_allows_for_rounding_and_no_more() -> None:
    exact = floats([0.1, 0.2], [10.0, 20.0])
    found = floats([0.1, 0.2 + 5e-7], [10.0, 20.0 + 5e-6])
    assert recall(exact, found, 2).tolist() == [1, 0.5]
    assert recall(exact, found, 2, tolerance=np.array([1e-7, 1e-5])).tolist() == [0.5, 1]


def test_rows_not_found_are_no_hits() -> None:
    assert recall(floats([1.0, np.inf]), floats([1.0, np.inf]), 2).tolist() == [0.5]


def test_overlap_by_hand() -> None:
    exact = np.array([[1, 2, 3, 4], [1, 2, -1, -1]])
    found = np.array([[3, 9, 1, 2], [2, 7, -1, -1]])
    assert overlap(exact, found, 3).tolist() == pytest.approx([2 / 3, 1 / 3])


@given(st.permutations(list(range(12))), st.integers(1, 12))
def test_overlap_is_that_of_sets(order: list[int], k: int) -> None:
    found = np.array([order])
    expected = len(set(range(k)) & set(order[:k])) / k
    assert overlap(np.arange(12)[None], found, k)[0] == pytest.approx(expected)


@settings(deadline=None)
@given(matrices(0, 5), st.integers(0, 2**32 - 1))
def test_spearman_is_that_of_scipy(one: Floats, seed: int) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    other = np.random.default_rng(seed).integers(0, 5, size=one.shape).astype(np.float64)
    for a, b, ours in zip(one, other, spearman(one, other), strict=True):
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert ours == 0
        else:
            assert ours == pytest.approx(stats.spearmanr(a, b).statistic)


def test_spearman_by_hand() -> None:
    up = floats([1, 2, 3, 4])
    assert spearman(up, up * 10).tolist() == pytest.approx([1])
    assert spearman(up, -up).tolist() == pytest.approx([-1])
    # Ranks 1, 2.5, 2.5, 4 against 1 to 4: covariance 4.5, variances 4.5 and 5.
    assert spearman(floats([1, 2, 2, 3]), up).tolist() == pytest.approx([4.5 / np.sqrt(4.5 * 5)])
    assert spearman(floats([1, 1, 1, 1]), up).tolist() == [0]


def test_ndcg_by_hand() -> None:
    # Grades 3, 2 and 1 at ranks 2, 1 and 4: (2 + 3/log2(3) + 1/log2(5)) / (3 + 2/log2(3) + 1/2).
    gain = 2 + 3 / np.log2(3) + 1 / np.log2(5)
    best = 3 + 2 / np.log2(3) + 1 / 2
    assert ndcg(floats([2, 3, 0, 1]), floats([1, 2, 3, 0, 0]), 10).tolist() == pytest.approx([gain / best])
    # Cut at 2, the third best does not count either way.
    cut = (2 + 3 / np.log2(3)) / (3 + 2 / np.log2(3))
    assert ndcg(floats([2, 3, 0, 1]), floats([1, 2, 3, 0, 0]), 2).tolist() == pytest.approx([cut])


def test_without_relevant_rows_there_is_no_figure() -> None:
    assert np.isnan(ndcg(floats([0, 0]), floats([0, -1]), 2)).all()
    assert np.isnan(relevant_recall(floats([0, 0]), floats([0, -1]), 2)).all()


@settings(deadline=None)
@given(matrices(0, 4), st.integers(1, 10), st.randoms(use_true_random=False))
def test_ndcg_is_that_of_scikit_learn(grades: Floats, k: int, random: Any) -> None:
    metrics: Any = pytest.importorskip("sklearn.metrics")
    assume((grades.max(axis=1) > 0).all())
    order = list(range(grades.shape[1]))
    random.shuffle(order)
    # sklearn ranks by score: the first in our order has the highest.
    scores = np.empty_like(grades)
    scores[:, order] = np.arange(len(order), 0, -1)
    ours = ndcg(grades[:, order], grades, k).mean()
    assert ours == pytest.approx(metrics.ndcg_score(grades, scores, k=k))


@given(matrices(-1, 3), st.integers(1, 8))
def test_the_best_order_has_ndcg_1(grades: Floats, k: int) -> None:
    assume((grades.max(axis=1) > 0).all())
    assert ndcg(-np.sort(-grades, axis=1), grades, k) == pytest.approx(1)


def test_relevant_recall_by_hand() -> None:
    found, judged = floats([2, 0, 1, 3]), floats([3, 2, 1, 1, -1, 0])
    assert relevant_recall(found, judged, 3).tolist() == [0.5]
    assert relevant_recall(found, judged, 4).tolist() == [0.75]


def test_summary_by_hand() -> None:
    values = np.array([0.0] + [0.5] * 9 + [1.0] * 10)
    summary = summarise(values)
    assert (summary.mean, summary.worst, summary.queries) == (0.725, 0.0, 20)
    # One query of 20 does not exceed 0: 5 %. One of 21 is less than 5 %.
    assert summary.p5 == 0.0
    assert summarise(np.append(values, [1.0])).p5 == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_summaries_stay_within_the_values(values: list[float]) -> None:
    summary = summarise(np.array(values))
    assert summary.worst - 1e-9 <= summary.low <= summary.high <= max(values) + 1e-9
    assert summary.worst <= summary.p5 <= max(values)


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, size=400)
    summary = summarise(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert summary.low == pytest.approx(values.mean() - error, abs=error / 10)
    assert summary.high == pytest.approx(values.mean() + error, abs=error / 10)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert summarise(values, seed=3) == summarise(values, seed=3)
    assert summarise(values, seed=3).low != summarise(values, seed=4).low
