"""What of the embeddings a scan compares: all of it, or prefixes of a kind at several lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from mrl_pg.basis import Basis, fit, project
from mrl_pg.errors import SpecError
from mrl_pg.spec import MAX_PREFIX_DIMS, Distance
from mrl_pg.vectors import FP16_MAX, FloatArray, bits, prefixes

Embeddings: TypeAlias = npt.NDArray[np.floating[Any]]
Rows: TypeAlias = npt.NDArray[np.int64]
# random, some dims chosen at random, is the control: what dims are worth whatever their order.
ViewKind = Literal["truncate", "rotate", "binary", "random"]

KINDS: tuple[ViewKind, ...] = get_args(ViewKind)
DIMS = (32, 64, 128, 256, 512, 1_024)
# Fewer rows for each dimension, and a rotation fits the sample rather than the table.
_GOOD_ROWS_PER_DIM = 20


@dataclass(frozen=True, slots=True)
class View:
    """Prefixes of one kind at several lengths, which all start with the same numbers.

    :ivar kind: of the prefix; ``exact`` for the whole embedding as it is.
    :ivar dims: lengths, ascending.
    :ivar basis: directions (at least the last of ``dims``, full_dims) of ``rotate``.
    :ivar columns: which numbers of the embedding, in which order; for ``random``.
    """

    kind: ViewKind | Literal["exact"]
    dims: tuple[int, ...]
    basis: FloatArray | None = None
    columns: npt.NDArray[np.intp] | None = None


def view_dims(kinds: Sequence[str], dims: Sequence[int] | None, full_dims: int) -> dict[ViewKind, tuple[int, ...]]:
    """Returns the lengths to look at for each kind, ascending.

    :param dims: lengths up to full_dims, which is one for binary only; default those of ``DIMS`` below full_dims, and
        for binary full_dims besides.
    :raises SpecError: for an unknown kind, a length that no prefix can have, or nothing to look at.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise SpecError(f"unknown kind {unknown[0]!r}. Use {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    chosen = [*DIMS, full_dims] if dims is None else dims
    wrong = [length for length in chosen if length < 1 or (dims is not None and length > full_dims)]
    if wrong:
        raise SpecError(
            f"dims must be between 1 and full_dims = {full_dims}, not {wrong[0]}. "
            "A prefix is shorter than its embedding."
        )
    found: dict[ViewKind, tuple[int, ...]] = {}
    for kind in KINDS:
        # Below full_dims and within what HNSW can index; as bits that is any length.
        longest = full_dims if kind == "binary" else min(full_dims - 1, MAX_PREFIX_DIMS)
        lengths = tuple(sorted({length for length in chosen if length <= longest}))
        if kind in kinds and lengths:
            found[kind] = lengths
    if not found:
        raise SpecError(
            f"no prefix to look at: kinds are {', '.join(kinds) or 'none'}, full_dims is {full_dims} and dims are "
            f"{', '.join(map(str, chosen)) or 'none'}. Give dims below full_dims."
        )
    return found


def make_views(
    corpus: Embeddings,
    itself: Rows,
    dims: Mapping[ViewKind, tuple[int, ...]],
    distance: Distance,
    *,
    basis_rows: int,
    seed: int,
) -> tuple[list[View], int, list[str]]:
    """Returns a view for each kind, how many rows the rotation was fitted to (0 without one), and what to know of it.

    :param itself: rows that are queries, -1 for none.
    :param dims: from :func:`view_dims`.
    :param basis_rows: at most how many rows to fit the rotation to.
    """
    views: list[View] = []
    fitted, notes = 0, []
    for kind, lengths in dims.items():
        if kind == "rotate":
            basis, note = _fit_rotation(corpus, itself, lengths, distance, basis_rows, seed)
            notes += [note] if note else []
            if basis:
                fitted = basis.sample
                views.append(View(kind, tuple(n for n in lengths if n <= len(basis.rows)), basis=basis.rows))
        elif kind == "random":
            columns = np.random.default_rng(seed).permutation(corpus.shape[1])[: lengths[-1]]
            views.append(View(kind, lengths, columns=columns))
        else:
            views.append(View(kind, lengths))
    return views, fitted, notes


def turned(embeddings: FloatArray, view: View, distance: Distance) -> FloatArray:
    """Returns the numbers (n, at least the longest dims) whose first ones make the prefixes of a view."""
    if view.basis is not None:
        return project(embeddings, view.basis, distance)
    return embeddings if view.columns is None else embeddings[:, view.columns]


def comparable(
    numbers: FloatArray, dims: int, view: View, distance: Distance, centre: FloatArray | None = None
) -> tuple[FloatArray, npt.NDArray[np.bool_], FloatArray]:
    """Returns vectors (n, dims), which of them (n,) can be found, and a bias (n,).

    The bias of a row less its product with a query grows with their distance, whichever that is. Sign bits become
    1 and -1, whose product falls by two with each bit that differs. Prefixes are rounded to fp16, as they are stored.

    :param numbers: from :func:`turned`.
    :param centre: what to take off (full_dims,) before the exact comparison by l2.
    """
    if view.kind == "binary":
        vectors = np.where(bits(numbers, dims), np.float32(1), np.float32(-1))
        return vectors, np.asarray(numbers[:, :dims].any(axis=1)), np.zeros(len(numbers), dtype=np.float32)
    if view.kind == "exact":
        vectors = numbers - (0 if centre is None else centre)
    else:
        vectors = prefixes(numbers, dims, distance).astype(np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    none = np.zeros(len(vectors), dtype=np.float32)
    if distance == "cosine":
        usable = np.asarray(squares > 0)
        vectors /= np.sqrt(np.where(usable, squares, 1))[:, None]
        return vectors, usable, none
    # Where mrl.prefix() draws the line. What is beyond fp16 is infinite, and infinity times zero is no number.
    usable = np.asarray(np.isfinite(squares) if view.kind == "exact" else squares <= FP16_MAX**2)
    vectors[~usable], squares[~usable] = 0, 0
    return vectors, usable, squares / 2 if distance == "l2" else none


def squared_norms(
    embeddings: FloatArray, numbers: FloatArray, view: View, distance: Distance
) -> tuple[npt.NDArray[np.float64], float]:
    """Returns the squared norm of prefixes, a sum for each length, and that of the embeddings.

    For cosine those of embeddings of unit length.

    :param numbers: from :func:`turned`.
    """
    pieces = np.add.reduceat(numbers[:, : view.dims[-1]] ** 2, [0, *view.dims[:-1]], axis=1, dtype=np.float64)
    of_prefixes = np.cumsum(pieces, axis=1)
    squares = np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64)
    if distance != "cosine":
        return of_prefixes.sum(axis=0), float(squares.sum())
    # The projection has divided by the norm already.
    scale = np.ones_like(squares) if view.basis is not None else squares
    weights = np.divide(1, scale, out=np.zeros_like(scale), where=squares > 0)
    return weights @ of_prefixes, float((squares > 0).sum())


def _fit_rotation(
    corpus: Embeddings, itself: Rows, dims: tuple[int, ...], distance: Distance, rows: int, seed: int
) -> tuple[Basis | None, str | None]:
    """Returns a basis for all lengths there are rows enough for, and a note where they are few.

    The first n of its directions are the basis of n dims. It has not seen the queries: fitted to them too, it would
    find them better than those to come.
    """
    others = np.setdiff1d(np.arange(len(corpus)), itself)
    chosen = np.sort(np.random.default_rng(seed).permutation(others)[:rows])
    sample = corpus[chosen].astype(np.float32, copy=False)
    sample = sample[sample.any(axis=1)]
    enough = [length for length in dims if length <= len(sample)]
    few = [length for length in dims if length * _GOOD_ROWS_PER_DIM > len(sample)]
    note = None
    if few:
        left_out = "" if len(enough) == len(dims) else f"; it is left out from {dims[len(enough)]} dims on"
        note = (
            f"The rotation was fitted to {len(sample):,} rows that are no queries, from {few[0]} dims on fewer than "
            f"{_GOOD_ROWS_PER_DIM} for each dimension{left_out}. With more rows it finds more: take a larger sample."
        )
    return (fit(sample, enough[-1], distance, seed=seed) if enough else None), note
