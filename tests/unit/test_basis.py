"""A basis is what a singular value decomposition says, the same each time, and refuses what it cannot be made of."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_pg import SpecError
from mrl_pg.basis import MAX_EIGH_DIMS, fit, project
from tests.conftest import FloatArray, vectors


def test_it_keeps_as_much_as_the_singular_value_decomposition() -> None:
    rows = vectors(500, 64)
    basis = fit(rows, 8)
    values = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    assert basis.kept == pytest.approx((values[:8] ** 2).sum() / (values**2).sum(), abs=1e-6)
    assert basis.sample == 500
    assert basis.rows @ basis.rows.T == pytest.approx(np.eye(8), abs=1e-5)
    assert (np.take_along_axis(basis.rows, np.abs(basis.rows).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_long_embeddings_by_random_projections() -> None:
    rows = vectors(400, MAX_EIGH_DIMS + 100)
    basis = fit(rows, 16, seed=1)
    values = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    assert basis.kept == pytest.approx((values[:16] ** 2).sum() / (values**2).sum(), rel=1e-3)
    assert np.array_equal(basis.rows, fit(rows, 16, seed=1).rows)
    assert basis.rows @ basis.rows.T == pytest.approx(np.eye(16), abs=1e-5)


def test_cosine_looks_at_directions_and_the_others_at_lengths() -> None:
    rows = vectors(300, 16).astype(np.float64)
    scales = np.random.default_rng(2).lognormal(0, 2, (300, 1))
    assert fit(rows * scales, 4).rows == pytest.approx(fit(rows, 4).rows, abs=1e-5)
    assert not np.allclose(fit(rows * scales, 4, "l2").rows, fit(rows, 4, "l2").rows, atol=1e-2)
    made = project((rows * 1e30).astype(np.float32), fit(rows, 4).rows, "cosine")
    assert made == pytest.approx(project(rows, fit(rows, 4).rows, "l2"), abs=1e-5)


def test_vectors_that_are_no_matryoshka_can_be_cut_after_a_rotation() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((64, 64)))
    rows, queries = (vectors(n, 64, seed=seed) @ turn for n, seed in ((3_000, 1), (100, 2)))
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]

    def recall(short: FloatArray, asked: FloatArray) -> float:
        short, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (short, asked))
        candidates = np.argsort(-(asked @ short.T), axis=1)[:, :50]
        found = sum(len(set(c) & set(t)) for c, t in zip(candidates.tolist(), truth.tolist(), strict=True))
        return found / truth.size

    basis = fit(rows, 8).rows
    rotated = recall(project(rows, basis, "cosine"), project(queries, basis, "cosine"))
    assert rotated > 0.95
    assert recall(rows[:, :8], queries[:, :8]) < rotated - 0.3


def test_zero_rows_are_left_out() -> None:
    rows = np.concatenate([vectors(50, 16), np.zeros((50, 16))])
    assert fit(rows, 4).sample == 50
    with pytest.raises(SpecError, match="a sample of 2 embeddings that are not zero does not determine 4 dimensions"):
        fit(rows[48:], 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    rows: FloatArray = vectors(50, 16)
    rows[7, 3] = bad
    with pytest.raises(SpecError, match=r"1 of 50 embeddings of the sample are not finite, the first is number 7\."):
        fit(rows, 4)


def test_dims_that_cannot_be() -> None:
    for dims in (0, 16):
        with pytest.raises(SpecError, match=f"dims must be between 1 and 15 to rotate 16 dimensions, not {dims}"):
            fit(vectors(50, 16), dims)
