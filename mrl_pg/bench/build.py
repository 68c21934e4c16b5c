"""The table that is searched, and the prefixes and indexes of all methods on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from psycopg import Connection, sql

from mrl_pg.bench.data import Data
from mrl_pg.bench.methods import TABLE, Built, Method, build, fill, prepare
from mrl_pg.bench.truth import Nearest, nearest
from mrl_pg.vectors import FloatArray

# doing(step, detail): told what begins; the step stays the same for several of a kind.
Doing: TypeAlias = Callable[[str, str], None]

_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"
_INSERT_TABLE, _INSERT_INTO_ROWS, _INSERT_ROWS = "inserts", 10_000, 1_000


def load(conn: Connection[Any], data: Data) -> Nearest:
    """Returns the exact answers, found on the way, after creating the table and copying the rows into it."""
    truth = None
    first = 0
    with conn.transaction():  # together, so that the rows need not go through the log
        _create(conn, TABLE, data.dims)
        statement = sql.SQL("COPY {} (id, embedding) FROM STDIN (FORMAT binary)").format(sql.Identifier(TABLE))
        with conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_COPY_HEADER)
            for block in data.blocks():
                copy.write(packed(block, first))
                truth = nearest(data.queries, block, first, truth)
                first += len(block)
            copy.write(_COPY_END)
    _vacuum(conn)
    assert truth is not None  # noqa: S101 (no data is empty)
    return truth


def packed(block: FloatArray, first: int) -> bytes:
    """Returns rows as COPY reads them in binary: the number of columns, and each behind its length in bytes.

    :param first: key of the first row.
    """
    rows, dims = block.shape
    header = [("columns", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("embedding_bytes", ">i4")]
    embedding = [("dims", ">i2"), ("zero", ">i2"), ("embedding", ">f4", (dims,))]
    records = np.zeros(rows, dtype=np.dtype([*header, *embedding]))
    records["columns"], records["id_bytes"], records["embedding_bytes"] = 2, 8, 4 + 4 * dims
    records["id"], records["dims"], records["embedding"] = np.arange(first, first + rows), dims, block
    return records.tobytes()


def build_all(conn: Connection[Any], methods: Sequence[Method], doing: Doing) -> list[Built]:
    """Returns the methods with their prefixes and indexes: every prefix first, then every index, one at a time.

    In this order, because an UPDATE of a row writes to every index on an expression.
    """
    filled: dict[Method, tuple[str | None, float]] = {}
    for method in methods:
        doing("Filling", method.name)
        begun = time.perf_counter()
        filled[method] = fill(conn, TABLE, method), time.perf_counter() - begun
        if filled[method][0]:
            _vacuum(conn)
    found: list[Built] = []
    for method in methods:
        doing("Building", method.name)
        prepare(conn, method)
        prefix, fill_seconds = filled[method]
        same = next((other for other in found if other.method.index_key == method.index_key), None)
        begun = time.perf_counter()
        index = same.index if same else build(conn, TABLE, method, prefix)
        build_seconds = same.build_seconds if same else time.perf_counter() - begun
        ((definition, index_bytes),) = conn.execute(
            "SELECT pg_get_indexdef(%(index)s::regclass), pg_relation_size(%(index)s::regclass)", {"index": index}
        )
        found.append(
            Built(
                method,
                prefix,
                index,
                definition,
                index_bytes,
                fill_seconds=fill_seconds if prefix else None,
                build_seconds=build_seconds if index else None,
            )
        )
    return found


def insert_rates(conn: Connection[Any], built: Sequence[Built], data: Data, doing: Doing) -> dict[Built, float]:
    """Returns the rows/s of one INSERT of 1,000 rows into a table of 10,000 that has the index of a method alone."""
    rows = min(_INSERT_ROWS, data.rows // 10)
    before = min(_INSERT_INTO_ROWS, data.rows - rows)
    names = {"inserts": sql.Identifier(_INSERT_TABLE), "documents": sql.Identifier(TABLE)}
    insert = sql.SQL(
        "INSERT INTO {inserts} (id, embedding) SELECT id, embedding FROM {documents} WHERE id >= %s AND id < %s"
    ).format(**names)
    rates: dict[tuple[str, int, int], float] = {}
    for method in (one.method for one in built):
        if method.index_key in rates:
            continue
        doing("Inserting", method.name)
        _create(conn, _INSERT_TABLE, data.dims)
        conn.execute(insert, (0, before))
        build(conn, _INSERT_TABLE, method, fill(conn, _INSERT_TABLE, method))
        begun = time.perf_counter()
        conn.execute(insert, (before, before + rows))
        rates[method.index_key] = rows / (time.perf_counter() - begun)
        conn.execute(sql.SQL("DROP TABLE {inserts}").format(**names))
    return {one: rates[one.method.index_key] for one in built}


def _create(conn: Connection[Any], table: str, dims: int) -> None:
    statement = "CREATE TABLE {} (id bigint PRIMARY KEY, embedding vector({}) NOT NULL)"
    conn.execute(sql.SQL(statement).format(sql.Identifier(table), dims))


def _vacuum(conn: Connection[Any]) -> None:
    conn.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(TABLE)))
