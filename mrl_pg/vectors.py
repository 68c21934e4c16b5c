"""Vectors on their way to the database: checked, cut and written the way pgvector reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl_pg.errors import DimensionError, SearchError
from mrl_pg.spec import Distance, Prefix

FloatArray: TypeAlias = npt.NDArray[np.float32]
VectorLike: TypeAlias = Sequence[float] | npt.NDArray[np.floating[Any]]

FP16_MAX = 65_504.0


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
        raise DimensionError(prefix.full_dims, len(array))
    if len(array) < prefix.dims:
        raise DimensionError(prefix.dims, len(array))
    # float64 numbers beyond float32 become infinite here, and are reported as such.
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32)
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise SearchError(
            f"query[{position}] is {array[position]}. Check how the embedding was made: every number must be "
            "finite as float32."
        )
    head = vector[: prefix.dims]
    if prefix.distance == "cosine" and not np.any(head):
        raise SearchError(
            f"the first {prefix.dims} dimensions of the query are zero, and cosine has no direction there. "
            "Check how the embedding was made."
        )
    # mrl.prefix() in SQL draws the same line for l2 and inner_product.
    longest = float(np.linalg.norm(head.astype(np.float64))) if prefix.distance != "cosine" else 0.0
    if prefix.embedding_type == "halfvec":
        longest = max(longest, float(np.abs(vector).max()))
    if longest > FP16_MAX:
        raise SearchError(
            f"the query reaches {longest:,.0f}, beyond {FP16_MAX:,.0f}, the largest halfvec number. "
            "Scale the embeddings down."
        )
    return vector


def prefixes(embeddings: npt.NDArray[np.floating[Any]], dims: int, distance: Distance) -> npt.NDArray[np.float16]:
    """Returns the prefixes (n, dims) as float16 of embeddings (n, full_dims): what mrl.prefix() makes in SQL.

    For cosine they are L2-normalised in float64 before the cast; a zero row stays zero, where SQL has NULL.
    """
    heads = embeddings[..., :dims].astype(np.float64)
    if distance == "cosine":
        norms = np.linalg.norm(heads, axis=-1, keepdims=True)
        heads = np.divide(heads, norms, out=np.zeros_like(heads), where=norms > 0)
    return heads.astype(np.float16)


def to_text(vector: npt.NDArray[np.floating[Any]]) -> str:
    """Returns a vector in pgvector's text form, exact for float32 (nine digits) and so for float16."""
    return "[" + ",".join([f"{x:.9g}" for x in vector.tolist()]) + "]"


def to_binary(vector: npt.NDArray[np.floating[Any]]) -> bytes:
    """Returns a vector in pgvector's binary form: int16 dims, int16 zero, then big-endian float32 or float16."""
    kind = ">f2" if vector.dtype == np.float16 else ">f4"
    return len(vector).to_bytes(2, "big") + b"\x00\x00" + vector.astype(kind).tobytes()
