"""Binary prefixes: sign bits as numpy has them, kept, filled and indexed; test_kinds.py searches them."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

import mrl_pg.psycopg as mrl
from mrl_pg import SearchError, SpecError
from mrl_pg.vectors import bits, to_binary, to_text
from tests.conftest import Conn, vectors

FULL, DIMS = 32, 12
ROWS = vectors(6, FULL)


def make(conn: Conn, kind: str = "vector") -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding {kind}({FULL}))")
    assert mrl.add_prefix(conn, "docs", dims=DIMS, kind="binary") == f"embedding_bit{DIMS}"


def check(conn: Conn) -> list[int]:
    """Returns the ids of docs after comparing every prefix with numpy's."""
    rows = conn.execute(f"SELECT id, embedding::text, embedding_bit{DIMS}::text FROM docs ORDER BY id").fetchall()
    for _, embedding, prefix in rows:
        vector = np.array([float(x) for x in embedding[1:-1].split(",")]) if embedding else np.zeros(FULL)
        assert prefix == (to_text(bits(vector, DIMS)) if vector[:DIMS].any() else None)
    return [row[0] for row in rows]


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_every_write_leaves_the_right_bits(conn: Conn, kind: str) -> None:
    make(conn, kind)
    zero_there = np.concatenate([np.zeros(DIMS), np.ones(FULL - DIMS)])
    insert = "INSERT INTO docs VALUES (%s, %s)"
    for n, row in enumerate([*ROWS[:3], zero_there]):
        conn.execute(insert, (n, to_text(row)))
    conn.execute("INSERT INTO docs VALUES (4, NULL)")
    conn.execute("INSERT INTO docs VALUES (5, %s, %s)", (to_text(ROWS[4]), "1" * DIMS))
    assert check(conn) == [0, 1, 2, 3, 4, 5]
    conn.execute("UPDATE docs SET embedding = %s WHERE id IN (1, 3, 4)", [to_text(-ROWS[5])])
    conn.execute(f"UPDATE docs SET embedding_bit{DIMS} = NULL WHERE id = 2")
    conn.execute("UPDATE docs SET embedding = NULL WHERE id = 5")
    assert check(conn) == [0, 1, 2, 3, 4, 5]
    (status,) = mrl.status(conn)
    assert (status["kind"], status["rows"], status["missing"], status["impossible"]) == ("binary", 5, 0, 0)


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_where_there_are_no_bits(conn: Conn, kind: str) -> None:
    for embedding in ("NULL", "'[1,2]'", "'[0,0,0,1]'"):
        assert conn.execute(f"SELECT mrl.bits({embedding}::{kind}, 3)").fetchall() == [(None,)]
    assert conn.execute(f"SELECT mrl.bits('[-1,0,0.5,7]'::{kind}, 3)::text").fetchall() == [("001",)]


def test_text_and_binary_form(conn: Conn) -> None:
    for n in (1, 7, 8, 9, 1536):
        made = bits(vectors(1, n)[0], n)
        assert conn.execute("SELECT %s::bit varying", [to_text(made)]).fetchall() == [(to_text(made),)]
        (row,) = conn.execute("SELECT varbit_send(%s::bit varying)", [to_text(made)]).fetchall()
        assert row[0] == to_binary(made)


def test_backfill_index_and_what_it_is_called(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    rows = vectors(500, FULL)
    rows[17, :DIMS] = 0
    with conn.cursor().copy("COPY docs FROM STDIN") as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, to_text(row)))
    mrl.add_prefix(conn, "docs", dims=DIMS, kind="binary")
    progress = mrl.backfill(conn, "docs", batch_size=100)
    assert (progress.filled, progress.impossible_keys) == (499, [17])
    assert len(check(conn)) == 500
    name = f"docs_embedding_bit{DIMS}_bit_hamming_ops_idx"
    assert mrl.create_index(conn, "docs") == name
    assert mrl.create_index(conn, "docs") == name
    assert mrl.status(conn)[0]["index"] == name
    # Its column is no more shown than a vector is.
    assert mrl.search(conn, "docs", rows[3], k=1)[0].row == {"id": 3}
    assert mrl.describe(conn, "docs").columns == (("id", "integer"),)
    mrl.drop_prefix(conn, "docs", f"embedding_bit{DIMS}")
    assert mrl.status(conn) == []


def test_all_dimensions_of_a_vector_too_long_for_any_other_index(conn: Conn) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(10000))")
    assert mrl.add_prefix(conn, "docs", dims=10_000, kind="binary") == "embedding_bit10000"
    rows = vectors(20, 10_000)
    for n, row in enumerate(rows):
        conn.execute("INSERT INTO docs VALUES (%s, %s)", (n, to_text(row)))
    mrl.create_index(conn, "docs")
    assert mrl.search(conn, "docs", rows[5], k=1)[0].key == 5


def test_recall_on_real_vectors(conn: Conn, shared_data: Any) -> None:
    data = np.load(shared_data / "te3small_1536.npz")
    corpus, queries = (data[name].astype(np.float32) for name in ("corpus", "queries"))
    queries = queries[:100]
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(1536))")
    mrl.add_prefix(conn, "docs", dims=1536, kind="binary")
    with conn.cursor().copy("COPY docs (id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(corpus):
            copy.write_row((n, to_text(row)))
    mrl.create_index(conn, "docs")
    truth = np.argsort(-(queries @ corpus.T), axis=1)[:, :10]
    results = mrl.search_many(conn, "docs", queries, k=10, candidates=100)
    hits = sum(len({hit.key for hit in result} & set(row.tolist())) for result, row in zip(results, truth, strict=True))
    assert hits / truth.size >= 0.97


def test_what_cannot_be(conn: Conn) -> None:
    make(conn)
    conn.execute("SELECT mrl.create_prefix_index('docs', %s, false)", [f"embedding_bit{DIMS}"])
    query = np.ones(FULL)
    query[:DIMS] = 0
    with pytest.raises(SearchError, match="are zero, and a binary prefix has no direction there"):
        mrl.search(conn, "docs", query)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"query has no prefix of {DIMS} dimensions"):
        conn.execute("SELECT * FROM mrl.search(NULL::docs, %s)", [to_text(query)])
    with pytest.raises(SpecError, match=r"unknown kind 'quarter'. Use truncate, binary or half\."):
        mrl.add_prefix(conn, "docs", dims=8, kind="quarter")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="dims must be between 1 and 16,000, not 16001"):
        mrl.add_prefix(conn, "docs", dims=16_001, kind="binary")
