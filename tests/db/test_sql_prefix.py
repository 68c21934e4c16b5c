"""mrl.prefix() against numpy, and the trigger that keeps a prefix column whoever writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql

import mrl_pg.psycopg as mrl
from mrl_pg.spec import Distance
from mrl_pg.vectors import FP16_MAX, prefixes, to_text
from tests.conftest import Conn, FloatArray, database, vectors

FULL, DIMS = 32, 8
A, B, WRONG = (vectors(1, FULL, seed=seed)[0] for seed in (1, 2, 3))
# A query with %(a)s, %(b)s, %(wrong)s: two embeddings and a prefix that belongs to neither.
VALUES = {"a": to_text(A), "b": to_text(B), "wrong": to_text(WRONG[:DIMS])}


@pytest.fixture(scope="module")
def module_dsn(server: str, template: str) -> Iterator[str]:
    yield from database(server, template)


@pytest.fixture
def tx(module_dsn: str) -> Iterator[Conn]:
    """A transaction that is rolled back: much cheaper than a database of one's own."""
    with psycopg.connect(module_dsn, autocommit=True) as conn, conn.transaction(force_rollback=True):
        yield conn


def parsed(text: str | None) -> FloatArray | None:
    return None if text is None else np.array(json.loads(text), dtype=np.float32)


def expected(embedding: FloatArray | None, dims: int, distance: Distance, kind: str = "vector") -> Any:
    """The prefix by numpy, None where mrl.prefix() is documented to be NULL."""
    if embedding is None or len(embedding) < dims:
        return None
    head = embedding[:dims].astype(np.float64)
    if distance == "cosine" and not head.any():
        return None
    if distance != "cosine" and kind == "vector" and np.linalg.norm(head) > FP16_MAX:
        return None
    return prefixes(embedding, dims, distance)


def agree(prefix: FloatArray | None, wanted: Any) -> bool:
    if prefix is None or wanted is None:
        return prefix is wanted
    return prefix.shape == wanted.shape and bool(np.abs(prefix - wanted.astype(np.float32)).max() <= 1e-3)


def check_prefixes(conn: Conn, table: str = "docs") -> list[Any]:
    """Returns the ids of a table after comparing the prefix of every row with numpy's."""
    query = sql.SQL("SELECT id, embedding::text, embedding_8::text FROM {} ORDER BY id").format(sql.Identifier(table))
    rows = conn.execute(query).fetchall()
    for row in rows:
        assert agree(parsed(row[2]), expected(parsed(row[1]), DIMS, "cosine")), row
    return [row[0] for row in rows]


def make(conn: Conn, columns: str = "title text", then: str = "") -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, {columns}, embedding vector({FULL})) {then}")
    mrl.add_prefix(conn, "docs", dims=DIMS)


def stale(conn: Conn) -> list[int]:
    query = f"SELECT id FROM docs WHERE mrl.is_stale(embedding_8, embedding, {DIMS}, 'cosine') ORDER BY id"
    return [row[0] for row in conn.execute(query)]


# mrl.prefix() -------------------------------------------------------------------------------------------

# Ordinary numbers, and those where float16, float32 or a norm gives way.
SINGLES = st.one_of(
    st.floats(-2, 2, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0.0, 1e-30, -1e-30, 65504.0, 65505.0, 3e38]),
)
HALVES = st.one_of(st.floats(-2, 2, width=16), st.floats(allow_nan=False, allow_infinity=False, width=16))
KINDS = {"vector": (SINGLES, np.float32), "halfvec": (HALVES, np.float16)}


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("kind", KINDS)
def test_prefix_is_that_of_numpy(tx: Conn, kind: str, distance: Distance) -> None:
    numbers, dtype = KINDS[kind]
    query = f"SELECT mrl.prefix(%s::{kind}, %s, %s)::text"

    @settings(deadline=None, max_examples=300, database=None)
    @given(st.lists(numbers, min_size=1, max_size=12), st.integers(1, 14))
    @example([1e-7] * 4 + [1.0], 4)
    @example([0.0, 0.0, 1.0], 2)
    @example([1.0, 2.0], 3)
    @example([65504.0, 0.0], 2)
    @example([60000.0, 60000.0], 2)
    def compare(values: list[float], dims: int) -> None:
        embedding = np.array(values, dtype=dtype)
        (row,) = tx.execute(query, (to_text(embedding), dims, distance)).fetchall()
        assert agree(parsed(row[0]), expected(embedding, dims, distance, kind))

    compare()


def test_prefix_of_tiny_and_huge_vectors_keeps_their_direction(tx: Conn) -> None:
    for scale in (1e-30, 1e30):
        (row,) = tx.execute("SELECT mrl.prefix(%s::vector, 2)::text", [to_text(np.array([3, 4, 9]) * scale)])
        assert row[0] == "[0.60009766,0.7998047]"


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_is_null_for_null_and_an_error_for_what_it_does_not_know(tx: Conn, kind: str) -> None:
    for arguments in (f"NULL::{kind}, 2", f"'[1,2,3]'::{kind}, NULL"):
        assert tx.execute(f"SELECT mrl.prefix({arguments})").fetchall() == [(None,)]
    for distance, shown in (("'manhattan'", "'manhattan'"), ("NULL", "NULL"), ("'Cosine'", "'Cosine'")):
        with pytest.raises(psycopg.errors.InvalidParameterValue) as raised, tx.transaction():
            tx.execute(f"SELECT mrl.prefix('[1,2,3]'::{kind}, 2, {distance})")
        assert raised.value.diag.message_primary == f"unknown distance {shown}"
        assert raised.value.diag.message_hint == "Use cosine, l2 or inner_product."
    for dims in (0, -1):
        with pytest.raises(psycopg.errors.DataException, match="at least 1 dimension"), tx.transaction():
            tx.execute(f"SELECT mrl.prefix('[1,2,3]'::{kind}, {dims})")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prefix", "embedding", "is_stale"),
    [
        ("NULL", "NULL", False),
        ("NULL", "'[3,4,1]'", True),
        ("NULL", "'[0,0,1]'", True),
        ("'[1,0]'", "NULL", True),
        ("'[1,0]'", "'[3,4,1]'", True),
        ("'[1]'", "'[3,4,1]'", True),
        ("'[1,0]'", "'[0,0,1]'", True),
        ("'[0.6,0.8]'", "'[3,4,1]'", False),
    ],
)
def test_is_stale(tx: Conn, kind: str, prefix: str, embedding: str, is_stale: bool) -> None:
    query = f"SELECT mrl.is_stale({prefix}::halfvec, {embedding}::{kind}, 2, 'cosine')"
    assert tx.execute(query).fetchall() == [(is_stale,)]


# The trigger --------------------------------------------------------------------------------------------

# Row 1 holds A, row 2 nothing. After the statement: id → embedding.
WRITES: dict[str, tuple[str, dict[int, FloatArray | None]]] = {
    "insert": ("INSERT INTO docs VALUES (3, 'x', %(b)s)", {1: A, 2: None, 3: B}),
    "rows": (
        "INSERT INTO docs (id, embedding) VALUES (3, %(a)s), (4, NULL), (5, %(b)s)",
        {1: A, 2: None, 3: A, 4: None, 5: B},
    ),
    "select": ("INSERT INTO docs SELECT id + 2, title, embedding FROM docs", {1: A, 2: None, 3: A, 4: None}),
    "wrong prefix": ("INSERT INTO docs VALUES (3, 'x', %(b)s, %(wrong)s)", {1: A, 2: None, 3: B}),
    "prefix without embedding": ("INSERT INTO docs VALUES (3, 'x', NULL, %(wrong)s)", {1: A, 2: None, 3: None}),
    "update embedding": ("UPDATE docs SET embedding = %(b)s", {1: B, 2: B}),
    "update prefix": ("UPDATE docs SET embedding_8 = %(wrong)s", {1: A, 2: None}),
    "prefix to null": ("UPDATE docs SET embedding_8 = NULL", {1: A, 2: None}),
    "both": ("UPDATE docs SET embedding = %(b)s, embedding_8 = %(wrong)s", {1: B, 2: B}),
    "to null": ("UPDATE docs SET embedding = NULL", {1: None, 2: None}),
    "other column": ("UPDATE docs SET title = 'x'", {1: A, 2: None}),
    "on conflict update": (
        "INSERT INTO docs VALUES (1, 'x', %(b)s), (3, 'x', %(a)s) "
        "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding",
        {1: B, 2: None, 3: A},
    ),
    "on conflict other": (
        "INSERT INTO docs VALUES (1, 'x', %(b)s) ON CONFLICT (id) DO UPDATE SET title = excluded.title",
        {1: A, 2: None},
    ),
    "on conflict nothing": ("INSERT INTO docs VALUES (1, 'x', %(b)s) ON CONFLICT DO NOTHING", {1: A, 2: None}),
    "merge": (
        "MERGE INTO docs USING (VALUES (2, %(b)s::vector), (3, %(a)s)) AS new (id, v) ON docs.id = new.id "
        "WHEN MATCHED THEN UPDATE SET embedding = new.v WHEN NOT MATCHED THEN INSERT (id, embedding) VALUES (id, v)",
        {1: A, 2: B, 3: A},
    ),
    "cte": (
        "WITH gone AS (DELETE FROM docs WHERE id = 1 RETURNING *) INSERT INTO docs SELECT 9, title, %(b)s FROM gone",
        {2: None, 9: B},
    ),
    "copy": ("", {1: A, 2: None, 3: B, 4: None}),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_leaves_the_right_prefix(tx: Conn, name: str) -> None:
    statement, wanted = WRITES[name]
    make(tx)
    tx.execute("INSERT INTO docs VALUES (1, 'a', %(a)s), (2, 'none', NULL)", VALUES)
    if statement:
        tx.execute(statement, VALUES)
    else:
        with tx.cursor().copy("COPY docs (id, embedding, embedding_8) FROM STDIN") as copy:
            copy.write_row((3, VALUES["b"], VALUES["wrong"]))
            copy.write_row((4, None, None))
    check_prefixes(tx)
    rows = {row[0]: parsed(row[1]) for row in tx.execute("SELECT id, embedding::text FROM docs")}
    assert {n: None if row is None else row.tolist() for n, row in rows.items()} == {
        n: None if row is None else row.tolist() for n, row in wanted.items()
    }


def test_a_row_that_cannot_have_a_prefix_is_written_all_the_same(tx: Conn) -> None:
    tx.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector)")
    mrl.add_prefix(tx, "docs", dims=DIMS)
    zero_there = to_text(np.array([0] * DIMS + [1], dtype=np.float32))
    tx.execute("INSERT INTO docs VALUES (1, %s), (2, '[1,2,3]'), (3, %s)", (zero_there, VALUES["a"]))
    assert check_prefixes(tx) == [1, 2, 3]
    assert [(p["rows"], p["missing"], p["impossible"]) for p in mrl.status(tx)] == [(3, 2, 2)]
    tx.execute("UPDATE docs SET embedding = %s WHERE id = 1", [VALUES["b"]])
    tx.execute("UPDATE docs SET embedding = '[1,2,3]' WHERE id = 3")
    assert check_prefixes(tx) == [1, 2, 3]


# Whatever plpgsql, our functions or our statement could take for something of their own.
NAMES = [
    *("prefix", "new", "old", "target", "k", "hit", "distance", "received", "dims", "query", "filter", "options", "n"),
    *("m", "item", "value", "key", "spec", "mrl_hits", "mrl_before", "mrl_candidates"),
]


def test_the_other_columns_stay_as_they_are(pg: int, tx: Conn) -> None:
    tx.execute(
        "CREATE DOMAIN positive AS int NOT NULL CHECK (value > 0); CREATE TYPE mood AS ENUM ('sad', 'ok');"
        "CREATE TYPE pair AS (a int, b text); CREATE DOMAIN pairs AS pair[]"
    )
    virtual = ", made_on_reading text GENERATED ALWAYS AS ('v' || q) VIRTUAL" if pg >= 18 else ""
    columns = (
        "gone int, p positive DEFAULT 1, m1 mood DEFAULT 'ok', pr pair DEFAULT (1, 'x'), c char(3) DEFAULT 'a', "
        'arr pairs DEFAULT ARRAY[(1, NULL)::pair], j json DEFAULT \'{"a":  1, "a": 2}\', '
        "q int DEFAULT 4, at timestamptz DEFAULT '2024-02-29', r int4range DEFAULT '[1,5)', f float8 DEFAULT 'NaN', "
        "bits bit(3) DEFAULT '101', raw bytea DEFAULT '\\x00ff', num numeric(40, 20) DEFAULT 1.10, "
        f"identity bigint GENERATED ALWAYS AS IDENTITY, made text GENERATED ALWAYS AS ('s' || q) STORED{virtual}, "
        + ", ".join(f"{sql.Identifier(name).as_string()} int DEFAULT 7" for name in NAMES)
    )
    tx.execute(f"CREATE TABLE docs (id int PRIMARY KEY, {columns}, embedding vector({FULL}))")
    tx.execute("ALTER TABLE docs DROP COLUMN gone")
    tx.execute("CREATE TABLE twin (LIKE docs INCLUDING ALL)")
    mrl.add_prefix(tx, "docs", dims=DIMS)
    for table in ("docs", "twin"):
        tx.execute(f"ALTER TABLE {table} ADD later text DEFAULT 'later'")
        tx.execute(f"INSERT INTO {table} (id, embedding) VALUES (1, %(a)s), (2, NULL), (3, %(b)s)", VALUES)
        tx.execute(f"INSERT INTO {table} (id, pr, arr, j) VALUES (4, NULL, NULL, NULL)")
        tx.execute(f"ALTER TABLE {table} DROP COLUMN at, ALTER r TYPE text USING r::text")
        tx.execute(f"UPDATE {table} SET embedding = %(a)s, q = 5 WHERE id IN (2, 4)", VALUES)
    assert check_prefixes(tx) == [1, 2, 3, 4]
    names = [
        row[0]
        for row in tx.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'twin'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    ]
    assert set(NAMES) < set(names)
    same = sql.SQL("SELECT ROW({0})::text FROM {1} ORDER BY id")
    columns_of = sql.SQL(", ").join(map(sql.Identifier, names))
    docs, twin = (tx.execute(same.format(columns_of, sql.Identifier(table))).fetchall() for table in ("docs", "twin"))
    assert docs == twin
    tx.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    found = tx.execute("SELECT (hit).id, (hit).hit, (hit).made FROM mrl.search(NULL::docs, %(b)s, k => 1)", VALUES)
    assert found.fetchall() == [(3, 7, "s4")]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE docs RENAME embedding_8 TO short",
        "ALTER TABLE docs RENAME embedding_8 TO swap; ALTER TABLE docs RENAME embedding TO embedding_8;"
        "ALTER TABLE docs RENAME swap TO embedding",
        "ALTER TABLE docs ALTER a TYPE bigint USING 7, ALTER b TYPE bigint USING 8",
        "ALTER TABLE docs DROP a, ADD c bigint DEFAULT 9",
    ],
)
def test_a_table_that_changes_between_two_writes_of_a_transaction(tx: Conn, change: str) -> None:
    """PostgreSQL keeps what it knows of a row type for expressions of plpgsql; a migration must not meet that."""
    make(tx, "a text, b text")
    tx.execute("INSERT INTO docs VALUES (1, '1', '2', %(a)s)", VALUES)
    tx.execute(change)
    ((embedding, prefix),) = tx.execute("SELECT embedding, prefix FROM mrl.prefixes").fetchall()
    tx.execute(f"INSERT INTO docs (id, b, {embedding}) VALUES (2, '3', %(b)s)", VALUES)
    query = f"SELECT id, b::text, {embedding}::text, {prefix}::text FROM docs ORDER BY id"
    rows = tx.execute(query).fetchall()
    assert [row[:2] for row in rows] == [(1, "8" if "b TYPE" in change else "2"), (2, "3")]
    for row, vector in zip(rows, (A, B), strict=True):
        assert agree(parsed(row[2]), vector)
        assert agree(parsed(row[3]), prefixes(vector, DIMS, "cosine"))


@pytest.mark.parametrize(
    "name", ["mrl_hits", "mrl_before", "mrl_candidates", "given", "counted", "prefixes", "mrl_row"]
)
def test_tables_named_like_ours(tx: Conn, name: str) -> None:
    tx.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, embedding vector({FULL}))")
    mrl.add_prefix(tx, name, dims=DIMS)
    tx.execute(f"INSERT INTO {name} VALUES (1, %(a)s), (2, %(b)s)", VALUES)
    assert check_prefixes(tx, name) == [1, 2]
    tx.execute("SELECT mrl.create_prefix_index(%s, 'embedding_8', false)", [name])
    query = f"SELECT (hit).id FROM mrl.search(NULL::{name}, %(b)s, k => 2)"
    assert tx.execute(query, VALUES).fetchall() == [(2,), (1,)]
    (statement,) = tx.execute(f"SELECT mrl.search_sql(NULL::{name}, %(b)s, k => 2)", VALUES).fetchall()[0]
    assert [row[0] for row in tx.execute(statement)] == [2, 1]


def test_generated_embeddings_and_prefixes_are_refused(tx: Conn) -> None:
    """PostgreSQL computes them after every BEFORE trigger; a generated prefix keeps itself."""
    tx.execute(
        f"CREATE TABLE docs (id int PRIMARY KEY, half vector({FULL // 2}), embedding vector({FULL}) "
        "GENERATED ALWAYS AS (half || half) STORED)"
    )
    with (
        pytest.raises(psycopg.errors.InvalidObjectDefinition, match='Column "embedding" is a generated column'),
        tx.transaction(),
    ):
        mrl.add_prefix(tx, "docs", dims=DIMS)
    assert mrl.status(tx) == []
    assert tx.execute("SELECT count(*) FROM pg_attribute WHERE attname = 'embedding_8'").fetchall() == [(0,)]


def test_partitions(tx: Conn) -> None:
    make(tx, "region text", "PARTITION BY RANGE (id)")
    tx.execute("CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (10)")
    # Attached, with its columns elsewhere, one of them dropped.
    tx.execute(
        f"CREATE TABLE high (embedding_8 halfvec({DIMS}), gone int, embedding vector({FULL}), region text, "
        "id int NOT NULL);"
        "ALTER TABLE high DROP COLUMN gone;"
        "ALTER TABLE docs ATTACH PARTITION high FOR VALUES FROM (10) TO (20)"
    )
    tx.execute("INSERT INTO docs VALUES (1, 'x', %(a)s), (11, 'x', %(b)s)", VALUES)
    tx.execute("INSERT INTO low VALUES (2, 'x', %(a)s, %(wrong)s)", VALUES)
    tx.execute("INSERT INTO high (id, embedding) VALUES (12, %(a)s)", VALUES)
    tx.execute("UPDATE docs SET id = 13, embedding = %(b)s WHERE id = 1", VALUES)
    tx.execute("UPDATE high SET embedding_8 = %(wrong)s", VALUES)
    assert check_prefixes(tx) == [2, 11, 12, 13]
    assert [(p["target"], p["rows"], p["missing"]) for p in mrl.status(tx)] == [("docs", 4, 0)]
    tx.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    found = tx.execute("SELECT (hit).id FROM mrl.search(NULL::docs, %(a)s, k => 2) ORDER BY 1", VALUES).fetchall()
    assert found == [(2,), (12,)]
    assert {hit.key for hit in mrl.search(tx, "docs", B, k=2)} == {11, 13}
    (status,) = mrl.status(tx)
    assert (
        status["index_bytes"]
        == tx.execute(
            "SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = %s::regclass", [status["index"]]
        ).fetchall()[0][0]
    )
    # PostgreSQL takes the trigger away; the partition becomes a table of its own, and can be written.
    tx.execute("ALTER TABLE docs DETACH PARTITION high; INSERT INTO high (id, embedding) VALUES (99, NULL)")
    assert [(p["target"], p["rows"]) for p in mrl.status(tx)] == [("docs", 1)]
    assert mrl.add_prefix(tx, "high", dims=DIMS) == "embedding_8"
    mrl.drop_prefix(tx, "docs", "embedding_8")
    tx.execute("INSERT INTO docs VALUES (3, 'x', %(a)s)", VALUES)
    assert [p["target"] for p in mrl.status(tx)] == ["high"]


def writer(conn: Conn, schema: str = "public") -> str:
    """Becomes a role with rights on the table docs alone."""
    role = f"writer_of_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE ON docs TO {role}")
    if schema != "public":
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), sql.Identifier(role)))
    conn.execute(f"SET ROLE {role}")
    return role


def test_a_role_with_rights_on_the_table_alone_writes_and_searches(tx: Conn) -> None:
    make(tx)
    tx.execute("SELECT mrl.create_prefix_index('docs', 'embedding_8', false)")
    writer(tx)
    tx.execute("INSERT INTO docs VALUES (1, 'x', %(a)s), (2, 'y', %(b)s)", VALUES)
    tx.execute("UPDATE docs SET embedding = %(a)s WHERE id = 2", VALUES)
    tx.execute("INSERT INTO docs VALUES (3, 'z', %(b)s)", VALUES)
    assert check_prefixes(tx) == [1, 2, 3]
    assert tx.execute("SELECT (hit).id FROM mrl.search(NULL::docs, %(b)s, k => 1)", VALUES).fetchall() == [(3,)]
    assert [hit.key for hit in mrl.search(tx, "docs", B, k=1)] == [3]
    assert [p["rows"] for p in mrl.status(tx)] == [3]
    for change in ("mrl.add_prefix('docs', 'embedding', 4)", "mrl.drop_prefix('docs', 'embedding_8')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of"), tx.transaction():
            tx.execute(f"SELECT {change}")


def test_a_role_that_may_not_even_look_into_the_schema_of_pgvector_writes(bare_dsn: str) -> None:
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        mrl.install(conn)
        conn.execute("SET search_path = public, ext")
        make(conn)
        writer(conn)
        with pytest.raises(psycopg.errors.UndefinedObject, match='type "vector" does not exist'):
            conn.execute("SELECT '[1]'::vector")
        conn.execute("INSERT INTO docs VALUES (1, 'x', %(a)s)", VALUES)
        conn.execute(
            "INSERT INTO docs VALUES (1, 'x', %(b)s) ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding",
            VALUES,
        )
        conn.execute("RESET ROLE")
        assert check_prefixes(conn) == [1]


def test_our_trigger_fires_after_those_that_set_the_embedding(tx: Conn) -> None:
    make(tx)
    tx.execute(
        "CREATE FUNCTION embed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN NEW.embedding := '{VALUES['b']}'; RETURN NEW; END $$;"
        "CREATE TRIGGER z_embed BEFORE INSERT OR UPDATE OF embedding ON docs FOR EACH ROW EXECUTE FUNCTION embed()"
    )
    tx.execute("INSERT INTO docs VALUES (1, 'x', %(a)s), (2, 'x', NULL)", VALUES)
    tx.execute("UPDATE docs SET embedding = %(a)s WHERE id = 2", VALUES)
    assert check_prefixes(tx) == [1, 2]
    assert [parsed(row[0]).tolist() for row in tx.execute("SELECT embedding::text FROM docs")] == [B.tolist()] * 2  # type: ignore[union-attr]


# What a trigger cannot see: how it comes about, what is written then, and the rows that end up without their prefix.
UNSEEN = "UPDATE docs SET embedding = %(b)s WHERE id = 2; INSERT INTO docs VALUES (3, 'x', %(b)s)"
GAPS = {
    "replica": ("SET session_replication_role = replica", UNSEEN, [2, 3]),
    "disabled": ("ALTER TABLE docs DISABLE TRIGGER zz_mrl_embedding_8", UNSEEN, [2, 3]),
    "for replicas only": ("ALTER TABLE docs ENABLE REPLICA TRIGGER zz_mrl_embedding_8", UNSEEN, [2, 3]),
    "a trigger that sorts after ours": (
        "CREATE TRIGGER zzz BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION embed()",
        "UPDATE docs SET embedding = NULL WHERE id = 2",
        [2],
    ),
    "a trigger that sets the embedding on other updates": (
        "CREATE TRIGGER a BEFORE UPDATE OF title ON docs FOR EACH ROW EXECUTE FUNCTION embed()",
        "UPDATE docs SET title = 'y' WHERE id = 2",
        [2],
    ),
}


@pytest.mark.parametrize("gap", GAPS)
def test_what_passed_the_trigger_by_is_found_and_repaired(dsn: str, conn: Conn, gap: str) -> None:
    setup, write, wanted = GAPS[gap]
    make(conn)
    conn.execute("INSERT INTO docs VALUES (1, 'x', %(a)s), (2, 'x', %(a)s)", VALUES)
    conn.execute(
        "CREATE FUNCTION embed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN NEW.embedding := '{VALUES['b']}'; RETURN NEW; END $$"
    )
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as other:
        other.execute(setup)
        other.execute(write, VALUES)
    assert stale(conn) == wanted
    (status,) = mrl.status(conn)
    assert status["maintained"] == (gap not in ("disabled", "for replicas only"))
    nulls = conn.execute("SELECT count(*) FROM docs WHERE embedding IS NOT NULL AND embedding_8 IS NULL").fetchall()
    assert nulls == [(status["missing"],)]
    conn.execute(
        "ALTER TABLE docs ENABLE TRIGGER zz_mrl_embedding_8;"
        "DROP TRIGGER IF EXISTS zzz ON docs; DROP TRIGGER IF EXISTS a ON docs"
    )
    assert mrl.backfill(conn, "docs").filled == status["missing"]
    repair = f"UPDATE docs SET embedding = embedding WHERE mrl.is_stale(embedding_8, embedding, {DIMS}, 'cosine')"
    assert conn.execute(repair).rowcount == len(wanted) - status["missing"]
    assert stale(conn) == []
    check_prefixes(conn)


# Beside other sessions ----------------------------------------------------------------------------------


def wait_for_lock(conn: Conn, pid: int) -> None:
    """Returns when the session waits for a lock."""
    deadline = time.monotonic() + 10
    query = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    while conn.execute(query, [pid]).fetchall() != [("Lock",)]:
        assert time.monotonic() < deadline, "it does not wait"
        time.sleep(0.005)


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_insert_that_races_with_add_prefix(dsn: str, conn: Conn) -> None:
    """It commits first and shows as missing, or comes after and meets the trigger."""
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, title text, embedding vector({FULL}))")
    insert = "INSERT INTO docs VALUES (%s, 'x', %s)"
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn, autocommit=True) as adding,
        psycopg.connect(dsn, autocommit=True) as last,
    ):
        first.execute(insert, (1, VALUES["a"]))
        add = in_thread(lambda: mrl.add_prefix(adding, "docs", dims=DIMS))
        wait_for_lock(conn, adding.info.backend_pid)
        after = in_thread(lambda: last.execute(insert, (2, VALUES["b"])))
        wait_for_lock(conn, last.info.backend_pid)
        first.commit()
        add.join()
        after.join()
    assert [(p["rows"], p["missing"], p["impossible"]) for p in mrl.status(conn)] == [(2, 1, 0)]
    assert stale(conn) == [1]
    mrl.backfill(conn, "docs")
    assert check_prefixes(conn) == [1, 2]


def test_writers_go_on_while_prefixes_come_and_go(dsn: str, conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, title text, embedding vector({FULL}))")
    rows = [to_text(row) for row in vectors(50, FULL)]
    stop = threading.Event()
    failures: list[Exception] = []
    written: list[int] = []

    def write(start: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as mine:
            n = start
            try:
                while not stop.is_set():
                    mine.execute("INSERT INTO docs VALUES (%s, 'x', %s)", (n, rows[n % 50]))
                    mine.execute("UPDATE docs SET embedding = %s WHERE id = %s", (rows[(n + 1) % 50], n))
                    written.append(n)
                    n += 2
            except psycopg.Error as failure:
                failures.append(failure)

    writers = [in_thread(lambda start=start: write(start)) for start in (1, 2)]  # type: ignore[misc]
    try:
        for _ in range(5):
            mrl.add_prefix(conn, "docs", dims=4)
            time.sleep(0.02)
            mrl.drop_prefix(conn, "docs", "embedding_4")
        mrl.add_prefix(conn, "docs", dims=DIMS)
        time.sleep(0.1)
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert failures == []
    (status,) = mrl.status(conn)
    assert status["rows"] == len(written)
    assert 0 < status["missing"] < len(written)
    assert stale(conn) == [row[0] for row in conn.execute("SELECT id FROM docs WHERE embedding_8 IS NULL ORDER BY id")]
    assert mrl.backfill(conn, "docs").filled == status["missing"]
    assert check_prefixes(conn) == sorted(written)


def test_two_sessions_add_the_same_prefix(dsn: str, conn: Conn) -> None:
    make(conn)
    mrl.drop_prefix(conn, "docs", "embedding_8")
    conn.execute("INSERT INTO docs VALUES (1, 'x', %(a)s)", VALUES)
    with psycopg.connect(dsn) as holding, psycopg.connect(dsn, autocommit=True) as second:
        mrl.add_prefix(holding, "docs", dims=DIMS)

        def add() -> None:
            with suppress(psycopg.errors.DuplicateObject):
                mrl.add_prefix(second, "docs", dims=DIMS)

        thread = in_thread(add)
        wait_for_lock(conn, second.info.backend_pid)
        holding.commit()
        thread.join()
        assert mrl.add_prefix(second, "docs", dims=DIMS) == "embedding_8"
    assert [(p["prefix"], p["missing"]) for p in mrl.status(conn)] == [("embedding_8", 1)]
