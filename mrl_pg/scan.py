"""An exact scan of many embeddings for many queries: in blocks, by the whole embedding or by prefixes of it.

Prefixes are compared as the database has them, rounded to fp16 or to sign bits; every row is compared, as without an
index.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import SearchError
from mrl_pg.spec import Distance
from mrl_pg.vectors import FloatArray
from mrl_pg.views import Embeddings, Rows, View, comparable, squared_norms, turned

# Distances computed at once, and numbers fetched at once: some 50 MB either way.
_DISTANCES_AT_ONCE = 2_000_000
_NUMBERS_AT_ONCE = 8_000_000
_MIN_BLOCK, _MAX_BLOCK = 256, 4_096

# A float32 leaves the last 29 bits of a float64 free: the row goes there, so that sorting the one sorts the other. It
# takes 28 bits at most, which rounding to float32 takes off again.
_ROW_BITS = (1 << 28) - 1
Keys: TypeAlias = npt.NDArray[np.float64]
# Farther than anything: rows that cannot be found.
_NOWHERE = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan by one prefix found.

    :ivar rows: the nearest rows (q, n), nearest first, -1 where there are no more.
    :ivar watched: how far (q, w) the watched rows are: grows with the distance, is not the distance; infinite where
        a row cannot be found.
    :ivar kept: share of the squared norm of the embeddings that the prefix holds; nan for sign bits.
    """

    rows: Rows
    watched: npt.NDArray[np.float64]
    kept: float


def scan(
    corpus: Embeddings,
    queries: FloatArray,
    view: View,
    distance: Distance,
    *,
    depth: int,
    itself: Rows,
    watched: Rows,
) -> Generator[int, None, list[Found]]:
    """Returns what was found for each length of the view; yields how many rows were compared since the last time.

    Rows without a prefix (zero for cosine, beyond fp16) are not found, as in the database; a query without one finds
    nothing. Equally near rows come in the order of their numbers, up or down, the same on every machine.

    :param corpus: embeddings (n, full_dims) of any float type, at most 2^28 rows; may be a memory map.
    :param queries: embeddings (q, full_dims).
    :param depth: how many rows to find for each query.
    :param itself: row (q,) which each query is, and which it shall not find; -1 for none.
    :param watched: rows (q, w) to look at besides; -1 for none.
    :raises SearchError: for embeddings that are not finite.
    """
    n, q = len(corpus), len(queries)
    depth = min(depth, n)
    block = max(_MIN_BLOCK, min(_MAX_BLOCK, _DISTANCES_AT_ONCE // q))
    # Far from the origin the squares of l2 would drown the differences in float32; in fp16 they are drowned already.
    centre = queries.mean(axis=0) if distance == "l2" and view.kind == "exact" else None
    numbers = turned(queries, view, distance)
    prepared = [comparable(numbers, dims, view, distance, centre) for dims in view.dims]
    nearest = [np.full((q, depth), float(_NOWHERE)) for _ in view.dims]
    seen = [np.full(watched.shape, np.inf) for _ in view.dims]
    kept, whole = np.zeros(len(view.dims)), 0.0
    for start in range(0, n, block):
        with np.errstate(over="ignore"):  # reported below
            rows = corpus[start : start + block].astype(np.float32, copy=False)
        stop = start + len(rows)
        _check_finite(rows, start)
        numbers = turned(rows, view, distance)
        sums, total = squared_norms(rows, numbers, view, distance)
        kept, whole = kept + sums, whole + total
        own = np.flatnonzero((itself >= start) & (itself < stop))
        looked_at = np.nonzero((watched >= start) & (watched < stop))
        for i, dims in enumerate(view.dims):
            vectors, usable, bias = comparable(numbers, dims, view, distance, centre)
            asked, can_ask, _ = prepared[i]
            far = asked @ -vectors.T
            far += bias
            far[:, ~usable] = _NOWHERE
            far[~can_ask] = _NOWHERE
            far[own, itself[own] - start] = _NOWHERE
            seen[i][looked_at] = far[looked_at[0], watched[looked_at] - start]
            nearest[i] = _merged(nearest[i], far, start)
        yield len(rows)
    shares = kept / whole if whole and view.kind != "binary" else np.full(len(kept), np.nan)
    return [
        Found(_rows_of(keys), np.where(values < _NOWHERE, values, np.inf), float(share))
        for keys, values, share in zip(nearest, seen, shares, strict=True)
    ]


def distances(corpus: Embeddings, queries: FloatArray, rows: Rows, distance: Distance) -> FloatArray:
    """Returns the distances (q, n) of queries (q, full_dims) from rows (q, n) of the corpus, by the whole embedding.

    Infinite for row -1 and, for cosine, a zero row. As pgvector has them: inner products are negated.
    """
    found = np.empty(rows.shape, dtype=np.float32)
    step = max(1, _NUMBERS_AT_ONCE // max(1, rows.shape[1] * corpus.shape[1]))
    for start in range(0, len(rows), step):
        these = slice(start, start + step)
        taken = corpus[rows[these]].astype(np.float32, copy=False)
        asked = queries[these, None, :]
        if distance == "l2":
            taken = taken - asked
            found[these] = np.sqrt(np.einsum("qnd,qnd->qn", taken, taken))
            continue
        dots = np.einsum("qnd,qd->qn", taken, asked[:, 0])
        if distance == "inner_product":
            found[these] = -dots
            continue
        norms = np.sqrt(np.einsum("qnd,qnd->qn", taken, taken)) * np.linalg.norm(asked, axis=2)
        found[these] = 1 - np.divide(dots, norms, out=np.full(dots.shape, -np.inf, dtype=np.float32), where=norms > 0)
    found[rows < 0] = np.inf
    return found


def _merged(nearest: Keys, far: FloatArray, start: int) -> Keys:
    """Returns the keys (q, depth) of the rows nearest so far, after a block.

    :param nearest: those before it; the last of each query is the farthest.
    :param far: how far (q, n) the rows of the block are.
    :param start: number of its first row.
    """
    depth = nearest.shape[1]
    # After a few blocks this leaves a few rows for each query, and little to sort.
    worst = nearest[:, -1:].astype(np.float32)
    query, row = np.nonzero(far <= worst)
    counts = np.bincount(query, minlength=len(nearest))
    column = depth + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = np.full((len(nearest), depth + counts.max()), float(_NOWHERE))
    keys[:, :depth] = nearest
    keys[query, column] = (far[query, row].astype(np.float64).view(np.int64) | (start + row)).view(np.float64)
    keys.partition(depth - 1, axis=1)
    return np.array(keys[:, :depth])


def _check_finite(rows: FloatArray, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise SearchError(
            f"{len(bad):,} of embeddings {start:,} to {start + len(rows) - 1:,} are not finite, the first is number "
            f"{start + bad[0]:,}. Check how they were made."
        )


def _rows_of(keys: Keys) -> Rows:
    """Returns the rows (q, n) of keys (q, n), nearest first, -1 for none."""
    keys = np.sort(keys, axis=1)
    rows = keys.view(np.int64) & _ROW_BITS
    return np.where(keys < _NOWHERE, rows, -1)
