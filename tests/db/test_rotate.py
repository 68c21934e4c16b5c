"""Rotated prefixes: learnt bases, kept the same by SQL, the backfill and the query, and never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import orm

import mrl_pg.basis
import mrl_pg.psycopg as mrl
from mrl_pg import SearchError, SpecError
from mrl_pg.basis import cached
from mrl_pg.sqlalchemy import search, search_many
from mrl_pg.vectors import prefixes_of, to_text
from tests.conftest import Conn, FloatArray, vectors
from tests.db.doors import DOORS, Door, engine, mapped
from tests.db.test_sql_prefix import in_thread, wait_for_lock

FULL, DIMS = 32, 8
COLUMN = f"embedding_rot{DIMS}_v1"
ROWS = vectors(300, FULL)


def make(conn: Conn, rows: FloatArray = ROWS, kind: str = "vector", key: str = "id int", **options: Any) -> None:
    """Creates docs with rows that wait for their prefix."""
    conn.execute(f"CREATE TABLE docs ({key} PRIMARY KEY, lang text DEFAULT 'en', embedding {kind}({rows.shape[1]}))")
    copy_in(conn, rows)
    assert mrl.rotate(conn, "docs", dims=DIMS, **options) == COLUMN


def copy_in(conn: Conn, rows: FloatArray, table: str = "docs") -> None:
    statement = sql.SQL("COPY {} (id, embedding) FROM STDIN").format(sql.Identifier(table))
    with conn.cursor().copy(statement) as copy:
        for n, row in enumerate(rows):
            copy.write_row((n, to_text(row)))


def parsed(text: str) -> FloatArray:
    return np.array(json.loads(text), dtype=np.float32)


def check(conn: Conn, column: str = COLUMN) -> dict[Any, bool]:
    """Returns which rows have a prefix, after comparing each with numpy's."""
    (prefix,) = [p for p in mrl.describe(conn, "docs").prefixes if p.prefix == column]
    basis = basis_in(conn, column)
    found = {}
    query = sql.SQL("SELECT id, embedding::text, {}::text FROM docs ORDER BY id").format(sql.Identifier(column))
    for key, embedding, stored in conn.execute(query).fetchall():
        found[key] = stored is not None
        if stored is not None:
            made = prefixes_of(parsed(embedding), prefix, basis).astype(np.float32)
            assert np.abs(parsed(stored) - made).max() <= 1e-3 * max(1.0, float(np.abs(made).max())), key
    return found


def basis_in(conn: Conn, column: str = COLUMN) -> FloatArray:
    (row,) = conn.execute(
        "SELECT rows::text[] FROM mrl.bases b JOIN mrl.prefixes p ON p.basis = b.id WHERE p.prefix = %s", [column]
    ).fetchall()
    return np.stack([parsed(text) for text in row[0]])


# Kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_trigger_backfill_and_query_agree(conn: Conn, kind: str, distance: Any) -> None:
    rows = ROWS * (1 if distance == "cosine" else 30)
    make(conn, rows, kind, distance=distance)
    assert mrl.status(conn)[0]["missing"] == len(rows)
    for n, row in enumerate(vectors(20, FULL, seed=5), start=len(rows)):
        conn.execute("INSERT INTO docs (id, embedding) VALUES (%s, %s)", (n, to_text(row)))
    assert sum(check(conn).values()) == 20
    progress = mrl.backfill(conn, "docs", batch_size=70)
    assert (progress.total, progress.filled, progress.impossible) == (len(rows), len(rows), 0)
    assert all(check(conn).values())
    # The same from SQL, row by row.
    made = f"mrl.rotate(embedding, (SELECT basis FROM mrl.prefixes), '{distance}')"
    (worst,) = conn.execute(f"SELECT max(l2_distance({COLUMN}, {made})) FROM docs").fetchone() or ()
    assert worst <= 1e-3 * (1 if distance == "cosine" else 30)


def test_every_write_leaves_the_right_prefix(conn: Conn) -> None:
    make(conn)
    mrl.backfill(conn, "docs")
    wrong = to_text(vectors(1, DIMS, seed=9)[0])
    zero, other = to_text(np.zeros(FULL)), to_text(vectors(1, FULL, seed=8)[0])
    conn.execute("INSERT INTO docs VALUES (1000, 'x', %s, %s)", (other, wrong))
    conn.execute("INSERT INTO docs VALUES (1001, 'x', %s), (1002, 'x', NULL)", [zero])
    conn.execute("UPDATE docs SET embedding = %s WHERE id = 1", [other])
    conn.execute(f"UPDATE docs SET {COLUMN} = %s WHERE id = 2", [wrong])
    conn.execute(f"UPDATE docs SET {COLUMN} = NULL WHERE id = 3")
    conn.execute("UPDATE docs SET embedding = NULL WHERE id = 4")
    conn.execute("UPDATE docs SET embedding = %s WHERE id = 5", [zero])
    conn.execute("INSERT INTO docs VALUES (1, 'x', %s) ON CONFLICT (id) DO UPDATE SET lang = 'de'", [other])
    # Another setting of that name, and that of another basis, let nothing through.
    with conn.transaction():
        conn.execute("SELECT set_config('mrl.backfill', gen_random_uuid()::text, true)")
        conn.execute(f"UPDATE docs SET {COLUMN} = %s WHERE id = 6", [wrong])
    found = check(conn)
    assert [key for key, there in found.items() if not there] == [4, 5, 1001, 1002]
    (status,) = mrl.status(conn)
    assert (status["kind"], status["rows"], status["missing"], status["impossible"]) == ("rotate", 301, 2, 2)


def test_rows_that_cannot_have_a_prefix(conn: Conn) -> None:
    rows = ROWS.copy()
    rows[5:8] = 0
    make(conn, rows)
    progress = mrl.backfill(conn, "docs", batch_size=50)
    assert (progress.filled, progress.impossible_keys) == (297, [5, 6, 7])
    assert mrl.backfill(conn, "docs").filled == 0


def test_embeddings_of_other_lengths(conn: Conn) -> None:
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector)")
    copy_in(conn, ROWS)
    mrl.rotate(conn, "docs", dims=DIMS)
    conn.execute("INSERT INTO docs VALUES (1000, '[1,2]'), (1001, NULL)")
    conn.execute("ALTER TABLE docs DISABLE TRIGGER USER; INSERT INTO docs VALUES (1002, '[1,2]')")
    conn.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    assert mrl.backfill(conn, "docs").impossible_keys == [1000, 1002]
    assert sum(check_any(conn)) == 300
    mrl.create_index(conn, "docs")
    with pytest.raises(mrl_pg.DimensionError, match="query has 31 dimensions, expected 32"):
        mrl.search(conn, "docs", ROWS[0][:31])


def check_any(conn: Conn) -> list[bool]:
    return [row[0] for row in conn.execute(f"SELECT {COLUMN} IS NOT NULL FROM docs")]


def test_numbers_beyond_fp16_stop_no_write(conn: Conn) -> None:
    make(conn, distance="l2")
    for n, scale in enumerate((1e6, 1e20, 3e37), start=1000):
        conn.execute("INSERT INTO docs (id, embedding) VALUES (%s, %s)", (n, to_text(ROWS[0] * scale)))
    conn.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    conn.execute("INSERT INTO docs (id, embedding) VALUES (1003, %s)", [to_text(ROWS[0] * np.float32(1e20))])
    conn.execute("ALTER TABLE docs ENABLE TRIGGER USER")
    assert mrl.backfill(conn, "docs").impossible_keys == [1000, 1001, 1002, 1003]


@pytest.mark.parametrize(
    "key", ["id uuid", "id text", "id char(12)", "id numeric", "id timestamptz", "id own", "id mood"]
)
def test_keys_of_any_type(conn: Conn, key: str) -> None:
    conn.execute(
        "CREATE DOMAIN own AS text; CREATE TYPE mood AS ENUM ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')"
    )
    values = {
        "id uuid": "gen_random_uuid()",
        "id timestamptz": "now() + n * interval '1 us'",
        "id mood": "n::text::mood",
    }
    conn.execute(f"CREATE TABLE docs ({key} PRIMARY KEY, embedding vector({FULL}))")
    for n in range(10):
        made = values.get(key, "n::text").replace("n::", f"{n}::").replace("n *", f"{n} *")
        made = f"CAST({made} AS numeric)" if key == "id numeric" else made.replace("n::text", f"'{n}'")
        conn.execute(f"INSERT INTO docs VALUES ({made}, %s)", [to_text(ROWS[n])])
    mrl.rotate(conn, "docs", dims=DIMS)
    assert mrl.backfill(conn, "docs", batch_size=4).filled == 10
    assert list(check(conn).values()) == [True] * 10


def test_composite_keys_and_partitions(conn: Conn) -> None:
    conn.execute(
        f"CREATE TABLE docs (tenant text, n int, embedding vector({FULL}), PRIMARY KEY (tenant, n)) "
        "PARTITION BY LIST (tenant);"
        "CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN ('a'); CREATE TABLE docs_b PARTITION OF docs DEFAULT"
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs VALUES (%s, %s, %s)", [("ab"[n % 2], n, to_text(row)) for n, row in enumerate(ROWS)]
        )
    mrl.rotate(conn, "docs", dims=DIMS)
    progress = mrl.backfill(conn, "docs", batch_size=64)
    assert (progress.filled, progress.last_key) == (300, ("b", 299))
    conn.execute("SELECT mrl.create_prefix_index('docs', %s, false)", [COLUMN])
    assert mrl.search(conn, "docs", ROWS[100], k=1)[0].key == ("a", 100)


def test_an_update_between_reading_and_writing_is_not_overwritten(dsn: str, conn: Conn) -> None:
    make(conn)
    conn.execute("ALTER TABLE docs DISABLE TRIGGER USER")  # so that only the backfill writes the prefix
    with psycopg.connect(dsn) as other:
        other.execute("UPDATE docs SET embedding = %s WHERE id = 1", [to_text(vectors(1, FULL, seed=9)[0])])
        threading.Timer(0.3, other.commit).start()
        assert mrl.backfill(conn, "docs", lock_timeout=5).filled == 300
    assert all(check(conn).values())


def test_a_stopped_backfill_goes_on(conn: Conn) -> None:
    make(conn)

    def stop(progress: Any) -> None:
        if progress.done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mrl.backfill(conn, "docs", batch_size=50, on_progress=stop)
    assert mrl.backfill(conn, "docs").filled == 200
    assert conn.execute("SELECT current_setting('mrl.backfill', true)").fetchone() in [("",), (None,)]


def test_a_killed_backfill_beside_a_writer(dsn: str, conn: Conn) -> None:
    rows = vectors(3_000, FULL)
    make(conn, rows)
    environment = os.environ | {"MRL_PG_DSN": dsn, "PYTHONPATH": str(Path(__file__).parents[2])}
    backfill = [sys.executable, "-m", "mrl_pg", "backfill", "docs", "--batch-size", "100"]
    done, written = threading.Event(), {}

    def write() -> None:
        numbers = np.random.default_rng(1)
        with psycopg.connect(dsn, autocommit=True) as other:
            while not done.is_set():
                key = int(numbers.integers(0, 3_500))
                row = to_text(vectors(1, FULL, seed=int(numbers.integers(1, 10**6)))[0])
                other.execute(
                    "INSERT INTO docs (id, embedding) VALUES (%s, %s) "
                    "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding",
                    (key, row),
                )
                written[key] = row

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with subprocess.Popen([*backfill, "--sleep", "0.02"], env=environment) as first:
            while (mrl.status(conn)[0]["missing"] or 0) > 1_500:
                assert first.poll() is None, "the backfill ended before it could be killed"
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
        subprocess.run(backfill, env=environment, check=True, stdout=subprocess.DEVNULL)
    finally:
        done.set()
        writer.join()
    found = check(conn)
    assert all(found.values())
    assert set(found) == set(range(3_000)) | set(written)
    stored: dict[int, str] = dict(conn.execute("SELECT id, embedding::text FROM docs").fetchall())
    expected = {key: to_text(row) for key, row in enumerate(rows)} | written
    assert all(np.array_equal(parsed(stored[key]), parsed(expected[key])) for key in found)


# Searched ---------------------------------------------------------------------------------------------


def ready(conn: Conn, **options: Any) -> None:
    make(conn, **options)
    mrl.backfill(conn, "docs")
    mrl.create_index(conn, "docs")


@pytest.mark.parametrize("door", [d for n, d in DOORS.items() if n != "search_statement"], ids=lambda d: d.__name__)
def test_finds_the_nearest_rows(dsn: str, conn: Conn, door: Door) -> None:
    mrl_pg.basis._cache.clear()
    ready(conn)
    table = sa.Table("docs", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("lang", sa.Text))
    (query,) = vectors(1, FULL, seed=7)
    found = door(dsn, table, query, None, {"k": 10, "candidates": 100})
    assert found.keys == np.argsort(-(ROWS @ query))[:10].tolist()
    assert found.received == 100
    exact = door(dsn, table, query, None, {"k": 10, "exact": True})
    assert exact.keys == found.keys


def test_the_basis_is_fetched_once(conn: Conn) -> None:
    ready(conn)
    (identity,) = conn.execute("SELECT basis::text FROM mrl.prefixes").fetchone() or ()
    mrl_pg.basis._cache.clear()
    mrl.search(conn, "docs", ROWS[0])
    rows = cached(identity)
    mrl.search(conn, "docs", ROWS[1])
    assert cached(identity) is rows
    assert rows is not None
    assert not rows.flags.writeable


@pytest.mark.parametrize("change", ["another table takes the name", "the prefix is made again"])
def test_a_query_never_meets_another_basis(dsn: str, conn: Conn, change: str) -> None:
    """What a connection knows of a table may be a minute old, and both prefixes have the same name."""
    ready(conn)
    others = vectors(300, FULL, seed=11)[:, ::-1]  # whose directions are others
    query = ROWS[0] + others[0]
    table = sa.Table("docs", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("lang", sa.Text))
    model = mapped(table)
    with (
        psycopg.connect(dsn, autocommit=True) as autocommit,
        psycopg.connect(dsn) as transaction,
        engine(dsn).connect() as connection,
        orm.Session(engine(dsn)) as session,
    ):
        searches: list[Callable[[], Sequence[Any]]] = [
            lambda: mrl.search(autocommit, "docs", query, candidates=40),
            lambda: mrl.search(transaction, "docs", query, candidates=40),
            lambda: mrl.search_many(transaction, "docs", [-query, query], candidates=40)[1],
            lambda: search(connection, table, query, candidates=40),
            lambda: search_many(connection, table, [-query, query], candidates=40)[1],
            lambda: search(session, model, query, candidates=40),
        ]

        def found() -> list[list[int]]:
            keys = [[hit.key for hit in search()] for search in searches]
            for open_transaction in (transaction, connection, session):
                open_transaction.rollback()
            return keys

        assert found() == [np.argsort(-(ROWS @ query))[:10].tolist()] * len(searches)
        if change == "the prefix is made again":
            mrl.drop_prefix(conn, "docs", COLUMN)
            conn.execute("TRUNCATE docs; DELETE FROM mrl.bases")
            copy_in(conn, others)
            assert mrl.rotate(conn, "docs", dims=DIMS) == COLUMN
            mrl.backfill(conn, "docs")
            mrl.create_index(conn, "docs")
        else:
            conn.execute(f"CREATE TABLE next (id int PRIMARY KEY, lang text, embedding vector({FULL}))")
            copy_in(conn, others, "next")
            assert mrl.rotate(conn, "next", dims=DIMS) == COLUMN
            mrl.backfill(conn, "next")
            mrl.create_index(conn, "next")
            conn.execute("ALTER TABLE docs RENAME TO old; ALTER TABLE next RENAME TO docs")
        assert found() == [np.argsort(-(others @ query))[:10].tolist()] * len(searches)


def test_a_search_that_finds_nothing_looks_whether_the_basis_has_changed(conn: Conn) -> None:
    ready(conn)
    for _ in range(2):
        result = mrl.search(conn, "docs", ROWS[0], filter={"lang": "none"})
        assert (list(result), result.received) == ([], 0)


def test_a_search_uses_the_index(conn: Conn) -> None:
    make(conn, vectors(5_000, FULL))
    mrl.backfill(conn, "docs")
    mrl.create_index(conn, "docs")
    conn.execute("ANALYZE docs")
    (text,) = conn.execute("SELECT mrl.search_sql(NULL::docs, %s)", [to_text(ROWS[0])]).fetchone() or ()
    for statement in (text, mrl.search_sql(conn, "docs", ROWS[0])):
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {statement}"))
        assert f"Index Scan using docs_{COLUMN}_halfvec_cosine_ops_idx" in plan


def test_recall_on_real_vectors(conn: Conn, shared_data: Any) -> None:
    """128 rotated dimensions hand over what it takes 256 of the first for."""
    data = np.load(shared_data / "te3small_1536.npz")
    corpus, queries = (data[name].astype(np.float32) for name in ("corpus", "queries"))
    corpus, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (corpus, queries))
    conn.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(1536))")
    copy_in(conn, corpus)
    truth = np.argsort(-(queries @ corpus.T), axis=1)[:, :10]
    rotated = mrl.rotate(conn, "docs", dims=128)
    mrl.backfill(conn, "docs", prefix=rotated)
    mrl.add_prefix(conn, "docs", dims=256)
    mrl.backfill(conn, "docs", prefix="embedding_256")
    recall = {}
    for prefix in mrl.describe(conn, "docs").prefixes:
        basis = cached(prefix.basis) if prefix.basis else None
        stored = conn.execute(f"SELECT {prefix.prefix}::text FROM docs ORDER BY id").fetchall()
        short = np.stack([parsed(row[0]) for row in stored])
        asked = prefixes_of(queries, prefix, basis).astype(np.float32)
        candidates = np.argpartition(-(asked @ short.T), 50, axis=1)[:, :50]
        found = sum(len(set(c.tolist()) & set(t.tolist())) for c, t in zip(candidates, truth, strict=True))
        recall[prefix.prefix] = found / truth.size
    assert recall[rotated] >= recall["embedding_256"]


def test_roles_and_pgvector_out_of_sight(bare_dsn: str) -> None:
    """Who writes needs rights on the table alone, and not even USAGE on the schema of pgvector."""
    with psycopg.connect(bare_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA hidden; CREATE EXTENSION vector SCHEMA hidden; SET search_path = public, hidden")
        mrl.install(conn)
        make(conn)
        mrl.add_prefix(conn, "docs", dims=FULL, kind="binary")
        mrl.backfill(conn, "docs", prefix=COLUMN)
        mrl.create_index(conn, "docs", prefix=COLUMN)
        role = sql.Identifier(f"writer_of_{conn.info.dbname}")
        conn.execute(sql.SQL("CREATE ROLE {0}; GRANT SELECT, INSERT, UPDATE ON docs TO {0}; SET ROLE {0}").format(role))
        conn.execute("SET search_path = public")
        conn.execute("INSERT INTO docs (id, embedding) SELECT 1000, embedding FROM docs WHERE id = 1")
        filled = f"SELECT {COLUMN} IS NOT NULL, embedding_bit{FULL} IS NOT NULL FROM docs WHERE id = 1000"
        assert conn.execute(filled).fetchall() == [(True, True)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table bases"):
            conn.execute("DELETE FROM mrl.bases")
        conn.execute("RESET ROLE; SET search_path = public, hidden")
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA hidden TO {0}; SET ROLE {0}").format(role))
        assert {hit.key for hit in mrl.search(conn, "docs", ROWS[1], k=2)} == {1, 1000}
        found = "SELECT (hit).id FROM mrl.search(NULL::docs, %s, k => 2)"
        assert {row[0] for row in conn.execute(found, [to_text(ROWS[1])])} == {1, 1000}


# Never lost -------------------------------------------------------------------------------------------


def test_a_refit_is_a_new_version_beside_the_old(conn: Conn) -> None:
    ready(conn)
    assert mrl.rotate(conn, "docs", dims=DIMS, seed=1) == f"embedding_rot{DIMS}_v2"
    conn.execute("ALTER TABLE docs RENAME TO renamed")
    conn.execute("ALTER TABLE renamed RENAME embedding TO vec")
    assert mrl.rotate(conn, "renamed", "vec", dims=4) == "vec_rot4_v3"
    conn.execute("ALTER TABLE renamed RENAME vec TO embedding; ALTER TABLE renamed RENAME TO docs")
    mrl.backfill(conn, "docs", prefix=f"embedding_rot{DIMS}_v2")
    check(conn)
    assert all(check(conn, f"embedding_rot{DIMS}_v2").values())
    mrl.create_index(conn, "docs", prefix=f"embedding_rot{DIMS}_v2")
    mrl.drop_prefix(conn, "docs", COLUMN)
    assert mrl.search(conn, "docs", ROWS[9], k=1)[0].key == 9


def test_two_sessions_rotate_one_table(dsn: str, conn: Conn) -> None:
    make(conn)
    add = (
        "SELECT mrl.add_basis('docs', 'embedding', 'cosine', (SELECT rows FROM mrl.bases WHERE version = 1), 300, 0, 1)"
    )
    with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True) as second:
        first.execute(add)
        thread = in_thread(lambda: second.execute(add))
        wait_for_lock(conn, second.info.backend_pid)
        first.commit()
        thread.join()
    assert conn.execute("SELECT version FROM mrl.bases ORDER BY 1").fetchall() == [(1,), (2,), (3,)]


def test_a_basis_that_is_used_stays_as_it_is(conn: Conn) -> None:
    ready(conn)
    for statement, message in (
        ("DELETE FROM mrl.bases", f"basis is used by prefix public.docs.{COLUMN}"),
        ("TRUNCATE mrl.bases", f"basis is used by prefix public.docs.{COLUMN}"),
        ("UPDATE mrl.bases SET kept = 0", "a basis never changes"),
    ):
        with pytest.raises(psycopg.Error) as raised:
            conn.execute(statement)
        assert raised.value.diag.message_primary == message
        assert raised.value.diag.message_hint
    mrl.drop_prefix(conn, "docs", COLUMN)
    assert conn.execute("DELETE FROM mrl.bases").rowcount == 1


ADD = (
    "SELECT mrl.add_prefix('docs', 'embedding', 8, options => jsonb_build_object('kind', 'rotate', 'basis', %s::text))"
)


def unused(conn: Conn) -> str:
    """Returns a basis of docs that no prefix uses."""
    make(conn)
    mrl.drop_prefix(conn, "docs", COLUMN)
    ((basis,),) = conn.execute("SELECT id::text FROM mrl.bases").fetchall()
    return str(basis)


@pytest.mark.parametrize("statement", ["DELETE FROM mrl.bases", "TRUNCATE mrl.bases"])
def test_a_basis_stays_while_its_prefix_is_being_added(dsn: str, conn: Conn, statement: str) -> None:
    basis = unused(conn)
    failures: list[psycopg.Error] = []
    with psycopg.connect(dsn) as adding, psycopg.connect(dsn, autocommit=True) as deleting:

        def delete() -> None:
            try:
                deleting.execute(statement)
            except psycopg.Error as failure:
                failures.append(failure)

        adding.execute(ADD, [basis])
        thread = in_thread(delete)
        wait_for_lock(conn, deleting.info.backend_pid)
        adding.commit()
        thread.join()
    assert [failure.diag.message_primary for failure in failures] == [f"basis is used by prefix public.docs.{COLUMN}"]


def test_no_prefix_is_added_to_a_basis_that_is_being_deleted(dsn: str, conn: Conn) -> None:
    basis = unused(conn)
    failures: list[psycopg.Error] = []
    with psycopg.connect(dsn) as deleting, psycopg.connect(dsn, autocommit=True) as adding:

        def add() -> None:
            try:
                adding.execute(ADD, [basis])
            except psycopg.Error as failure:
                failures.append(failure)

        deleting.execute("DELETE FROM mrl.bases")
        thread = in_thread(add)
        wait_for_lock(conn, adding.info.backend_pid)
        deleting.commit()
        thread.join()
    assert [failure.diag.message_primary for failure in failures] == [f"basis {basis} does not exist"]


def test_a_basis_that_is_gone_all_the_same(conn: Conn) -> None:
    """As after one table was restored into another database."""
    ready(conn)
    conn.execute("SET session_replication_role = replica; DELETE FROM mrl.bases; RESET session_replication_role")
    mrl_pg.basis._cache.clear()
    conn.execute("INSERT INTO docs (id, embedding) VALUES (1000, %s)", [to_text(ROWS[0])])
    assert [(row["missing"], row["impossible"]) for row in mrl.status(conn)] == [(1, 1)]
    for use in (lambda: mrl.search(conn, "docs", ROWS[0]), lambda: mrl.backfill(conn, "docs")):
        with pytest.raises(SearchError, match=rf"basis .* of prefix {COLUMN} is not in mrl\.bases\. Restore"):
            use()
    with pytest.raises(psycopg.errors.UndefinedObject, match=r"is not in mrl\.bases"):
        conn.execute("SELECT * FROM mrl.search(NULL::docs, %s)", [to_text(ROWS[0])])
    assert mrl.search(conn, "docs", ROWS[0], exact=True, k=1)[0].key in (0, 1000)
    # What the message says helps.
    assert mrl.rotate(conn, "docs", dims=DIMS) == f"embedding_rot{DIMS}_v2"


def test_provenance_and_seed(conn: Conn) -> None:
    make(conn, model="m", seed=3)
    columns = "target, embedding, version, full_dims, dims, distance, model, sample, seed"
    told = ("public.docs", "embedding", 1, FULL, DIMS, "cosine", "m", 300, 3)
    assert conn.execute(f"SELECT {columns} FROM mrl.bases").fetchall() == [told]
    (kept,) = conn.execute("SELECT kept FROM mrl.bases").fetchone() or ()
    first = basis_in(conn)
    assert kept == pytest.approx(((ROWS @ first.T) ** 2).sum() / 300, abs=1e-5)
    for sample in (100, 100):
        mrl.rotate(conn, "docs", dims=DIMS, sample=sample, seed=5)
    second, third = (basis_in(conn, f"embedding_rot{DIMS}_v{n}") for n in (2, 3))
    assert np.array_equal(second, third)
    (sampled,) = conn.execute("SELECT sample FROM mrl.bases WHERE version = 2").fetchone() or ()
    assert 60 <= sampled <= 140


def test_the_model_is_that_of_the_other_prefixes(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({FULL}))")
    copy_in(conn, ROWS)
    mrl.add_prefix(conn, "docs", dims=4, model="m")
    mrl.rotate(conn, "docs", dims=DIMS)
    mrl.drop_prefix(conn, "docs", "embedding_4")
    known = "SELECT p.model, b.model FROM mrl.prefixes p JOIN mrl.bases b ON b.id = p.basis"
    assert conn.execute(known).fetchall() == [("m", "m")]
    # Its basis knows it even when no prefix is left.
    mrl.drop_prefix(conn, "docs", COLUMN)
    ((basis,),) = conn.execute("SELECT id::text FROM mrl.bases").fetchall()
    conn.execute(ADD, [basis])
    assert conn.execute(known).fetchall() == [("m", "m")]


def test_a_sample_as_small_as_can_be(conn: Conn) -> None:
    make(conn)
    for seed in range(10):
        mrl.rotate(conn, "docs", dims=DIMS, sample=DIMS, seed=seed)


def test_what_cannot_be(conn: Conn) -> None:
    make(conn)
    with pytest.raises(SpecError, match="a sample of 4 rows does not determine 8 dimensions"):
        mrl.rotate(conn, "docs", dims=8, sample=4)
    with pytest.raises(SpecError, match="dims must be between 1 and 31 to rotate 32 dimensions, not 32"):
        mrl.rotate(conn, "docs", dims=32)
    with pytest.raises(SpecError, match="dims must be between 1 and 4,000, not 4001"):
        mrl.rotate(conn, "docs", dims=4001, sample=5000)
    with pytest.raises(SpecError, match=r"learnt from rows that are there, and not declared\. Run: mrl-pg rotate"):
        mrl_pg.Matryoshka(full_dims=32, dims=8, kind="rotate")
    conn.execute(f"CREATE TABLE other (id int PRIMARY KEY, embedding vector({FULL}))")
    with pytest.raises(mrl_pg.MrlError, match="no row of other has an embedding"):
        mrl.rotate(conn, "other", dims=8)
    (basis,) = conn.execute("SELECT basis::text FROM mrl.prefixes").fetchone() or ()
    options = [{"kind": "rotate"}, {"kind": "binary", "basis": basis}, {"kind": "rotate", "basis": "x"}]
    options.append({"kind": "rotate", "basis": basis})
    messages = [
        "kind rotate needs a basis",
        "kind binary has no basis",
        "basis x does not exist",
        f"basis {basis} is of 8 dims of embedding of public.docs for cosine, "
        "not of 8 dims of embedding of public.other for cosine",
    ]
    for given, message in zip(options, messages, strict=True):
        with pytest.raises(psycopg.Error) as raised:
            conn.execute("SELECT mrl.add_prefix('other', 'embedding', 8, options => %s)", [json.dumps(given)])
        assert raised.value.diag.message_primary == message
    with pytest.raises(psycopg.Error, match=r"is of 8 dims .* not of 9 dims"):
        conn.execute("SELECT mrl.add_prefix('docs', 'embedding', 9, options => %s)", [json.dumps(options[-1])])


@pytest.mark.parametrize("change", ["RENAME TO renamed", "SET SCHEMA elsewhere", None])
def test_a_basis_of_another_table_that_was_renamed_or_dropped(conn: Conn, change: str | None) -> None:
    make(conn)
    conn.execute("CREATE SCHEMA elsewhere; CREATE TABLE other (LIKE docs INCLUDING ALL)")
    conn.execute(f"ALTER TABLE other DROP {COLUMN}")
    ((basis,),) = conn.execute("SELECT id::text FROM mrl.bases").fetchall()
    conn.execute(f"ALTER TABLE docs {change}" if change else "DROP TABLE docs")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"basis {basis} is of 8 dims of embedding of pub"):
        conn.execute(ADD.replace("'docs'", "'other'"), [basis])
    # To the table that has it already, whatever it is called now, nothing is added.
    for (table,) in conn.execute("SELECT target::text FROM mrl.prefixes").fetchall():
        assert conn.execute(ADD.replace("'docs'", f"'{table}'"), [basis]).fetchall() == [(COLUMN,)]


def test_a_busy_table_is_not_waited_for(dsn: str, conn: Conn) -> None:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, lang text, embedding vector({FULL}))")
    copy_in(conn, ROWS)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT count(*) FROM docs")
        with pytest.raises(mrl_pg.MrlError, match=r"docs was in use for 0\.1 s"):
            mrl.rotate(conn, "docs", dims=DIMS, lock_timeout=0.1)
    assert conn.execute("SELECT (SELECT count(*) FROM mrl.bases), (SELECT count(*) FROM mrl.prefixes)").fetchall() == [
        (0, 0)
    ]
    assert conn.execute("SHOW lock_timeout").fetchall() == [("0",)]
