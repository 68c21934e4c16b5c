"""The vectors of a benchmark: read from a file, or simulated; handed out in blocks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np

from mrl_pg.errors import DimensionError, MrlError
from mrl_pg.vectors import FloatArray

BLOCK_ROWS = 20_000
_UNREADABLE = (KeyError, ValueError, EOFError, BadZipFile, zlib.error)
MIN_QUERIES, MAX_QUERIES = 20, 500
DEFAULT_ROWS, DEFAULT_DIMS = 100_000, 1536

SIMULATED = "simulated, not real: clusters with a falling spectrum"
# Squared norm of a simulated row: the mean of all rows, its topic, its centre within the topic, itself. With these and
# the spectra below, prefixes and rotations of 20,000 × 1536 rows find what they find of text-embedding-3-small, mostly
# within .05: of the top 10 among 10, 20 and 50 candidates .60, .77, .92 by the first 256 dims (real: .64, .84, .97) and
# .80, .97, .998 by a rotation to 128 (.75, .95, .994).
_MEAN, _TOPIC, _CENTRE, _OWN = 0.30, 0.15, 0.20, 0.35
_TOPICS, _CENTRES_A_TOPIC = 200, 25


@dataclass(frozen=True, slots=True)
class Data:
    """Vectors to search and to search for.

    :ivar label: what they are, shown wherever a figure is.
    :ivar queries: (q, dims), at most 500.
    :ivar blocks: starts an iteration over the corpus in its order, in blocks (at most 20,000, dims).
    """

    label: str
    rows: int
    dims: int
    queries: FloatArray
    blocks: Callable[[], Iterator[FloatArray]]


def read(path: Path, rows: int | None = None, *, label: str | None = None) -> Data:
    """Returns the vectors of a .npz file with the arrays corpus (n, dims) and queries (q, dims).

    :param rows: take so many of the first; all if None.
    :param label: what they are; the name of the file if None.
    :raises MrlError: where the file holds something else, or fewer rows.
    """
    try:
        with ZipFile(path) as archive:
            corpus, queries = (_header(archive, name) for name in ("corpus", "queries"))
    except _UNREADABLE as error:
        raise _refused(path, error) from error
    for array in (corpus, queries):
        if len(array.shape) != 2 or 0 in array.shape or array.dtype.kind != "f":
            raise MrlError(
                f"{array.name} in {path} is {array.dtype} of shape {array.shape}, not vectors. "
                f"Store floats of shape (rows, dims) as {array.name}."
            )
    (stored, dims), (asked, query_dims) = corpus.shape, queries.shape
    if dims != query_dims:
        raise DimensionError(dims, query_dims)
    if asked < MIN_QUERIES:
        raise MrlError(f"{path} has {asked} queries, which tell little. Store at least {MIN_QUERIES}.")
    if rows is not None and rows > stored:
        raise MrlError(f"{path} has {stored:,} rows, not {rows:,}. Pass --rows {stored} or fewer.")
    taken = stored if rows is None else rows

    def blocks() -> Iterator[FloatArray]:
        return _read(path, corpus, taken)

    return Data(label or path.name, taken, dims, next(_read(path, queries, min(asked, MAX_QUERIES))), blocks)


def simulate(rows: int = DEFAULT_ROWS, dims: int = DEFAULT_DIMS, *, seed: int = 0) -> Data:
    """Returns simulated unit vectors, the same for the same arguments; a block at a time is made and forgotten.

    Whole blocks are the same with more rows.
    """
    centres, spread = _shape(dims, seed)

    def draw(n: int, part: int) -> FloatArray:
        rng = np.random.default_rng([seed, 1, part])
        topics = rng.integers(_TOPICS, size=n)
        one, other = (centres[topics, rng.integers(_CENTRES_A_TOPIC, size=n)] for _ in range(2))
        between = 0.5 * rng.random((n, 1), dtype=np.float32)
        own = rng.standard_normal((n, dims), dtype=np.float32) @ spread
        vectors: FloatArray = _unit(one * (1 - between) + other * between + own)
        return vectors

    def blocks() -> Iterator[FloatArray]:
        for part, first in enumerate(range(0, rows, BLOCK_ROWS), 1):
            yield draw(min(BLOCK_ROWS, rows - first), part)

    return Data(SIMULATED, rows, dims, draw(MAX_QUERIES, 0), blocks)


def _shape(dims: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """The centres (topics, centres of each, dims), and what turns noise (n, dims) into what rows have of their own."""
    rng = np.random.default_rng([seed, 0])
    rotation = np.linalg.qr(rng.standard_normal((dims, dims)))[0]
    # The first coordinates hold somewhat more, as a Matryoshka model's do: 26 % in the first sixth.
    rotation *= np.exp(-0.6 * np.arange(dims) / dims)
    rotation *= np.sqrt(dims) / np.linalg.norm(rotation)
    at = np.arange(dims) * 1536 / dims
    steep = (1 + at / 8) ** -1.15 * np.exp(-at / 400)
    flat = (1 + at / 60) ** -1.15 * np.exp(-at / 800)
    between, within = (np.sqrt(s / s.sum())[:, None] * rotation for s in (steep, flat))
    mean = _unit(rng.standard_normal((1, dims)) @ between)
    topics = rng.standard_normal((_TOPICS, 1, dims)) @ between
    centres = rng.standard_normal((_TOPICS, _CENTRES_A_TOPIC, dims)) @ between
    centres = np.sqrt(_MEAN) * mean + np.sqrt(_TOPIC) * topics + np.sqrt(_CENTRE) * centres
    return centres.astype(np.float32), (np.sqrt(_OWN) * within).astype(np.float32)


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class _Header(NamedTuple):
    """What an array in a .npz file is."""

    name: str
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def _refused(path: Path, error: Exception) -> MrlError:
    return MrlError(
        f"{path} does not hold the arrays corpus and queries ({error}). "
        "Write it with: numpy.savez(path, corpus=corpus, queries=queries)"
    )


def _header(archive: ZipFile, name: str) -> _Header:
    with archive.open(f"{name}.npy") as stream:
        return _Header(name, *_described(stream))


def _described(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What the header says, up to whose end this reads: the shape, whether columns come first, the type."""
    first = np.lib.format.read_magic(stream) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    described: tuple[tuple[int, ...], bool, np.dtype[Any]] = read_header(stream)
    return described


def _read(path: Path, array: _Header, rows: int) -> Iterator[FloatArray]:
    """The first rows of an array in a .npz file, a block at a time: a million of 1536 dims are 6 GB."""
    starts = range(0, rows, BLOCK_ROWS)
    if array.by_columns:
        with np.load(path) as arrays:
            whole = arrays[array.name]
        for first in starts:
            yield _checked(whole[first : min(first + BLOCK_ROWS, rows)], array.name, first)
        return
    dims = array.shape[1]
    with ZipFile(path) as archive, archive.open(f"{array.name}.npy") as stream:
        _described(stream)
        for first in starts:
            n = min(BLOCK_ROWS, rows - first)
            try:
                block = np.frombuffer(stream.read(n * dims * array.dtype.itemsize), array.dtype).reshape(n, dims)
            except _UNREADABLE as error:
                raise _refused(path, error) from error
            yield _checked(block, array.name, first)


def _checked(vectors: Any, name: str, first: int) -> FloatArray:
    vectors = vectors.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    if bad := np.flatnonzero(~np.isfinite(norms) | (norms == 0)).tolist():
        raise MrlError(
            f"row {first + bad[0]} of {name} is zero or not finite: cosine distance has no direction there. "
            "Leave such rows out."
        )
    return np.asarray(vectors, dtype=np.float32)
