"""Kind half: the whole embedding as halfvec, kept, filled and indexed; test_kinds.py searches it."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg import SpecError
from mrl_pg.vectors import prefixes, to_text
from tests.conftest import Conn, FloatArray, vectors

FULL = 32
COLUMN = f"embedding_half{FULL}"
ROWS = vectors(6, FULL) * 3


def make(conn: Conn, kind: str = f"vector({FULL})", **options: Any) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding {kind})")
    assert mrl.add_prefix(conn, "docs", kind="half", **options) == COLUMN


def parsed(text: str) -> FloatArray:
    return np.array([float(x) for x in text[1:-1].split(",")], dtype=np.float32)


def check(conn: Conn, distance: Any) -> list[bool]:
    """Returns which rows have a prefix, after comparing each with numpy's."""
    rows = conn.execute(f"SELECT embedding::text, {COLUMN}::text FROM docs ORDER BY id").fetchall()
    for embedding, prefix in rows:
        if prefix is not None:
            made = prefixes(parsed(embedding), FULL, distance).astype(np.float32)
            assert np.abs(parsed(prefix) - made).max() <= 1e-3 * np.abs(made).max()
    return [prefix is not None for _, prefix in rows]


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_every_write_leaves_the_whole_embedding(conn: Conn, kind: str, distance: Any) -> None:
    make(conn, f"{kind}({FULL})", distance=distance)
    for n, row in enumerate([*ROWS[:4], np.zeros(FULL)]):
        conn.execute("INSERT INTO docs VALUES (%s, %s)", (n, to_text(row)))
    conn.execute("INSERT INTO docs VALUES (5, NULL)")
    conn.execute("INSERT INTO docs VALUES (6, %s, %s)", (to_text(ROWS[4]), to_text(-ROWS[4])))
    zero = distance != "cosine"
    assert check(conn, distance) == [True, True, True, True, zero, False, True]
    conn.execute("UPDATE docs SET embedding = %s WHERE id IN (1, 4, 5)", [to_text(-ROWS[5])])
    conn.execute(f"UPDATE docs SET {COLUMN} = NULL WHERE id = 2")
    conn.execute("UPDATE docs SET embedding = NULL WHERE id = 6")
    assert check(conn, distance) == [True, True, True, True, True, True, False]
    (status,) = mrl.status(conn)
    assert [status[name] for name in ("kind", "dims", "full_dims", "rows", "missing")] == ["half", FULL, FULL, 6, 0]
    type_of = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = %s"
    assert conn.execute(type_of, [COLUMN]).fetchall() == [(f"halfvec({FULL})",)]


def test_backfill_index_and_what_it_is_called(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    rows = vectors(500, FULL)
    rows[17] = 0
    with conn.cursor().copy("COPY docs FROM STDIN") as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, to_text(row)))
    mrl.add_prefix(conn, "docs", kind="half")
    progress = mrl.backfill(conn, "docs", batch_size=100)
    assert (progress.filled, progress.impossible_keys) == (499, [17])
    assert check(conn, "cosine").count(True) == 499
    name = f"docs_{COLUMN}_halfvec_cosine_ops_idx"
    assert mrl.create_index(conn, "docs") == mrl.create_index(conn, "docs") == name
    assert mrl.status(conn)[0]["index"] == name
    (hit,) = mrl.search(conn, "docs", rows[3], k=1)
    assert (hit.key, hit.row) == (3, {"id": 3})
    mrl.drop_prefix(conn, "docs", COLUMN)
    assert mrl.status(conn) == []


def test_dims_are_all_there_are(conn: Conn) -> None:
    make(conn, dims=FULL)
    assert mrl.add_prefix(conn, "docs", kind="half") == COLUMN
    assert mrl.add_prefix(conn, "docs", kind="binary") == f"embedding_bit{FULL}"
    for call in ("'docs', 'embedding', NULL, options", "'docs', 'embedding', options"):
        assert conn.execute(f'SELECT mrl.add_prefix({call} => \'{{"kind": "half"}}\')').fetchall() == [(COLUMN,)]
    assert len(mrl.status(conn)) == 2
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"dims must be the {FULL} dimensions of embedding"):
        mrl.add_prefix(conn, "docs", dims=FULL - 1, kind="half")
    with pytest.raises(SpecError, match=r"dims must be between 1 and 4,000, not 4001\. HNSW takes at most"):
        mrl.add_prefix(conn, "docs", dims=4_001, kind="half")
    with pytest.raises(SpecError, match="kind truncate needs dims, the length of the prefix"):
        mrl.add_prefix(conn, "docs")


def test_a_column_without_a_length(conn: Conn) -> None:
    make(conn, "vector", dims=FULL)
    conn.execute("INSERT INTO docs VALUES (1, %s), (2, '[1,2]')", [to_text(ROWS[0])])
    assert check(conn, "cosine") == [True, False]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"fixes no length, so dims must be given"):
        mrl.add_prefix(conn, "docs", kind="half")


def test_the_longest_there_can_be(conn: Conn) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(4000))")
    assert mrl.add_prefix(conn, "docs", kind="half") == "embedding_half4000"
    rows = vectors(20, 4_000)
    for n, row in enumerate(rows):
        conn.execute("INSERT INTO docs VALUES (%s, %s)", (n, to_text(row)))
    mrl.create_index(conn, "docs")
    assert mrl.search(conn, "docs", rows[5], k=1)[0].key == 5
