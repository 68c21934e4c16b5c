"""Learnt bases: the directions in which embeddings differ most, fitted to a sample, and the projection onto them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import SearchError, SpecError
from mrl_pg.spec import Distance

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Rows: TypeAlias = npt.NDArray[np.float32]

# Up to here all eigenvectors are computed, which takes a second or two; beyond, those wanted by random projections.
MAX_EIGH_DIMS = 2_048
_OVERSAMPLING, _POWER_ITERATIONS = 32, 6

# A basis of 256 × 1536 takes 1.5 MB.
_MAX_CACHED = 32
_cache: OrderedDict[str, Rows] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Basis:
    """A basis as it was fitted.

    :ivar rows: orthonormal directions (dims, full_dims), the one that keeps most first.
    :ivar sample: embeddings it was fitted to, zero ones left out.
    :ivar kept: share of their squared norm that the projection keeps.
    """

    rows: Rows
    sample: int
    kept: float


def fit(sample: Floats, dims: int, distance: Distance = "cosine", *, seed: int = 0) -> Basis:
    """Returns the basis that keeps most of the squared norm of a sample: uncentred principal components.

    Uncentred, because distances from a query are to be kept and not those from a mean. For cosine the embeddings are
    L2-normalised first. The same sample and seed give the same basis.

    :param sample: embeddings (n, full_dims), at least dims of them; zero ones are left out.
    :raises SpecError: for a sample that is too small or not finite, or dims that are not below full_dims.
    """
    found = np.asarray(sample, dtype=np.float64)
    if found.ndim != 2:
        raise SpecError(f"the sample has shape {found.shape}, expected two dimensions. Pass one embedding a row.")
    if not 1 <= dims < found.shape[1]:
        raise SpecError(
            f"dims must be between 1 and {found.shape[1] - 1} to rotate {found.shape[1]} dimensions, not {dims}. "
            "A prefix is shorter than its embedding."
        )
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise SpecError(
            f"{len(bad):,} of {len(found):,} embeddings of the sample are not finite, the first is number {bad[0]}. "
            "Check how they were made."
        )
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    found, norms = found[norms[:, 0] > 0], norms[norms[:, 0] > 0]
    if len(found) < dims:
        raise SpecError(
            f"a sample of {len(found):,} embeddings that are not zero does not determine {dims} dimensions. "
            f"Give at least {dims:,}, better {20 * dims:,}, or fewer dims."
        )
    if distance == "cosine":
        found = found / norms
    rows = _eigenvectors(found, dims) if found.shape[1] <= MAX_EIGH_DIMS else _random_svd(found, dims, seed)
    # An eigenvector may as well point the other way: its largest coordinate is made positive.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    rows = rows * np.where(largest < 0, -1.0, 1.0)
    kept = float(((found @ rows.T) ** 2).sum() / (found**2).sum())
    return Basis(rows.astype(np.float32), len(found), min(kept, 1.0))


def project(embeddings: Floats, rows: Rows, distance: Distance) -> npt.NDArray[np.float32]:
    """Returns the coordinates (n, dims) of embeddings (n, full_dims) in a basis; for cosine, of their directions."""
    found = embeddings
    if distance == "cosine":
        # In float64, where the square of no float32 overflows.
        norms = np.linalg.norm(found.astype(np.float64), axis=-1, keepdims=True)
        found = np.divide(found, norms, out=np.zeros(found.shape), where=norms > 0)
    return np.asarray(found.astype(np.float32) @ rows.T, dtype=np.float32)


def unpack(packed: Sequence[bytes], full_dims: int, embedding_type: str) -> Rows:
    """Returns float32 (n, full_dims) of vectors as mrl.to_bytes() makes them."""
    number = ">f2" if embedding_type == "halfvec" else ">f4"
    layout = np.dtype([("head", ">i2", 2), ("vector", number, full_dims)])
    return np.frombuffer(b"".join(packed), dtype=layout)["vector"].astype(np.float32)


def cached(basis: str) -> Rows | None:
    """Returns the rows of a basis that this process has met.

    A basis never changes and its id is unique everywhere, so neither connections nor databases are told apart.
    """
    with _lock:
        if basis in _cache:
            _cache.move_to_end(basis)
        return _cache.get(basis)


def found_basis(basis: str, prefix: str, found: Sequence[Sequence[Any]]) -> Rows:
    """Returns the rows of a basis from those of ``statements.BASIS``; :func:`cached` does so from now on.

    :raises SearchError: where the database does not have it.
    """
    if not found:
        raise SearchError(
            f"basis {basis} of prefix {prefix} is not in mrl.bases. "
            "Restore mrl.bases with the table, or fit a new one: mrl-pg rotate TABLE --dims ..."
        )
    full_dims, packed = found[0]
    rows = unpack([packed], full_dims, "vector")
    rows.setflags(write=False)
    with _lock:
        _cache[basis] = rows
        while len(_cache) > _MAX_CACHED:
            _cache.popitem(last=False)
    return rows


def _eigenvectors(sample: npt.NDArray[np.float64], dims: int) -> npt.NDArray[np.float64]:
    _, vectors = np.linalg.eigh(sample.T @ sample)
    return np.asarray(vectors[:, ::-1][:, :dims].T)


def _random_svd(sample: npt.NDArray[np.float64], dims: int, seed: int) -> npt.NDArray[np.float64]:
    """Algorithm 4.4 and 5.1 of Halko, Martinsson and Tropp (2011): subspace iteration, then a small SVD."""
    width = min(dims + _OVERSAMPLING, *sample.shape)
    basis = np.linalg.qr(sample @ np.random.default_rng(seed).standard_normal((sample.shape[1], width)))[0]
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(sample @ np.linalg.qr(sample.T @ basis)[0])[0]
    return np.asarray(np.linalg.svd(basis.T @ sample, full_matrices=False)[2][:dims])
