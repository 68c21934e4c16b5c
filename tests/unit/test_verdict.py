"""Words about an evaluation say what its figures say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mrl_pg.evaluate import evaluate
from mrl_pg.evaluation import Evaluation, Measured
from mrl_pg.metrics import summarise
from mrl_pg.verdict import good_enough, judged_candidates, sentences
from mrl_pg.views import KINDS
from tests.conftest import vectors

ROWS = vectors(620, 48)


def evaluated(dims: list[int], candidates: list[int], kinds: Sequence[str] = KINDS) -> Evaluation:
    return evaluate(ROWS[20:], ROWS[:20], dims=dims, candidates=candidates, kinds=kinds)


def test_good_enough_is_the_shortest_of_each_kind_and_never_the_control() -> None:
    found = evaluated([8, 16, 32], [20, 100, 300])
    assert judged_candidates(found) == 100
    good = good_enough(found)
    # Of the same size, the one that needs no basis.
    assert [(point.kind, point.dims) for point in good][:2] == [("truncate", 8), ("rotate", 8)]
    assert "random" not in {point.kind for point in good}
    assert [point.footprint.index_bytes for point in good] == sorted(point.footprint.index_bytes for point in good)
    text = " ".join(sentences(found))
    assert text.startswith("Good enough is a recall@10 of 0.98 after a rerank of 100 candidates. The smallest index ")
    assert "that does: truncate 8, " in text
    # Most of the energy is in the first dims of these vectors.
    assert "The first dims are much better than dims chosen at random (the control), by 0." in text


def test_nothing_is_good_enough() -> None:
    found = evaluated([4], [10], ["truncate", "binary"])
    assert good_enough(found) == []
    assert sentences(found)[0].startswith(
        "No prefix reaches a recall@10 of 0.98 after a rerank of 10 candidates. The best is truncate 4 with 0."
    )


@pytest.mark.parametrize(
    ("candidates", "judged"), [([10, 20], 20), ([100, 200], 100), ([200, 400], 200), ([50, 150], 50)]
)
def test_judged_by_the_candidates_there_are(candidates: list[int], judged: int) -> None:
    assert judged_candidates(evaluated([8], candidates)) == judged


def test_spread_energy_makes_the_first_dims_no_better() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((48, 48)))
    spread = (ROWS @ turn).astype(np.float32)
    text = " ".join(sentences(evaluate(spread[20:], spread[:20], dims=[8, 16, 24])))
    assert "The first dims are no better than dims chosen at random" in text
    assert "A rotation learnt from the rows finds with 8 dims at least what the first dims find with 16." in text


def test_one_kind_alone_is_not_compared() -> None:
    assert len(sentences(evaluated([8, 16], [100], ["truncate"]))) == 1


def test_searches_through_indexes() -> None:
    def search(candidates: int, recall: float, p50: float, filter: dict[str, str] | None = None) -> Measured:
        figure = summarise(np.full(5, recall))
        return Measured(
            "embedding_8", "truncate", 8, candidates, 40, filter, 1, 1, 5, figure, figure, p50, p50, p50, 1000 / p50
        )

    found = evaluated([8], [100], ["truncate"])
    two = replace(found, indexes=(search(50, 0.9, 1), search(100, 0.99, 2), search(20, 1, 0.1, {"lang": "en"})))
    assert sentences(two)[-1] == (
        "Of the searches through indexes the fastest with that recall is embedding_8 with 100 candidates and ef_search "
        "40: 0.990 (0.990 to 0.990), half of them within 2.0 ms."
    )
    none = replace(found, indexes=(search(50, 0.9, 1),))
    assert "none has a recall@10 of 0.98; the best is embedding_8 with 50 candidates" in sentences(none)[-1]
