"""Vectors reach pgvector as the numbers they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pgvector import HalfVector, Vector

from mrl_pg.vectors import layer_norm, prefixes, to_binary, to_text
from tests.conftest import FloatArray

FLOATS = hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FLOATS)
def test_text_and_binary_are_exact(vector: FloatArray) -> None:
    assert np.array_equal(Vector.from_text(to_text(vector)).to_numpy(), vector)
    assert np.array_equal(Vector.from_binary(to_binary(vector)).to_numpy(), vector)


@given(FLOATS)
def test_halves_are_exact(vector: FloatArray) -> None:
    half = np.clip(vector, -65504, 65504).astype(np.float16)
    assert np.array_equal(HalfVector.from_text(to_text(half)).to_numpy(), half)
    assert np.array_equal(HalfVector.from_binary(to_binary(half)).to_numpy(), half)


def test_prefixes_for_cosine_are_unit_vectors() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32) * 1e-20
    made = prefixes(rows, 16, "cosine").astype(np.float64)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-3)
    assert not prefixes(np.zeros((2, 64)), 16, "cosine").any()


def test_prefixes_for_other_distances_keep_their_length() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 64)) * 7
    assert np.array_equal(prefixes(rows, 16, "l2"), rows[:, :16].astype(np.float16))


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1, 1e20])
def test_layer_norm(scale: float) -> None:
    """As PyTorch documents torch.nn.functional.layer_norm(), and nothing of what has none."""
    rows = ((np.random.default_rng(0).standard_normal((100, 64)) + 3) * scale).astype(np.float32)
    rows[3], rows[5] = 0, 0.1 * scale
    exact = rows.astype(np.float64)
    expected = (exact - exact.mean(axis=1)[:, None]) / np.sqrt(exact.var(axis=1)[:, None] + 1e-5)
    made = layer_norm(rows)
    assert made.dtype == np.float32
    assert not made[[3, 5]].any()
    assert np.delete(made, [3, 5], axis=0) == pytest.approx(np.delete(expected, [3, 5], axis=0), rel=1e-5, abs=0)
    assert np.array_equal(layer_norm(rows[7]), made[7])


def test_the_api_shortens_embeddings_as_we_do(shared_data: object) -> None:
    """OpenAI's dimensions=256 is the re-normalised prefix of the full embedding."""
    data = np.load(f"{shared_data}/te3_api_dimensions.npz")
    ours = prefixes(data["te3small_1536"], 256, "cosine").astype(np.float64)
    cosines = (ours * data["te3small_256"]).sum(axis=1) / np.linalg.norm(ours, axis=1)
    assert cosines.min() >= 0.999999
