"""Reading the embeddings of a table into an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import Connection, ServerCursor
from psycopg.rows import tuple_row
from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.basis import unpack
from mrl_pg.errors import MrlError
from mrl_pg.psycopg.run import Rows, compiled, execute
from mrl_pg.registry import Target, split_name
from mrl_pg.search import FilterShape
from mrl_pg.spec import EmbeddingType
from mrl_pg.statements.embedding import VECTOR_COLUMN
from mrl_pg.views import Embeddings

# Embeddings fetched at once: some 12 MB of 1536 dims.
_FETCHED = 2_000


@dataclass(frozen=True, slots=True)
class EmbeddingColumn:
    """A column of embeddings; ``full_dims`` is None where it does not fix their length."""

    name: str
    type: EmbeddingType
    full_dims: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Embeddings of a table, in no order.

    :ivar embeddings: (n, full_dims), float16 where they are halfvec.
    :ivar ids: keys as text, where asked for.
    :ivar kept: which rows (n,) a filter keeps, where one was given.
    """

    embeddings: Embeddings
    ids: list[str]
    kept: npt.NDArray[np.bool_] | None


def embedding_column(conn: Connection[Any], known: Target, embedding: str) -> EmbeddingColumn:
    """Returns what is known of a column of embeddings.

    :raises MrlError: where there is no such column, or it holds something else.
    """
    name = statements.quoted(*split_name((known.schema, known.name)))
    found = execute(conn, VECTOR_COLUMN.bindparams(target=name, embedding=embedding))
    if not found:
        raise MrlError(
            f"column {embedding!r} of {known} does not exist or is no vector or halfvec. "
            "Name the column of the embeddings with embedding= (--embedding)."
        )
    return EmbeddingColumn(embedding, *found[0])


def with_margin(rows: int) -> int:
    """Returns so many rows and six standard deviations of a random sample of them: asked for, no fewer come."""
    return rows + 6 * isqrt(rows) + 6


def read_sample(
    conn: Connection[Any],
    known: Target,
    column: EmbeddingColumn,
    rows: int,
    *,
    seed: int,
    count: int,
    ids: bool = False,
    besides: Sequence[str] = (),
    shape: FilterShape = (),
    values: Mapping[str, Any] = MappingProxyType({}),
    on_rows: Callable[[int, int], None] | None = None,
) -> Sample:
    """Returns about so many rows that have an embedding, chosen at random; all where there are no more.

    :param conn: a connection in a transaction.
    :param count: how many rows have an embedding.
    :param ids: read the keys too.
    :param besides: ids of rows to read in any case; rows that do not exist are passed over.
    :param shape: of a filter to apply to each row, with its values.
    :param on_rows: called with how many rows are read and how many there are to read.
    :raises MrlError: where no row has an embedding, or their lengths differ.
    """
    if not count:
        raise MrlError(f"no row of {known} has an {column.name}, and there is nothing to learn. Insert rows first.")
    if count <= rows:
        parts, room, expected = [statements.embeddings(known, column.name, ids=ids, shape=shape)], count, count
    else:
        share = statements.Share(100 * rows / count, seed)
        chosen = statements.embeddings(
            known, column.name, share=share, ids=ids, shape=shape, among="not" if besides else None
        )
        wanted = statements.embeddings(known, column.name, ids=ids, shape=shape, among="only")
        parts = [wanted, chosen] if besides else [chosen]
        # Six standard deviations more than expected: not in a billion runs are there more.
        room, expected = with_margin(rows) + len(besides), rows
    if besides:
        values = {**values, "ids": list(besides)}
    found: Embeddings = np.empty((0, 0), dtype=np.float32)
    names: list[str] = []
    kept: list[bool] = []
    n = 0
    for chunk in _chunks(conn, parts, values):
        packed = [row[0] for row in chunk[: room - n]]
        if not packed:
            break
        if not n:
            size = 2 if column.type == "halfvec" else 4
            full_dims = (len(packed[0]) - 4) // size
            found = np.empty((room, full_dims), dtype=f"f{size}")
        if {len(one) for one in packed} != {4 + full_dims * size}:
            raise MrlError(
                f"the vectors in {column.name} of {known} differ in length. Give the column a length: vector(n)."
            )
        found[n : n + len(packed)] = unpack(packed, full_dims, column.type)
        n += len(packed)
        if ids:
            names += [row[1] for row in chunk[: len(packed)]]
        if shape:
            kept += [row[-1] for row in chunk[: len(packed)]]
        if on_rows:
            on_rows(n, max(n, expected))
    return Sample(found[:n], names, np.array(kept, dtype=bool) if shape else None)


def _chunks(conn: Connection[Any], parts: Sequence[ClauseElement], values: Mapping[str, Any]) -> Iterator[Rows]:
    """Yields the rows of statements, which the server sends as they are wanted."""
    for statement in parts:
        with ServerCursor(conn, "mrl_sample", row_factory=tuple_row) as cursor:
            cursor.execute(compiled(statement), values, binary=True)
            while chunk := cursor.fetchmany(_FETCHED):
                yield chunk
