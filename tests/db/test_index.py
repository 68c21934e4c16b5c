"""Building the index of a prefix: refused, built, watched, interrupted, repaired, waited for."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import mrl_pg.psycopg as mrl
from mrl_pg import MrlError, SearchError, SpecError
from mrl_pg.psycopg.index import ALREADY_BUILT
from mrl_pg.vectors import to_text
from tests.conftest import Conn, FloatArray, vectors

FULL_DIMS, DIMS = 32, 8
INDEX = "documents_embedding_8_halfvec_cosine_ops_idx"


def make(conn: Conn, rows: FloatArray, table: str = "documents") -> None:
    """Creates a table whose rows have their prefix, without an index."""
    name = psycopg.sql.Identifier(table)
    conn.execute(
        psycopg.sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, embedding vector(32))").format(name),
    )
    mrl.add_prefix(conn, ("public", table), dims=DIMS)
    insert(conn, rows, table)


def insert(conn: Conn, rows: FloatArray, table: str = "documents", first: int = 0) -> None:
    copy_in = psycopg.sql.SQL("COPY {} (id, embedding) FROM STDIN").format(psycopg.sql.Identifier(table))
    with conn.cursor().copy(copy_in) as copy:
        for n, row in enumerate(rows, first):
            copy.write_row((n, to_text(row)))


def without_prefix(conn: Conn, rows: FloatArray) -> None:
    """Adds rows as they were before the prefix."""
    conn.execute("ALTER TABLE documents DISABLE TRIGGER USER")
    insert(conn, rows, first=1_000_000)
    conn.execute("ALTER TABLE documents ENABLE TRIGGER USER")


def indexes(conn: Conn) -> dict[str, bool]:
    """Returns the names of the HNSW indexes and whether they are valid."""
    return dict(
        conn.execute(
            "SELECT c.relname::text, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw'"
        ).fetchall()
    )


def invalidate(conn: Conn, index: str) -> None:
    """Marks an index as a failed build leaves it; a build that really fails is further down."""
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = quote_ident(%s)::regclass", (index,))
    assert indexes(conn) == {index: False}


def test_builds_and_serves(conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))
    with pytest.raises(SearchError, match=r"no valid index\. Run: mrl-pg index documents --prefix embedding_8$"):
        mrl.search(conn, "documents", vectors(1, FULL_DIMS)[0])
    assert mrl.create_index(conn, "documents") == INDEX
    assert indexes(conn) == {INDEX: True}
    assert len(mrl.search(conn, "documents", vectors(1, FULL_DIMS)[0])) == 10


def test_graph_is_in_the_name_and_the_definition(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    name = mrl.create_index(conn, "documents", m=8, ef_construction=100)
    assert name == "documents_embedding_8_halfvec_cosine_ops_m8_ef100_idx"
    (definition,) = conn.execute("SELECT pg_get_indexdef(%s::regclass)", (name,)).fetchone() or ()
    assert definition.endswith("(embedding_8 halfvec_cosine_ops) WITH (m='8', ef_construction='100')")
    assert mrl.create_index(conn, "documents") == INDEX  # another graph is another index


@pytest.mark.parametrize(("m", "ef_construction"), [(1, 64), (101, 1000), (16, 31), (16, 1001)])
def test_refuses_a_graph_that_cannot_be(conn: Conn, m: int, ef_construction: int) -> None:
    with pytest.raises(SpecError):
        mrl.create_index(conn, "documents", m=m, ef_construction=ef_construction)


def test_is_quick_where_the_index_is_there(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    mrl.create_index(conn, "documents")
    without_prefix(conn, vectors(3, FULL_DIMS))
    seen: list[tuple[str, int, int]] = []
    assert mrl.create_index(conn, "documents", on_progress=lambda *args: seen.append(args)) == INDEX
    assert seen == [(ALREADY_BUILT, 1, 1)]


def test_knows_its_index_after_the_table_is_renamed(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    mrl.create_index(conn, "documents")
    conn.execute("ALTER TABLE documents RENAME TO papers")
    assert mrl.create_index(conn, "papers") == INDEX
    assert indexes(conn) == {INDEX: True}


def test_refuses_while_rows_lack_their_prefix(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    without_prefix(conn, vectors(3, FULL_DIMS))
    with pytest.raises(MrlError) as refusal:
        mrl.create_index(conn, "documents")
    assert str(refusal.value) == (
        "3 of 53 rows of documents lack embedding_8, and filling it is slower with the index there. "
        "Run: mrl-pg backfill documents --prefix embedding_8"
    )
    assert mrl.create_index(conn, "documents", allow_missing=True) == INDEX


def test_rows_that_cannot_have_a_prefix_do_not_count(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    insert(conn, vectors(2, FULL_DIMS) * 0, first=50)
    assert mrl.create_index(conn, "documents") == INDEX


def test_several_prefixes_have_to_be_named(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    mrl.add_prefix(conn, "documents", dims=4)
    with pytest.raises(SearchError, match="several prefixes: embedding_8, embedding_4"):
        mrl.create_index(conn, "documents")
    with pytest.raises(MrlError, match=r"Run: mrl-pg backfill documents --prefix embedding_4$"):
        mrl.create_index(conn, "documents", prefix="embedding_4")
    assert mrl.create_index(conn, "documents", prefix="embedding_8") == INDEX


def test_outside_a_transaction_only(conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    with conn.transaction(), pytest.raises(MrlError, match="outside a transaction"):
        mrl.create_index(conn, "documents")
    with conn.transaction():
        mrl.create_index(conn, "documents", concurrently=False)
    assert indexes(conn) == {INDEX: True}


def test_the_connection_stays_its_users(dsn: str, conn: Conn) -> None:
    make(conn, vectors(50, FULL_DIMS))
    notices: list[str | None] = []
    with psycopg.connect(dsn, row_factory=dict_row) as own:
        own.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        mrl.create_index(own, "documents")  # type: ignore[arg-type, unused-ignore]
        assert not own.autocommit
        own.rollback()
    assert notices == []
    assert indexes(conn) == {INDEX: True}


@pytest.mark.parametrize("concurrently", [True, False])
def test_repairs_an_invalid_leftover(conn: Conn, concurrently: bool) -> None:
    make(conn, vectors(50, FULL_DIMS))
    invalidate(conn, mrl.create_index(conn, "documents"))
    assert mrl.create_index(conn, "documents", concurrently=concurrently) == INDEX
    assert indexes(conn) == {INDEX: True}


def test_names_that_need_quotes(conn: Conn) -> None:
    table = 'we"ird; drop table x 100%'
    make(conn, vectors(50, FULL_DIMS), table)
    name = mrl.create_index(conn, ("public", table))
    invalidate(conn, name)
    assert mrl.create_index(conn, ("public", table)) == name
    assert indexes(conn) == {name: True}


def blocked_build(
    dsn: str, during: Callable[[Conn], None], **options: Any
) -> tuple[list[tuple[str, int, int]], BaseException | None]:
    """Returns what was reported of a build that waits for a writer, and the error it ended with.

    ``during`` runs while it waits, with the writer's connection; the writer is gone afterwards.
    """
    seen: list[tuple[str, int, int]] = []
    error: BaseException | None = None

    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as builder:
        writer.execute("UPDATE documents SET id = id WHERE id = 0")

        def act() -> None:
            while not any(phase.startswith("waiting for writers before build (pid") for phase, _, _ in seen):
                time.sleep(0.01)
            during(writer)

        actor = threading.Thread(target=act)
        actor.start()
        try:
            mrl.create_index(builder, "documents", on_progress=lambda *args: seen.append(args), **options)
        except BaseException as raised:
            error = raised
        actor.join()
        assert builder.execute("SELECT current_setting('lock_timeout')").fetchone() == ("0",)
    return seen, error


def test_reports_its_progress(dsn: str, conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))
    seen, error = blocked_build(dsn, lambda writer: writer.commit())
    assert error is None
    assert (0, 1) in [(done, total) for phase, done, total in seen if phase.startswith("waiting for writers")]
    assert indexes(conn) == {INDEX: True}


def test_ctrl_c_leaves_nothing(dsn: str, conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))

    def interrupt(writer: Conn) -> None:
        _thread.interrupt_main()
        deadline = time.monotonic() + 30
        while conn.execute("SELECT FROM pg_stat_progress_create_index").fetchall() and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.commit()

    _, error = blocked_build(dsn, interrupt)
    assert isinstance(error, KeyboardInterrupt)
    assert indexes(conn) == {}


def test_what_ctrl_c_cannot_clear_away_the_next_build_does(dsn: str, conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))
    begun = time.monotonic()

    def interrupt(writer: Conn) -> None:
        _thread.interrupt_main()
        time.sleep(4)

    _, error = blocked_build(dsn, interrupt)
    assert isinstance(error, KeyboardInterrupt)
    assert time.monotonic() - begun < 6
    assert indexes(conn) == {INDEX: False}
    assert mrl.create_index(conn, "documents") == INDEX
    assert indexes(conn) == {INDEX: True}


def test_a_second_build_waits_for_the_first(dsn: str, conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))
    second: list[tuple[str, int, int]] = []

    def build_again(writer: Conn) -> None:
        def build() -> None:
            with psycopg.connect(dsn, autocommit=True) as other:
                mrl.create_index(other, "documents", on_progress=lambda *args: second.append(args))

        again = threading.Thread(target=build)
        again.start()
        waiting = "SELECT FROM pg_locks WHERE relation = 'documents'::regclass AND NOT granted"
        deadline = time.monotonic() + 30
        while not conn.execute(waiting).fetchall() and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.commit()
        again.join()

    _, error = blocked_build(dsn, build_again)
    assert error is None
    assert second == [(ALREADY_BUILT, 1, 1)]
    assert indexes(conn) == {INDEX: True}


def test_server_gone(dsn: str, conn: Conn) -> None:
    make(conn, vectors(500, FULL_DIMS))

    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as builder:
        writer.execute("UPDATE documents SET id = id WHERE id = 0")
        terminate = "SELECT pg_terminate_backend(%s)"
        timer = threading.Timer(0.5, conn.execute, (terminate, (builder.info.backend_pid,)))
        timer.start()
        with pytest.raises(psycopg.OperationalError):
            mrl.create_index(builder, "documents")
        timer.join()  # the builder may hear of its end before the timer's connection has its answer
    assert mrl.create_index(conn, "documents") == INDEX
    assert indexes(conn) == {INDEX: True}
