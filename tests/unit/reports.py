"""Evaluations for the tests of reports: figures made up, so that each can be told from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_pg.evaluation import Evaluation, Measured, Point, Reranked
from mrl_pg.footprint import footprint
from mrl_pg.metrics import Summary
from mrl_pg.relevance import Relevance

NASTY = """</script><script>alert("1")</script>'"&<b>$x$ 🙂 ünï"""


def search(
    prefix: str,
    candidates: int,
    ef_search: int,
    recall: Summary,
    p50_ms: float,
    filter: dict[str, Any] | None = None,
    selectivity: float = 1.0,
) -> Measured:
    """Returns searches through an index."""
    return Measured(
        prefix=prefix,
        kind="truncate",
        dims=256,
        candidates=candidates,
        ef_search=ef_search,
        filter=filter,
        selectivity=selectivity,
        clients=1,
        searches=200,
        recall=recall,
        received=summary(candidates),
        p50_ms=p50_ms,
        p95_ms=p50_ms * 2,
        p99_ms=p50_ms * 3,
        qps=1000 / p50_ms,
    )


def summary(mean: float, width: float = 0.01) -> Summary:
    """Returns a summary around a mean."""
    return Summary(mean, mean * 0.8, mean * 0.6, max(0, mean - width), min(1, mean + width) if mean <= 1 else mean, 200)


def evaluation(
    recalls: Mapping[str, Mapping[int, float]] | None = None,
    *,
    candidates: tuple[int, ...] = (10, 50, 100),
    judged: bool = False,
    measured: Sequence[Measured] = (),
) -> Evaluation:
    """Returns an evaluation.

    :param recalls: of the prefix alone, by kind and dims; each rerank halves what is missed.
    :param judged: with qrels.
    :param measured: with searches through indexes.
    """
    recalls = recalls or {
        "truncate": {64: 0.301, 256: 0.604},
        "rotate": {64: 0.607, 256: 0.883},
        "binary": {64: 0.112, 256: 0.333, 512: 0.353},
        "random": {64: 0.281, 256: 0.544},
    }
    points = [
        Point(
            kind=kind,
            dims=dims,
            recall=summary(recall),
            overlap=summary(recall - 0.001),
            spearman=summary(recall / 2),
            kept=None if kind == "binary" else dims / 512,
            reranked=tuple(
                Reranked(size, summary(1 - (1 - recall) / 4**n), _relevance(recall + 0.01 * n) if judged else None)
                for n, size in enumerate(candidates)
            ),
            footprint=footprint(kind, dims, 1_000_000),
            relevance=_relevance(recall) if judged else None,
        )
        for kind, by_dims in recalls.items()
        for dims, recall in by_dims.items()
    ]
    return Evaluation(
        rows=20_000,
        queries=200,
        table_rows=1_000_000,
        full_dims=512,
        distance="cosine",
        k=10,
        top=100,
        seed=7,
        basis_rows=20_000,
        points=tuple(points),
        footprint=footprint("exact", 512, 1_000_000),
        relevance=_relevance(0.93) if judged else None,
        notes=("A note.",),
        indexes=tuple(measured),
    )


def searches(prefix: str = "embedding_256") -> list[Measured]:
    """Returns searches through an index, of which the first is dominated and the last is the best."""
    return [
        search(prefix, 20, 100, summary(0.80), 2.0),
        search(prefix, 20, 40, summary(0.85), 1.0),
        search(prefix, 100, 100, summary(0.975), 2.5),
        search("embedding_rot256_v1", 50, 50, summary(0.985), 2.2),
        search(prefix, 100, 100, summary(0.99), 1.1, filter={"lang": NASTY}, selectivity=0.1),
    ]


def _relevance(value: float) -> Relevance:
    return Relevance(summary(value * 0.9), summary(value * 0.8))
