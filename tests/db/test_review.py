"""Situations that once went wrong, each through the doors it went wrong through."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from pgvector.psycopg import register_vector

import mrl_pg.psycopg as mrl
from mrl_pg import MrlError, SearchError
from mrl_pg.backfill import BackfillProgress, next_size
from mrl_pg.vectors import to_text
from tests.conftest import Conn, vectors
from tests.db.conftest import FULL_DIMS, documents, fill
from tests.db.doors import DOORS, Door

ROWS = vectors(300, FULL_DIMS)


@pytest.mark.parametrize("name", DOORS)
def test_rows_without_a_prefix_are_no_hits(dsn: str, conn: Conn, name: str) -> None:
    """Also where the planner does without the HNSW index, and through exact search."""
    door: Door = DOORS[name]
    fill(dsn, documents(), ROWS)
    conn.execute("CREATE INDEX ON documents (lang)")
    conn.execute("INSERT INTO documents (id, lang) VALUES (1000, 'fr')")
    conn.execute("INSERT INTO documents (id, lang, embedding) VALUES (1001, 'fr', %s)", [[0.0] * FULL_DIMS])
    conn.execute("INSERT INTO documents (id, lang, embedding) VALUES (1002, 'fr', %s)", [ROWS[0].tolist()])
    for options in ({}, {"exact": True}):
        found = door(dsn, documents(), ROWS[1], "fr", options)
        assert found.keys == [1002]
        assert found.received in (1, None)


def test_the_index_is_built_on_the_table_that_is_meant(conn: Conn) -> None:
    conn.execute("CREATE SCHEMA app")
    for schema in ("public", "app"):
        conn.execute(f"CREATE TABLE {schema}.documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
        mrl.add_prefix(conn, (schema, "documents"), dims=8)
    conn.execute("SET search_path = app, public")
    mrl.create_index(conn, "public.documents")
    assert conn.execute("SELECT target::text, index IS NOT NULL FROM mrl.prefixes ORDER BY 1").fetchall() == [
        ("documents", False),
        ("public.documents", True),
    ]


def test_a_transaction_that_began_before_the_prefix_is_asked_to_retry(dsn: str, conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
    insert = "INSERT INTO documents VALUES (%s, %s)"
    with psycopg.connect(dsn) as early:
        early.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        early.execute("SELECT 1 FROM pg_class LIMIT 1")
        mrl.add_prefix(conn, "documents", dims=8)
        with pytest.raises(psycopg.errors.SerializationFailure, match="was added after this transaction began"):
            early.execute(insert, (1, to_text(ROWS[0])))
        early.rollback()
        early.execute("SELECT 1 FROM pg_class LIMIT 1")
        conn.execute("ALTER TABLE documents RENAME embedding TO e")
        conn.execute("ALTER TABLE documents RENAME embedding_8 TO p")
        early.execute(insert, (1, to_text(ROWS[0])))
        early.commit()
    assert conn.execute("SELECT count(p) FROM documents").fetchone() == (1,)


def test_nobody_elses_function_runs(conn: Conn) -> None:
    """Where others may create in the schema of pgvector, as in public before PostgreSQL 15."""
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
    mrl.add_prefix(conn, "documents", dims=8)
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_8', false)")
    conn.execute("CREATE TABLE public.trap (sprung text)")
    for arguments in ("text, name, name, regclass", "text, name, regclass", "text, text", "text, name"):
        conn.execute(
            f"CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE sql "
            "AS $$ INSERT INTO public.trap VALUES ('format') RETURNING 'x' $$"
        )
    conn.execute("SELECT * FROM mrl.status")
    conn.execute("SELECT * FROM mrl.search(NULL::documents, %s)", [to_text(ROWS[0])])
    mrl.drop_prefix(conn, "documents", "embedding_8")
    assert conn.execute("SELECT count(*) FROM public.trap").fetchone() == (0,)


def test_equality_of_a_type_from_elsewhere(conn: Conn) -> None:
    """As citext has it: an equality of its own, in the schema of the extension."""
    conn.execute(
        "CREATE SCHEMA ext; CREATE TYPE ext.loud; "
        "CREATE FUNCTION ext.loud_in(cstring) RETURNS ext.loud LANGUAGE internal IMMUTABLE STRICT AS 'textin'; "
        "CREATE FUNCTION ext.loud_out(ext.loud) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'; "
        "CREATE TYPE ext.loud (INPUT = ext.loud_in, OUTPUT = ext.loud_out, LIKE = text); "
        "CREATE CAST (ext.loud AS text) WITHOUT FUNCTION AS IMPLICIT"
    )
    for name, sign in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">")):
        conn.execute(
            f"CREATE FUNCTION ext.{name}(ext.loud, ext.loud) RETURNS boolean LANGUAGE sql IMMUTABLE "
            f"RETURN lower($1::text) {sign} lower($2::text)"
        )
        conn.execute(f"CREATE OPERATOR ext.{sign} (LEFTARG = ext.loud, RIGHTARG = ext.loud, FUNCTION = ext.{name})")
    conn.execute(
        "CREATE FUNCTION ext.cmp(ext.loud, ext.loud) RETURNS int LANGUAGE sql IMMUTABLE "
        "RETURN CASE WHEN ext.lt($1, $2) THEN -1 WHEN ext.gt($1, $2) THEN 1 ELSE 0 END"
    )
    conn.execute(
        "CREATE OPERATOR CLASS ext.loud_ops DEFAULT FOR TYPE ext.loud USING btree AS "
        "OPERATOR 1 ext.<, OPERATOR 2 ext.<=, "
        "OPERATOR 3 ext.=, OPERATOR 4 ext.>=, OPERATOR 5 ext.>, FUNCTION 1 ext.cmp(ext.loud, ext.loud)"
    )
    conn.execute(f"CREATE TABLE documents (id ext.loud PRIMARY KEY, name ext.loud, embedding vector({FULL_DIMS}))")
    mrl.add_prefix(conn, "documents", dims=8)
    conn.execute("INSERT INTO documents VALUES ('K', 'Anna', %s)", [to_text(ROWS[0])])
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_8', false)")
    for filter_json in ('{"name": "anna"}', '{"name": ["ANNA", "x"]}'):
        rows = conn.execute(
            "SELECT (hit).id::text FROM mrl.search(NULL::documents, %s, filter => %s)", (to_text(ROWS[1]), filter_json)
        ).fetchall()
        assert rows == [("K",)]


def test_many_rows_without_a_possible_prefix_do_not_block_the_index(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
    conn.execute("INSERT INTO documents SELECT n, %s FROM generate_series(1, 10001) n", [[0.0] * FULL_DIMS])
    mrl.add_prefix(conn, "documents", dims=8)
    (status,) = mrl.status(conn, "documents")
    assert (status["missing"], status["impossible"]) == (10_001, 10_001)
    conn.execute("INSERT INTO documents VALUES (0, %s)", [to_text(ROWS[0])])
    assert mrl.create_index(conn, "documents") == "documents_embedding_8_halfvec_cosine_ops_idx"


def test_backfill_under_serializable(dsn: str, conn: Conn) -> None:
    fill_without_prefix(conn)
    with psycopg.connect(dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        stop = threading.Event()

        def write() -> None:
            with psycopg.connect(dsn, autocommit=True) as writer:
                while not stop.is_set():
                    writer.execute("UPDATE documents SET lang = 'x' WHERE id %% 3 = 0 AND id < %s", (300,))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert mrl.backfill(other, "documents", batch_size=20).filled == 300
        finally:
            stop.set()
            thread.join()


def test_backfill_beside_an_index_holds_its_locks_briefly(conn: Conn) -> None:
    assert next_size(1_000, 5.0, 2_000) == 10
    assert next_size(10, 0.001, 2_000) == 20
    assert next_size(1_000, 0.01, 2_000) == 2_000
    assert next_size(1, 10.0, 2_000) == 1


def test_a_cancelled_batch_says_so(dsn: str, conn: Conn) -> None:
    fill_without_prefix(conn)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SET statement_timeout = '300ms'")

        def block(progress: BackfillProgress) -> None:
            if progress.done == 100:
                conn.execute("BEGIN; UPDATE documents SET lang = 'held' WHERE id = 150")

        with pytest.raises(MrlError, match=r"was cancelled \(canceling statement due to statement timeout\)"):
            mrl.backfill(other, "documents", batch_size=50, lock_timeout=5, on_progress=block)
    conn.rollback()


def test_adding_a_prefix_does_not_make_others_wait(dsn: str, conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM documents")
        began = time.monotonic()
        with pytest.raises(MrlError, match=r"documents was in use for 0\.2 s.*Run it again"):
            mrl.add_prefix(conn, "documents", dims=8, lock_timeout=0.2)
        assert time.monotonic() - began < 2
        reader.rollback()
    mrl.add_prefix(conn, "documents", dims=8)
    assert conn.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_a_vector_of_pgvectors_own_is_a_query(dsn: str, conn: Conn) -> None:
    """More like this row."""
    fill(dsn, documents(), ROWS)
    register_vector(conn)
    (stored,) = conn.execute("SELECT embedding FROM documents WHERE id = 5").fetchone() or (None,)
    assert stored is not None
    assert mrl.search(conn, "documents", stored, k=1)[0].key == 5


def test_arguments_of_the_wrong_kind(conn: Conn, dsn: str) -> None:
    fill(dsn, documents(), ROWS)
    with pytest.raises(SearchError, match=r"columns must be a sequence of names, not 'lang'\. Pass \['lang'\]\."):
        mrl.search(conn, "documents", ROWS[0], columns="lang")
    with pytest.raises(SearchError, match=r"filter must be a mapping of columns, not 'lang'\."):
        mrl.search(conn, "documents", ROWS[0], filter="lang")  # type: ignore[arg-type]


def fill_without_prefix(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, lang text, embedding vector({FULL_DIMS}))")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents (id, embedding) VALUES (%s, %s)", [(n, to_text(row)) for n, row in enumerate(ROWS)]
        )
    mrl.add_prefix(conn, "documents", dims=8)
