"""Vectors on their way to the database: checked, cut and written the way pgvector reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.basis import project
from mrl_pg.errors import DimensionError, SearchError
from mrl_pg.spec import Distance, Prefix

FloatArray: TypeAlias = npt.NDArray[np.float32]
# Prefixes: float16, or bool for sign bits.
PrefixArray: TypeAlias = npt.NDArray[np.float16] | npt.NDArray[np.bool_]
# The bases of several prefixes, None for those that are no rotations.
Bases: TypeAlias = Sequence[FloatArray | None]
VectorLike: TypeAlias = Sequence[float] | npt.NDArray[np.floating[Any]]

FP16_MAX = 65_504.0
# What PyTorch adds to the variance, and the lines that mrl.layer_norm() in SQL draws: deviations from the mean that are
# smaller may be rounding, and lengths beyond come too near the ends of float32.
LAYER_NORM_EPS = 1e-5
MIN_DEVIATION = 1e-6
MIN_LENGTH, MAX_LENGTH = 1e-30, 1e30


def query_vectors(
    query: VectorLike, prefixes: Sequence[Prefix], bases: Bases, prefix_query: VectorLike | None = None
) -> tuple[FloatArray, list[PrefixArray]]:
    """Returns (query, its prefix for each that a basis is given for): what a search sends.

    :param bases: of the prefixes; none for an exact search.
    :param prefix_query: prefix of the query for the first, where it is there already.
    :raises DimensionError, SearchError: as :func:`query_vector`; for a prefix_query that is not of this prefix.
    """
    vector = query_vector(query, prefixes[0])
    checked = [vector, *(query_vector(vector, prefix) for prefix in prefixes[1:])]
    # An exact search has no bases; what has a basis for each makes all prefixes.
    shorts = [prefixes_of(*one) for one in zip(checked, prefixes, bases, strict=False)]
    if prefix_query is not None and shorts:
        shorts[0] = _given_prefix(prefix_query, prefixes[0])
    return vector, shorts


def _given_prefix(prefix_query: VectorLike, prefix: Prefix) -> PrefixArray:
    if prefix.kind != "truncate" or prefix.layer_norm:
        raise SearchError(
            f"prefix_query is for prefixes that are the first dimensions; {prefix.prefix} is of kind {prefix.kind}"
            f"{' behind a layer norm' if prefix.layer_norm else ''}. Leave it out: the prefix is made from the query."
        )
    if np.shape(prefix_query) != (prefix.dims,):
        raise DimensionError(prefix.dims, np.size(prefix_query), "prefix_query")
    return prefixes_of(query_vector(prefix_query, replace(prefix, full_dims=prefix.dims)), prefix)


def query_vector(query: VectorLike, prefix: Prefix) -> FloatArray:
    """Returns a query as float32 (full_dims,).

    :raises DimensionError: where its length is not that of the embedding.
    :raises SearchError: where it is not a vector of finite numbers, or has no prefix (zero, beyond fp16).
    """
    if hasattr(query, "to_numpy"):  # pgvector's own classes, as connections with register_vector return them
        query = query.to_numpy()
    try:
        array = np.asarray(query, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SearchError(
            f"query is not a vector of numbers ({error}). Pass a list, tuple or array of floats."
        ) from error
    if array.ndim != 1:
        raise SearchError(
            f"query has shape {array.shape}, expected one dimension. Pass one vector, or use search_many."
        )
    if prefix.full_dims is not None and len(array) != prefix.full_dims:
        raise DimensionError(prefix.full_dims, len(array), model=prefix.model)
    if len(array) < prefix.dims:
        raise DimensionError(prefix.dims, len(array))
    # A rotation mixes all dimensions, and makes no vector longer.
    used = len(array) if prefix.kind == "rotate" else prefix.dims
    # float64 numbers beyond float32 become infinite here, and are reported as such.
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32)
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise SearchError(
            f"query[{position}] is {array[position]}. Check how the embedding was made: every number must be "
            "finite as float32."
        )
    head, whose = vector[:used], "the query"
    if prefix.layer_norm:
        head, whose = layer_norm(vector), "the layer norm of the query"
        if not np.any(head):
            raise SearchError(
                f"the query has no layer norm: its {len(vector)} dimensions are all the same, or out of range. "
                "Check how the embedding was made."
            )
        head = head[:used]
    directed = prefix.kind == "binary" or prefix.distance == "cosine"
    if directed and not np.any(head):
        what = "a binary prefix" if prefix.kind == "binary" else "cosine"
        raise SearchError(
            f"the first {used} dimensions of {whose} are zero, and {what} has no direction there. "
            "Check how the embedding was made."
        )
    # mrl.prefix() in SQL draws the same line for l2 and inner_product.
    longest = 0.0 if directed else float(np.linalg.norm(head.astype(np.float64)))
    if prefix.embedding_type == "halfvec":
        longest = max(longest, float(np.abs(vector).max()))
    if longest > FP16_MAX:
        raise SearchError(
            f"the query reaches {longest:,.0f}, beyond {FP16_MAX:,.0f}, the largest halfvec number. "
            "Scale the embeddings down."
        )
    return vector


def layer_norm(embeddings: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Returns the layer norms (n, dims) of embeddings, without weights: what mrl.layer_norm() makes in SQL.

    The deviations from their mean over sqrt(variance + 1e-5), computed in float64. Where they are none but for
    rounding (a millionth of the length), or the length is below 1e-30 or above 1e30, the row is zero; SQL has NULL.
    """
    rows = embeddings.astype(np.float64)
    deviations = rows - rows.mean(axis=-1, keepdims=True)
    lengths, spreads = (np.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in (rows, deviations))
    there = (lengths >= MIN_LENGTH) & (lengths <= MAX_LENGTH) & (spreads > MIN_DEVIATION * lengths)
    scales = np.sqrt(np.square(deviations).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)
    return np.where(there, deviations / scales, 0).astype(np.float32)


def prefixes(embeddings: npt.NDArray[np.floating[Any]], dims: int, distance: Distance) -> npt.NDArray[np.float16]:
    """Returns the prefixes (n, dims) as float16 of embeddings (n, full_dims): what mrl.prefix() makes in SQL.

    For cosine they are L2-normalised in float64 before the cast; a zero row stays zero, where SQL has NULL.
    """
    heads = embeddings[..., :dims].astype(np.float64)
    if distance == "cosine":
        norms = np.linalg.norm(heads, axis=-1, keepdims=True)
        heads = np.divide(heads, norms, out=np.zeros_like(heads), where=norms > 0)
    # What is beyond fp16 becomes infinite, and SQL makes no prefix of it.
    with np.errstate(over="ignore"):
        return heads.astype(np.float16)


def bits(embeddings: npt.NDArray[np.floating[Any]], dims: int) -> npt.NDArray[np.bool_]:
    """Returns the sign bits (n, dims) of embeddings (n, full_dims): what mrl.bits() makes in SQL.

    A zero row has no bit set, where SQL has NULL.
    """
    return embeddings[..., :dims] > 0


def prefixes_of(
    embeddings: npt.NDArray[np.floating[Any]], prefix: Prefix, basis: FloatArray | None = None
) -> PrefixArray:
    """Returns the prefixes (n, dims) of embeddings (n, full_dims), as the kind of the prefix has them.

    :param basis: rows of the basis of a rotation.
    :raises DimensionError: where the embeddings are not as long as the basis.
    """
    if prefix.layer_norm:
        embeddings = layer_norm(embeddings)
    if prefix.kind == "binary":
        return bits(embeddings, prefix.dims)
    if basis is not None:
        if embeddings.shape[-1] != basis.shape[1]:
            raise DimensionError(basis.shape[1], embeddings.shape[-1])
        return prefixes(project(embeddings, basis, prefix.distance), prefix.dims, prefix.distance)
    return prefixes(embeddings, prefix.dims, prefix.distance)


def storable(prefixes: PrefixArray, distance: Distance) -> npt.NDArray[np.bool_]:
    """Returns which prefixes (n, dims) can be stored; as in mrl.prefix(), none that is zero (cosine) or too long."""
    norms = np.linalg.norm(prefixes.astype(np.float64), axis=-1)
    return np.asarray((norms <= FP16_MAX) & ((norms > 0) | (distance != "cosine")))


class Packed(bytes):
    """A vector, or an array of them, in the binary form of its type: drivers pass it on as it is."""


def to_text(vector: npt.NDArray[np.floating[Any]] | npt.NDArray[np.bool_]) -> str:
    """Returns a vector in pgvector's text form, exact for float32 (nine digits) and so for float16; or a bit string."""
    if vector.dtype == np.bool_:
        return "".join(["01"[bit] for bit in vector.tolist()])
    return "[" + ",".join([f"{x:.9g}" for x in vector.tolist()]) + "]"


def to_binary(vector: npt.NDArray[np.floating[Any]] | npt.NDArray[np.bool_]) -> bytes:
    """Returns a vector in pgvector's binary form: int16 dims, int16 zero, then big-endian float32 or float16.

    A bit string is in PostgreSQL's: int32 length, then the bits, the first the highest of its byte.
    """
    if vector.dtype == np.bool_:
        return len(vector).to_bytes(4, "big") + np.packbits(vector.astype(np.bool_)).tobytes()
    kind = ">f2" if vector.dtype == np.float16 else ">f4"
    return len(vector).to_bytes(2, "big") + b"\x00\x00" + vector.astype(kind).tobytes()


def to_binary_array(vectors: npt.NDArray[np.float16], halfvec: int) -> Packed:
    """Returns vectors (n, dims) as a halfvec[] in PostgreSQL's binary form.

    :param halfvec: oid of the type halfvec.
    """
    n, dims = vectors.shape
    layout = [("bytes", ">i4"), ("dims", ">i2"), ("unused", ">i2"), ("vector", ">f2", dims)]
    elements = np.zeros(n, dtype=layout)
    elements["bytes"], elements["dims"], elements["vector"] = 4 + 2 * dims, dims, vectors
    # One dimension, no NULL, the type of the elements, how many they are, the first number.
    head = np.array([1, 0, halfvec, n, 1] if n else [0, 0, halfvec], dtype=">i4")
    return Packed(head.tobytes() + elements.tobytes())
