"""An evaluation measures what its parts do, on small vectors by hand and on real ones by what is known of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mrl_pg.errors import DimensionError, EvaluationError, SearchError, SpecError
from mrl_pg.evaluate import Progress, evaluate
from mrl_pg.evaluation import Evaluation, Point
from mrl_pg.footprint import BuildRate, footprint
from mrl_pg.spec import Distance
from mrl_pg.vectors import FloatArray, prefixes
from tests.conftest import vectors

ROWS, QUERIES, FULL_DIMS = 600, 25, 48


@pytest.fixture(scope="module")
def sample() -> tuple[FloatArray, FloatArray]:
    rows = vectors(ROWS + QUERIES, FULL_DIMS)
    return rows[QUERIES:], rows[:QUERIES]


def point(evaluation: Evaluation, kind: str, dims: int) -> Point:
    (found,) = [p for p in evaluation.points if (p.kind, p.dims) == (kind, dims)]
    return found


def order(queries: npt.NDArray[np.floating[Any]], rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Returns the rows (q, n) by their cosine distance, nearest first."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    return np.argsort(-(a @ b.T), axis=1)


def share(exact: npt.NDArray[np.int64], found: npt.NDArray[np.int64], k: int) -> list[float]:
    """Returns which share (q,) of the first k of one list is anywhere in the other."""
    return [len(set(a[:k]) & set(b)) / k for a, b in zip(exact.tolist(), found.tolist(), strict=True)]


def test_figures_are_those_of_a_search_by_hand(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    result = evaluate(corpus, queries, k=5, dims=[6, 12], kinds=["truncate"], candidates=[3, 5, 10, 40], top=20)
    exact = order(queries, corpus)
    for dims in (6, 12):
        by_prefix = order(prefixes(queries, dims, "cosine"), prefixes(corpus, dims, "cosine"))
        found = point(result, "truncate", dims)
        alone = share(exact, by_prefix[:, :5], 5)
        assert found.recall.mean == pytest.approx(np.mean(alone))
        assert found.recall.worst == min(alone)
        assert found.overlap.mean == pytest.approx(np.mean(alone))
        # Candidates below k are left out.
        assert [reranked.candidates for reranked in found.reranked] == [5, 10, 40]
        expected = [np.mean(share(exact, by_prefix[:, :n], 5)) for n in (5, 10, 40)]
        assert [reranked.recall.mean for reranked in found.reranked] == pytest.approx(expected)
        ranks = np.argsort(by_prefix, axis=1)
        top = np.take_along_axis(ranks, exact[:, :20], axis=1).argsort(axis=1).argsort(axis=1)
        differences = ((top - np.arange(20)) ** 2).sum(axis=1)
        assert found.spearman.mean == pytest.approx((1 - 6 * differences / (20 * (20**2 - 1))).mean(), abs=0.01)
    assert (result.rows, result.queries, result.full_dims, result.k, result.top) == (ROWS, QUERIES, FULL_DIMS, 5, 20)
    assert result.relevance is None
    assert result.basis_rows == 0


def test_all_of_the_numbers_find_all(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    corpus, queries = corpus.copy(), queries.copy()
    corpus[:, 40:] = queries[:, 40:] = 0
    found = evaluate(corpus, queries, dims=[40], kinds=["truncate", "rotate"], candidates=[20])
    for one in found.points:
        assert one.recall.mean > 0.97
        assert one.reranked[0].recall.worst == 1
        assert one.spearman.mean > 0.99
        assert one.kept == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("distance", ["l2", "inner_product"])
def test_other_distances_are_measured_by_themselves(distance: Distance, sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    norms = np.random.default_rng(0).lognormal(0, 0.5, size=(ROWS, 1)).astype(np.float32)
    corpus = corpus * norms
    result = evaluate(corpus, queries, distance=distance, kinds=["truncate"], dims=[47], candidates=[100])
    (found,) = result.points
    assert found.recall.mean > 0.95
    assert found.reranked[0].recall.worst == 1
    # Measured by the wrong distance, the same vectors would look much worse.
    a, b = queries.astype(np.float64), corpus.astype(np.float64)
    right = np.argsort(np.linalg.norm(a[:, None] - b[None], axis=2) if distance == "l2" else -(a @ b.T), axis=1)
    assert np.mean(share(right, order(a, b)[:, :10], 10)) < 0.8


def test_identical_rows_are_as_good_as_each_other(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    # Each row four times: which of the copies comes among ten is chance, and no error.
    result = evaluate(np.repeat(corpus[:150], 4, axis=0), queries, kinds=["binary"], dims=[48], candidates=[600])
    (found,) = result.points
    assert found.reranked[0].recall.worst == 1
    assert found.recall.mean >= found.overlap.mean


def test_queries_of_the_corpus_do_not_find_themselves(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, _ = sample
    own = np.arange(100, 130)
    options: dict[str, Any] = {"kinds": ["truncate", "rotate"], "dims": [8], "candidates": [10, 599], "k": 10}
    found = evaluate(corpus, corpus[own], itself=own, **options)
    apart = np.delete(corpus, own, axis=0)
    exact = [row[row != own[i]] for i, row in enumerate(order(corpus[own], corpus))]
    by_prefix = [
        row[row != own[i]]
        for i, row in enumerate(order(prefixes(corpus[own], 8, "cosine"), prefixes(corpus, 8, "cosine")))
    ]
    expected = np.mean(share(np.array(exact), np.array(by_prefix)[:, :10], 10))
    assert point(found, "truncate", 8).recall.mean == pytest.approx(expected)
    assert point(found, "truncate", 8).reranked[1].recall.worst == 1
    assert found.basis_rows == len(apart)


def test_relevance_is_given_beside_that_of_the_whole_embedding(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    exact = order(queries, corpus)
    # What the whole embedding finds first is what is relevant; the better, the nearer.
    qrels = {q: {int(row): 3 - n for n, row in enumerate(exact[q, :3])} for q in range(QUERIES - 5)}
    result = evaluate(corpus, queries, qrels=qrels, k=2, kinds=["truncate"], dims=[6], candidates=[2, 600])
    assert result.relevance is not None
    assert result.relevance.ndcg_10.mean == 1
    assert result.relevance.ndcg_10.queries == QUERIES - 5
    assert result.relevance.recall.mean == pytest.approx(2 / 3)
    (found,) = result.points
    assert found.relevance is not None
    few, all_rows = [reranked.relevance for reranked in found.reranked]
    assert few is not None
    assert all_rows == result.relevance
    assert found.relevance.ndcg_10.mean < 0.9
    # The two candidates of a rerank come in its order; alone, the prefix has ten and another order.
    by_prefix = order(prefixes(queries, 6, "cosine"), prefixes(corpus, 6, "cosine"))
    expected = [len(set(by_prefix[q, :2].tolist()) & set(qrels[q])) / 3 for q in qrels]
    assert few.recall.mean == pytest.approx(np.mean(expected))
    assert found.relevance.recall.mean == pytest.approx(np.mean(expected))


def test_footprints_are_of_the_whole_table(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    rate = BuildRate(rows_per_second=100, dims=8)
    result = evaluate(corpus, queries, kinds=["binary"], dims=[8], table_rows=5_000, m=8, rate=rate)
    assert result.points[0].footprint == footprint("binary", 8, 5_000, m=8, rate=rate)
    assert result.footprint == footprint("truncate", FULL_DIMS, 5_000, m=8, rate=rate)
    assert result.table_rows == 5_000
    assert result.notes[-1].startswith("Measured on 600 of 5,000 rows. ")
    assert evaluate(corpus, queries, kinds=["binary"], dims=[8]).notes == ()


def test_it_becomes_json_without_loss(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    result = evaluate(corpus, queries, qrels={0: {1: 1}}, dims=[8, 48])
    found = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert [(p["kind"], p["dims"]) for p in found["points"]] == [
        ("truncate", 8),
        ("rotate", 8),
        ("binary", 8),
        ("binary", 48),
        ("random", 8),
    ]
    first = found["points"][0]
    assert first["reranked"][0]["candidates"] == 10
    assert first["reranked"][0]["recall"]["mean"] == result.points[0].reranked[0].recall.mean
    assert first["footprint"]["column_bytes"] == 21
    assert found["points"][2]["kept"] is None
    assert found["relevance"]["ndcg_10"]["queries"] == 1


def test_the_same_seed_gives_the_same_figures(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    one, same, other = [
        evaluate(corpus, queries, dims=[8], kinds=["random"], candidates=[20], seed=s) for s in (0, 0, 1)
    ]
    assert one == same
    assert one.points[0].kept != other.points[0].kept


def test_progress_ends_at_its_total(sample: tuple[FloatArray, FloatArray]) -> None:
    seen: list[Progress] = []
    evaluate(*sample, dims=[8], candidates=[20], on_progress=seen.append)
    assert [p.what for p in seen] == ["exact", "truncate", "rotate", "binary", "random"]
    assert [p.done for p in seen] == [600, 1_200, 1_800, 2_400, 3_000]
    assert {p.total for p in seen} == {3_000}


def test_what_is_beyond_the_rows_is_left_out(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    options: dict[str, Any] = {"kinds": ["truncate"], "dims": [8], "candidates": [10, 59, 60, 61]}
    result = evaluate(corpus[:60], queries, **options)
    assert [reranked.candidates for reranked in result.points[0].reranked] == [10, 59, 60]
    assert result.top == 60
    # A query that is a row has one row less to find.
    result = evaluate(corpus[:60], corpus[:5], itself=np.arange(5), **options)
    assert [reranked.candidates for reranked in result.points[0].reranked] == [10, 59]
    assert result.top == 59


def test_the_scale_of_the_embeddings_does_not_matter(sample: tuple[FloatArray, FloatArray]) -> None:
    corpus, queries = sample
    options: dict[str, Any] = {"distance": "inner_product", "kinds": ["truncate"], "dims": [6], "candidates": [10]}
    large, small = (evaluate(corpus * scale, queries * scale, **options) for scale in np.array([1, 2**-9], np.float32))
    assert large.points[0].recall.mean < 0.9
    assert small.points[0].recall.mean == pytest.approx(large.points[0].recall.mean, abs=0.02)


def test_clusters_far_apart_are_searched_exactly() -> None:
    rng = np.random.default_rng(0)
    apart = np.where(np.arange(ROWS) % 2, 1_000, -1_000)[:, None]
    rows = np.asarray(rng.standard_normal((ROWS, 16)) + apart, dtype=np.float32)
    corpus, queries = rows[20:], rows[:20]
    near = np.linalg.norm(queries[:, None].astype(np.float64) - corpus[None], axis=2).argsort(axis=1)
    qrels = {q: {int(row): 10 - n for n, row in enumerate(near[q, :10])} for q in range(20)}
    result = evaluate(corpus, queries, distance="l2", kinds=["truncate"], dims=[8], qrels=qrels)
    assert result.relevance is not None
    assert result.relevance.ndcg_10.worst == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distance": "l1"}, SpecError, "unknown distance 'l1'"),
        ({"dims": [49]}, SpecError, "not 49"),
        ({"k": 0}, EvaluationError, "k must be between 1 and 600, the rows a query can find, not 0. "),
        ({"k": 601}, EvaluationError, "not 601. "),
        ({"k": 20, "candidates": [5, 10]}, EvaluationError, "between k = 20 and 600, the rows a query can "),
        ({"candidates": []}, EvaluationError, "not none. "),
        ({"itself": np.full(3, 0)}, EvaluationError, "each of the 25 queries; it has shape (3,). "),
        ({"itself": np.full(QUERIES, 600)}, EvaluationError, "a row from 0 to 599, or -1, "),
        ({"qrels": {0: {600: 1}}}, EvaluationError, "1 rows beyond 600"),
        ({"queries": np.ones((2, 47), dtype=np.float32)}, DimensionError, "a query has 47 dimensions, expected 48. "),
        ({"queries": np.ones(48, dtype=np.float32)}, EvaluationError, "queries has shape (48,), expected"),
        ({"queries": np.ones((0, 48), dtype=np.float32)}, EvaluationError, "queries has shape (0, 48), expected"),
        ({"queries": np.zeros((2, 48), dtype=np.float32)}, EvaluationError, "2 of 2 queries are zero or not finite"),
        ({"top": 1}, EvaluationError, "top must be at least 2, not 1. "),
        ({"m": 1}, SpecError, "m must be between 2 and 100, not 1. "),
        ({"m": 101}, SpecError, "m must be between 2 and 100, not 101. "),
        ({"queries": np.full((2, 48), 1e300)}, EvaluationError, "first is number 0. "),
        ({"corpus": np.ones(48, dtype=np.float32)}, EvaluationError, "corpus has shape (48,), expected"),
        ({"corpus": np.full((50, 48), 1e300)}, SearchError, "50 of embeddings 0 to 49"),
    ],
)
def test_what_cannot_be_evaluated(
    change: dict[str, Any], error: type[Exception], message: str, sample: tuple[FloatArray, FloatArray]
) -> None:
    given: dict[str, Any] = {"corpus": sample[0], "queries": sample[1], "kinds": ["truncate"], "dims": [8]} | change
    with pytest.raises(error) as raised:
        evaluate(**given)
    assert message in str(raised.value)


def test_real_embeddings(shared_data: Path) -> None:
    """What is known of text-embedding-3-small: a prefix is little better than any dims, a rotation much better."""
    data = np.load(shared_data / "te3small_1536.npz")
    corpus, queries = data["corpus"].astype(np.float32), data["queries"][:200].astype(np.float32)
    result = evaluate(corpus, queries, dims=[128, 256], candidates=[10, 20, 50, 100], seed=0)
    for dims in (128, 256):
        prefix, rotated, control = (point(result, kind, dims) for kind in ("truncate", "rotate", "random"))
        assert prefix.recall.mean == pytest.approx(control.recall.mean, abs=0.06)
        assert rotated.recall.mean > max(prefix.recall.high, control.recall.high)
        assert rotated.kept is not None
        assert prefix.kept is not None
        assert rotated.kept > 2 * prefix.kept
        for one in (prefix, rotated, control):
            means = [one.recall.mean, *(reranked.recall.mean for reranked in one.reranked)]
            assert means == sorted(means)
            assert all(r.recall.low <= r.recall.mean <= r.recall.high for r in one.reranked)
    prefix = point(result, "truncate", 256)
    assert prefix.kept == pytest.approx(0.24, abs=0.01)
    assert prefix.reranked[-1].recall.mean >= 0.99
    assert result.basis_rows == len(corpus)
