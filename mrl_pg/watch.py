"""What a replay of queries has found: recall against exact search, and whether that is enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mrl_pg.evaluation import Measured
from mrl_pg.operating import Source
from mrl_pg.queries import Queries


@dataclass(frozen=True, slots=True)
class Before:
    """The last run that can be compared."""

    recall: float
    low: float
    high: float
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class Watched:
    """What a replay has found.

    :ivar source: of the queries; ``rows`` of the table, each searched for without itself, are optimistic ones.
    :ivar k: of recall@k.
    :ivar floor: recall that is wanted.
    :ivar sample: queries to replay; fewer were, where the time was over.
    :ivar seconds: what exact searches and searches took together.
    :ivar found: the figures of the search.
    :ivar before: the last run that can be compared; None where there is none.
    :ivar stored: when the run was stored; None where it was not.
    """

    source: Source
    k: int
    floor: float
    sample: int
    seconds: float
    found: Measured
    before: Before | None = None
    stored: datetime | None = None

    @property
    def enough(self) -> bool:
        """Whether the recall is not under the floor."""
        return self.found.recall.mean >= self.floor

    def figures(self) -> dict[str, Any]:
        """Returns the columns of mrl.recall_history."""
        found = self.found
        return {
            "prefix": found.prefix,
            "source": self.source,
            "k": self.k,
            "candidates": found.candidates,
            "ef_search": found.ef_search,
            "queries": found.recall.queries,
            "recall": found.recall.mean,
            "low": found.recall.low,
            "high": found.recall.high,
            "worst": found.recall.worst,
            "p50_ms": found.p50_ms,
            "floor": self.floor,
        }

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, numbers and strings, as JSON wants it."""
        return self.figures() | {
            "kind": self.found.kind,
            "dims": self.found.dims,
            "p5": self.found.recall.p5,
            "received": self.found.received.mean,
            "p95_ms": self.found.p95_ms,
            "sample": self.sample,
            "seconds": round(self.seconds, 3),
            "enough": self.enough,
            "before": self.before and asdict(self.before),
            "stored": self.stored,
        }


def sample_queries(queries: Queries, sample: int, seed: int) -> Queries:
    """Returns some of the queries in random order, the same ones for the same seed: any first part is a sample too."""
    chosen = np.random.default_rng(seed).permutation(len(queries.ids))[:sample].tolist()
    return Queries(
        tuple(queries.ids[n] for n in chosen),
        None if queries.embeddings is None else queries.embeddings[chosen],
        None if queries.texts is None else tuple(queries.texts[n] for n in chosen),
        source=queries.source,
    )
