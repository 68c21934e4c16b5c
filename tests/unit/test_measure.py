"""Timed searches are judged by their distances, the query's own row left out."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_pg.measure import Run, Truth, exact_truth, measured, without_own
from mrl_pg.search import search_plan
from mrl_pg.spec import Distance, Prefix
from mrl_pg.vectors import FloatArray
from tests.conftest import vectors

PREFIX = Prefix("embedding", "embedding_8", 8, "cosine", 32)


def floats(*rows: list[float]) -> FloatArray:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
def test_the_own_row_is_left_out_once(distance: Distance) -> None:
    own = floats([0.0])[0] if distance != "inner_product" else floats([-9.0])[0]
    twin, near, far = own[0], own[0] + 0.5, own[0] + 1
    assert without_own(floats([twin, near, far]), own, distance).tolist() == [[near, far, np.inf]]
    # A twin of the row is another row.
    assert without_own(floats([twin, twin, far]), own, distance).tolist() == [[twin, far, np.inf]]
    # Not found, or none of the rows.
    assert without_own(floats([near, far, np.inf]), own, distance).tolist() == [[near, far, np.inf]]
    nobody = floats([np.inf])[0]
    assert without_own(floats([twin, near, np.inf]), nobody, distance).tolist() == [[twin, near, np.inf]]


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
def test_truth_is_that_of_a_search_by_hand(distance: Distance) -> None:
    rows = vectors(300, 32) * 3
    itself = np.array([5, -1, 299, 8])
    queries = np.where(itself[:, None] >= 0, rows[itself], vectors(4, 32, seed=1)).astype(np.float32)
    if distance == "l2":
        every = np.linalg.norm(queries[:, None].astype(np.float64) - rows[None], axis=2)
    else:
        every = -(queries.astype(np.float64) @ rows.T.astype(np.float64))
        if distance == "cosine":
            every = 1 + every / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(rows, axis=1)[None]
    others = every.copy()
    others[[0, 2, 3], [5, 299, 8]] = np.inf
    truth = exact_truth(rows, queries, 7, distance, itself=itself)
    assert truth.nearest == pytest.approx(np.sort(others, axis=1)[:, :7], abs=2e-6)
    assert (truth.k, truth.asked) == (7, 8)
    kept = np.arange(0, 300, 2)
    under = exact_truth(rows, queries, 7, distance, itself=itself, kept=kept)
    assert under.nearest == pytest.approx(np.sort(others[:, kept], axis=1)[:, :7], abs=2e-6)
    # Rows 5 and 299 are not kept, so nothing is to be left out of what the filter finds.
    assert np.isfinite(under.own).tolist() == [False, False, False, True]


def test_figures_of_a_setting() -> None:
    truth = Truth(floats([0.1, 0.2], [0.3, 0.4]), floats([np.inf, np.inf])[0], "cosine")
    found = floats([0.1, 0.2], [0.3, np.inf])
    first = Run(found, np.array([20.0, 10.0]), np.array([0.001, 0.003]))
    second = Run(found, np.array([20.0, 10.0]), np.array([0.002, 0.004]))
    plan = search_plan(k=2, candidates=20)
    figures = measured(PREFIX, plan, [first, second], 0.5, truth, filter={"lang": "en"}, selectivity=0.25, seed=0)
    assert (figures.recall.mean, figures.recall.worst, figures.received.mean) == (0.75, 0.5, 15)
    assert (figures.p50_ms, figures.qps, figures.searches, figures.clients) == (pytest.approx(2.5), 8, 4, 2)
    assert (figures.candidates, figures.ef_search, figures.filter) == (20, 40, {"lang": "en"})
