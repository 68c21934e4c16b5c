"""The exact answers, and how much of them was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mrl_pg.metrics import TOLERANCE, PerQuery
from mrl_pg.vectors import FloatArray

# Kept of each query, so that rows as near as the k-th nearest count as well, whichever the exact search names.
_KEPT = 100


class Nearest(NamedTuple):
    """The rows nearest to each query, nearest first: their numbers and cosine similarities, both (q, at most 100)."""

    rows: npt.NDArray[np.int64]
    similarities: FloatArray

    def part(self, first: int, end: int) -> Nearest:
        """Returns those of some queries, from the first up to the end."""
        return Nearest(self.rows[first:end], self.similarities[first:end])


def nearest(queries: FloatArray, block: FloatArray, first: int, before: Nearest | None = None) -> Nearest:
    """Returns the rows nearest to each query among a block of rows and those found before.

    :param first: number of the block's first row.
    """
    rows = first + np.arange(len(block), dtype=np.int64)
    similarities = _unit(queries) @ _unit(block).T
    found = _first(np.broadcast_to(rows, similarities.shape), similarities)
    if before is None:
        return found
    return _first(*(np.concatenate([old, new], axis=1) for old, new in zip(before, found, strict=True)))


def recalls(truth: Nearest, found: Sequence[Sequence[int]], k: int) -> PerQuery:
    """Returns recall@k (q,): the share of the exact top k that was found, judged by distance."""
    accepted = truth.similarities >= truth.similarities[:, k - 1 : k] - TOLERANCE
    hits = [
        len(set(keys).intersection(rows[good].tolist()))
        for keys, rows, good in zip(found, truth.rows, accepted, strict=True)
    ]
    return np.asarray(np.minimum(hits, k) / k, dtype=np.float64)


def _first(rows: npt.NDArray[np.int64], similarities: FloatArray) -> Nearest:
    n = min(_KEPT, rows.shape[1])
    top = np.argpartition(-similarities, n - 1, axis=1)[:, :n]
    order = np.argsort(-np.take_along_axis(similarities, top, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, axis=1)
    return Nearest(np.take_along_axis(rows, top, axis=1), np.take_along_axis(similarities, top, axis=1))


def _unit(vectors: FloatArray) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
