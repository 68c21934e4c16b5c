"""Recorded queries: stored as they were searched for, never at the cost of the search, and replayed."""

from __future__ import annotations

import datetime
import threading
import time
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import mrl_pg.psycopg as mrl
from mrl_pg import EvaluationError, MrlError, SearchError
from mrl_pg.recording import draws, recorded_filter
from mrl_pg.sqlalchemy import search, search_async, search_many
from mrl_pg.tune import sentences
from mrl_pg.vectors import to_text
from tests.conftest import Conn, vectors
from tests.db.doors import async_url, engine, mapped

ROWS, FULL, DIMS = 300, 32, 8
CORPUS = vectors(ROWS, FULL)
ASKED = vectors(40, FULL, seed=1)
RECORDED = (
    "SELECT target, embedding, query::real[], k, filter, model FROM mrl.recorded_queries ORDER BY recorded_at, id"
)
COUNT = "SELECT count(*) FROM mrl.recorded_queries"
# As many rows as wanted, a microsecond apart from a day ago on, in one statement.
FILL = (
    "INSERT INTO mrl.recorded_queries (recorded_at, target, embedding, query, k) "
    "SELECT now() - interval '1 day' + n * interval '1 us', 'public.docs', 'embedding', %s, n "
    "FROM generate_series(%s::int, %s::int) n"
)


@pytest.fixture
def docs(conn: Conn) -> Conn:
    conn.execute(f"CREATE TABLE docs (id int PRIMARY KEY, lang text, made date, embedding vector({FULL}))")
    with conn.cursor().copy("COPY docs (id, lang, made, embedding) FROM STDIN") as copy:
        for n, row in enumerate(CORPUS):
            copy.write_row((n, "en", "2024-01-01", to_text(row)))
    mrl.add_prefix(conn, "docs", dims=DIMS, model="lab/small")
    mrl.backfill(conn, "docs")
    mrl.create_index(conn, "docs")
    return conn


@pytest.fixture
def table(docs: Conn, dsn: str) -> sa.Table:
    return sa.Table("docs", sa.MetaData(), autoload_with=engine(dsn))


def count(conn: Conn) -> int:
    ((found,),) = conn.execute(COUNT)
    return int(found)


# What is recorded ---------------------------------------------------------------------------------------


def test_what_is_stored(docs: Conn) -> None:
    mrl.search(docs, "docs", ASKED[0])
    mrl.search(docs, "docs", ASKED[0], record=0)
    assert count(docs) == 0
    under = {"lang": ("en", "de"), "made": datetime.date(2024, 1, 1), "id": Decimal(7)}
    plain = mrl.search(docs, "docs", ASKED[0], k=3)
    assert list(mrl.search(docs, "docs", ASKED[0], k=3, record=1)) == list(plain)
    mrl.search(docs, "docs", ASKED[1].tolist(), filter=under, record=1, model="small", exact=True)
    mrl.search_many(docs, "public.docs", ASKED[:3], k=2, record=1.0)
    rows = docs.execute(RECORDED).fetchall()
    assert [row[:2] for row in rows] == [("public.docs", "embedding")] * 5
    assert np.array_equal(np.array([row[2] for row in rows], np.float32), ASKED[[0, 1, 0, 1, 2]])
    assert [row[3:] for row in rows] == [
        (3, None, "lab/small"),
        (10, {"lang": ["en", "de"], "made": "2024-01-01", "id": "7"}, "small"),
        *[(2, None, "lab/small")] * 3,
    ]
    # mrl.search() in SQL takes the filter as it was recorded.
    again = docs.execute(
        "SELECT (hit).id FROM mrl.search(NULL::docs, %s, filter => %s)", (to_text(ASKED[1]), Jsonb(rows[1][4]))
    )
    assert again.fetchall() == [(7,)]


def test_a_share_of_the_searches(docs: Conn) -> None:
    mrl.search_many(docs, "docs", [ASKED[0]] * 1_000, k=1, record=0.2)
    assert 120 < count(docs) < 280  # six standard deviations
    assert draws(0.0, 5) == []
    assert draws(1, 3) == [0, 1, 2]


@pytest.mark.parametrize("record", [-0.1, 1.01, float("nan"), "often", None.__class__])
def test_a_probability_that_is_none(docs: Conn, table: sa.Table, dsn: str, record: Any) -> None:
    message = r"^record must be between 0 and 1, not .*: 0\.01 is one in a hundred\.$"
    with pytest.raises(SearchError, match=message):
        mrl.search(docs, "docs", ASKED[0], record=record)
    with pytest.raises(SearchError, match=message):
        mrl.search_many(docs, "docs", [], record=record)
    with engine(dsn).connect() as connection, pytest.raises(SearchError, match=message):
        search(connection, table, ASKED[0], record=record)


def test_a_search_that_fails_is_not_recorded(docs: Conn) -> None:
    with pytest.raises(SearchError):
        mrl.search(docs, "docs", ASKED[0], prefix="nothing", record=1)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        mrl.search(docs, "docs", ASKED[0], filter={"id": "x"}, record=1)
    assert count(docs) == 0


def test_filters_as_json() -> None:
    assert recorded_filter(None) is None
    assert recorded_filter({}) is None
    assert recorded_filter({"a": [float("inf"), True, None, 1.5], "b": {np.int64(3)}, "c": b"\0"}) == (
        '{"a": ["inf", true, null, 1.5], "b": ["3"], "c": "b\'\\\\x00\'"}'
    )


def test_sqlalchemy(docs: Conn, table: sa.Table, dsn: str) -> None:
    with engine(dsn).connect() as connection:
        search(connection, table, ASKED[0], k=3, filter=[table.c.lang == "en", table.c.id > 5], record=1)
        search_many(connection, table, ASKED[:2], record=1)
        connection.commit()
        search(connection, table, ASKED[0], record=1)
    with orm.Session(engine(dsn)) as session:
        assert len(search(session, mapped(table), ASKED[1], record=1)) == 10
        session.commit()
    with engine(dsn).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        search(connection, table, ASKED[2], record=1)
    rows = docs.execute(RECORDED).fetchall()
    assert np.array_equal(np.array([row[2] for row in rows], np.float32), ASKED[[0, 0, 1, 1, 2]])
    assert rows[0][3:] == (3, "docs.lang = :lang_1 AND docs.id > :id_1", "lab/small")
    assert {row[3:] for row in rows[1:]} == {(10, None, "lab/small")}


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_async(docs: Conn, table: sa.Table, dsn: str, driver: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert len(await mrl.search_async(conn, "docs", ASKED[0], record=1)) == 10
        await mrl.search_many_async(conn, "docs", ASKED[:2], record=1)
    pool = create_async_engine(async_url(dsn, driver), poolclass=sa.NullPool)
    async with AsyncSession(pool) as session:
        assert len(await search_async(session, mapped(table), ASKED[1], filter=table.c.id > 5, record=1)) == 10
        await session.commit()
    assert [row[3:] for row in docs.execute(RECORDED)] == [
        *[(10, None, "lab/small")] * 3,
        (10, "docs.id > :id_1", "lab/small"),
    ]


def test_sql(docs: Conn) -> None:
    query = to_text(ASKED[0])
    calls = [
        ("'docs', %s", True),
        ("'docs', %s, 5, '{\"lang\": \"en\"}', 'embedding', 'other'", True),
        ("'docs', %s, 0", False),
        ("'docs', %s, embedding => 'nothing'", False),
        ("'docs', '[1,2]'", False),
    ]
    for arguments, stored in calls:
        values = [query] if "%s" in arguments else []
        assert docs.execute(f"SELECT mrl.record_query({arguments})", values).fetchall() == [(stored,)]
    found = "SELECT count(*) FROM mrl.search(NULL::docs, %s, k => 4, filter => %s, options => %s)"
    for under, options in [
        ("{}", '{"record": 1}'),
        ('{"lang": "en"}', '{"record": 1, "exact": true}'),
        ("{}", '{"record": 0}'),
    ]:
        assert docs.execute(found, (query, under, options)).fetchall() == [(4,)]
    assert [row[3:] for row in docs.execute(RECORDED)] == [
        (10, None, "lab/small"),
        (5, {"lang": "en"}, "other"),
        (4, None, "lab/small"),
        (4, {"lang": "en"}, "lab/small"),
    ]
    for record in ("2", '"x"', "null"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"record must be between 0 and 1, not {record}"):
            docs.execute(found, (query, "{}", f'{{"record": {record}}}'))


# Never at the cost of the search ------------------------------------------------------------------------


def test_in_the_transaction_of_the_caller(docs: Conn, dsn: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as caller:
        caller.execute("UPDATE docs SET lang = 'de' WHERE id = 1; SET LOCAL lock_timeout = '7s'")
        mrl.search(caller, "docs", ASKED[0], record=1)
        assert caller.execute("SHOW lock_timeout").fetchone() == {"lock_timeout": "7s"}
        caller.rollback()
        assert count(docs) == 0
        mrl.search(caller, "docs", ASKED[0], record=1)
        caller.commit()
    assert count(docs) == 1


@pytest.mark.parametrize(
    "begin",
    ["BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE"],
)
def test_transactions_that_may_not_record(docs: Conn, dsn: str, table: sa.Table, begin: str) -> None:
    docs.execute(begin)
    assert len(mrl.search(docs, "docs", ASKED[0], record=1)) == 10
    options = "options => '{\"record\": 1}'"
    found = docs.execute(f"SELECT count(*) FROM mrl.search(NULL::docs, %s, {options})", [to_text(ASKED[0])])
    assert found.fetchall() == [(10,)]
    docs.execute("COMMIT")
    with engine(dsn).connect() as connection:
        connection.execute(sa.text(begin.replace("BEGIN", "SET TRANSACTION")))
        assert len(search(connection, table, ASKED[0], record=1)) == 10
        connection.commit()
    assert count(docs) == 0


LATER = {
    "no function": "DROP FUNCTION mrl.record_query",
    "no table": "DROP TABLE mrl.recorded_queries",
    "another function": "DROP FUNCTION mrl.record_query; CREATE FUNCTION mrl.record_query(int) RETURNS int RETURN 1",
    "not to be called": "REVOKE EXECUTE ON FUNCTION mrl.record_query FROM PUBLIC",
    "no schema": "REVOKE USAGE ON SCHEMA mrl FROM PUBLIC",
    "no room": "ALTER TABLE mrl.recorded_queries ADD CHECK (k > 99)",
}


@pytest.mark.parametrize("later", LATER.values(), ids=LATER.keys())
def test_what_is_missing_or_forbidden(docs: Conn, dsn: str, table: sa.Table, later: str) -> None:
    """Whatever changes after the connection has learnt what there is; in a transaction that goes on."""
    name = f"app_{docs.info.dbname}"
    docs.execute(
        f"CREATE ROLE {name} LOGIN; GRANT SELECT ON docs TO {name}; GRANT INSERT ON mrl.recorded_queries TO {name}"
    )
    try:
        theirs = make_conninfo(dsn, user=name)
        with psycopg.connect(theirs) as caller, engine(theirs).connect() as connection:
            for _ in range(2):
                assert len(mrl.search(caller, "docs", ASKED[0], record=1)) == 10
                assert len(search(connection, table, ASKED[0], record=1)) == 10
                assert caller.info.transaction_status == TransactionStatus.INTRANS
                caller.execute("SELECT 1")
                connection.execute(sa.text("SELECT 1"))
                caller.rollback()
                connection.rollback()
                docs.execute(later)
                later = "SELECT 1"
    finally:
        docs.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_rights(docs: Conn, dsn: str) -> None:
    name = f"reader_{docs.info.dbname}"
    docs.execute(f"CREATE ROLE {name} LOGIN; GRANT SELECT ON docs TO {name}")
    try:
        with psycopg.connect(make_conninfo(dsn, user=name), autocommit=True) as reader:
            assert len(mrl.search(reader, "docs", ASKED[0], record=1)) == 10
            assert count(docs) == 0
            docs.execute(f"GRANT INSERT ON mrl.recorded_queries TO {name}")
            assert len(mrl.search(reader, "docs", ASKED[0], record=1)) == 10
            assert count(docs) == 1
            # INSERT is enough, also to keep within the cap, and says nothing of what others searched for.
            reader.execute(FILL, (to_text(ASKED[0]), 1, 10_010))
            assert count(docs) == 10_000
            for statement in (COUNT, "DELETE FROM mrl.recorded_queries"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(statement)
            with pytest.raises(MrlError, match=rf"^{name} may not read .* GRANT SELECT ON mrl\.recorded_queries TO"):
                mrl.recorded_queries(reader, "docs")
            # Which is no reason to fail: there are rows.
            assert mrl.watch(reader, "docs", sample=5, store=False).source == "rows"
    finally:
        docs.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_more_rows_than_an_integer_holds(docs: Conn, table: sa.Table, dsn: str) -> None:
    with docs.transaction():
        assert len(mrl.search(docs, "docs", ASKED[0], exact=True, k=3_000_000_000, record=1)) > 10
        docs.execute("SELECT 1")
    with engine(dsn).begin() as connection:
        assert len(search(connection, table, ASKED[0], exact=True, k=3_000_000_000, record=1)) > 10
        connection.execute(sa.text("SELECT 1"))
    assert docs.execute("SELECT DISTINCT k FROM mrl.recorded_queries").fetchall() == [(2**31 - 1,)]
    assert count(docs) == 2


def test_a_cancel_is_not_swallowed(docs: Conn, dsn: str) -> None:
    slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(9); RETURN NEW; END'"
    docs.execute(slow)
    docs.execute("CREATE TRIGGER slow BEFORE INSERT ON mrl.recorded_queries FOR EACH ROW EXECUTE FUNCTION slow()")
    with psycopg.connect(dsn, autocommit=True) as caller:
        caller.execute("SET statement_timeout = '300ms'")
        # In autocommit the search is done and nobody's transaction goes with it.
        assert len(mrl.search(caller, "docs", ASKED[0], record=1)) == 10
        with pytest.raises(psycopg.errors.QueryCanceled), caller.transaction():
            mrl.search(caller, "docs", ASKED[0], record=1)
        options = "options => '{\"record\": 1}'"
        with pytest.raises(psycopg.errors.QueryCanceled):
            caller.execute(f"SELECT count(*) FROM mrl.search(NULL::docs, %s, {options})", [to_text(ASKED[0])])
    assert count(docs) == 0


def test_nobody_waits_for_a_lock(docs: Conn, dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE mrl.recorded_queries IN ACCESS EXCLUSIVE MODE")
        docs.execute("SET statement_timeout = '5s'")  # or who waits would do so for ever
        began = time.monotonic()
        with docs.transaction():
            assert len(mrl.search(docs, "docs", ASKED[0], record=1)) == 10
            docs.execute("SELECT 1")
        assert time.monotonic() - began < 2


def test_the_trigger_function_is_for_our_table_alone(docs: Conn) -> None:
    docs.execute(
        "CREATE TABLE other (target text, embedding text);"
        "CREATE TRIGGER t AFTER INSERT ON other REFERENCING NEW TABLE AS added "
        "FOR EACH STATEMENT EXECUTE FUNCTION mrl.keep_newest_queries()"
    )
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=r"for mrl\.recorded_queries alone"):
        docs.execute("INSERT INTO other VALUES ('a', 'b')")


# The cap ------------------------------------------------------------------------------------------------


def test_the_newest_are_kept(docs: Conn) -> None:
    query = to_text(ASKED[0])
    docs.execute(FILL.replace("'embedding'", "'other'"), (query, 1, 60))
    docs.execute(FILL, (query, 1, 10_050))
    kept = "SELECT embedding, count(*), min(k), max(k) FROM mrl.recorded_queries GROUP BY 1 ORDER BY 1"
    assert docs.execute(kept).fetchall() == [("embedding", 10_000, 51, 10_050), ("other", 60, 1, 60)]
    # One by one they are counted now and then: 1,000 times without it is as likely as 2e-9.
    docs.execute("SELECT count(*) FROM generate_series(1, 1000) WHERE mrl.record_query('docs', %s, 20000)", [query])
    rows = docs.execute(
        "SELECT count(*), count(*) FILTER (WHERE k = 20000), min(k) FROM mrl.recorded_queries "
        "WHERE embedding = 'embedding'"
    )
    ((found, new, oldest),) = rows.fetchall()
    assert new == 1_000
    assert 10_000 <= found < 11_000
    assert oldest == 10_050 - (found - new) + 1


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_recorders_do_not_wait_for_one_another(docs: Conn, dsn: str, level: str) -> None:
    """Both record and delete the oldest, in transactions that stay open."""
    query = to_text(ASKED[0])
    docs.execute(FILL, (query, 1, 10_000))
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        for caller in (one, other):
            caller.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            caller.execute("SET LOCAL statement_timeout = '10s'")
            assert caller.execute(COUNT).fetchall() == [(10_000,)]
        for caller in (one, other, one):
            caller.execute(FILL, (query, 10_001, 10_060))
        for _ in range(3):
            for caller in (one, other):
                assert len(mrl.search(caller, "docs", ASKED[0], record=1)) == 10
        one.commit()
        # Under REPEATABLE READ the oldest are gone meanwhile.
        other.execute(FILL, (query, 10_061, 10_120))
        other.commit()
    docs.execute(FILL, (query, 10_200, 10_260))
    assert count(docs) == 10_000


def test_many_at_a_time(docs: Conn, dsn: str) -> None:
    docs.execute(FILL, (to_text(ASKED[0]), 1, 10_000))
    errors: list[Exception] = []

    def record() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                for query in ASKED:
                    mrl.search(conn, "docs", query, k=77, record=1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    found = docs.execute(
        "SELECT count(*) FROM mrl.recorded_queries WHERE k = 77 AND recorded_at > now() - interval '1 hour'"
    )
    assert found.fetchall() == [(4 * len(ASKED),)]


# Replayed -----------------------------------------------------------------------------------------------


def test_read(docs: Conn, dsn: str) -> None:
    with pytest.raises(
        EvaluationError,
        match=r"no recorded query of embedding of docs to use: 0 recorded, 0 of them under a filter;",
    ):
        mrl.recorded_queries(docs, "docs")
    mrl.search(docs, "docs", ASKED[0], filter={"lang": "en"}, record=1)
    with pytest.raises(EvaluationError, match=r"docs to use: 1 recorded for lab/small, 1 of them under a filter;"):
        mrl.recorded_queries(docs, "docs")
    mrl.search_many(docs, "docs", ASKED[1:], record=1)
    # Of another model, and of another length from before the column was made anew.
    docs.execute("SELECT mrl.record_query('docs', %s, model => 'other')", [to_text(ASKED[0])])
    docs.execute(FILL, ("[1,2]", 1, 3))
    found = mrl.recorded_queries(docs, "docs")
    assert found.source == "recorded"
    assert found.embeddings is not None
    assert sorted(map(tuple, found.embeddings)) == sorted(map(tuple, ASKED[1:]))
    assert len(set(found.ids)) == len(found.ids)
    assert len(mrl.recorded_queries(docs, "docs", filtered=True).ids) == len(ASKED)
    assert mrl.recorded_queries(docs, "docs", sample=5).ids == found.ids[:5]
    assert mrl.recorded_queries(docs, "docs", sample=5, seed=1).ids != found.ids[:5]
    with pytest.raises(EvaluationError, match="sample must be at least 1, not 0"):
        mrl.recorded_queries(docs, "docs", sample=0)
    with pytest.raises(SearchError, match="table nothing does not exist"):
        mrl.recorded_queries(docs, "nothing")
    with psycopg.connect(dsn) as other:
        mrl.recorded_queries(other, "docs")
        assert other.info.transaction_status == TransactionStatus.IDLE


def test_watch_evaluate_and_tune(docs: Conn) -> None:
    mrl.search_many(docs, "docs", ASKED[:19], record=1)
    assert mrl.watch(docs, "docs", sample=30).source == "rows"  # 19 say little
    mrl.search_many(docs, "docs", ASKED[19:], record=1)
    watched = mrl.watch(docs, "docs", k=5, candidates=10)
    assert (watched.source, watched.sample) == ("recorded", len(ASKED))
    assert watched.before is None
    assert watched.found.recall.mean == pytest.approx(
        mrl.watch(docs, "docs", ASKED, k=5, candidates=10).found.recall.mean
    )
    assert mrl.watch(docs, "docs", recorded=True, sample=7, k=5, candidates=10).before is not None
    assert mrl.watch(docs, "docs", recorded=False, sample=5).source == "rows"
    sources = docs.execute("SELECT source FROM mrl.recall_history ORDER BY measured_at").fetchall()
    assert [source for (source,) in sources] == ["rows", "recorded", "queries", "recorded", "rows"]
    with pytest.raises(EvaluationError, match="queries and recorded=True were given"):
        mrl.watch(docs, "docs", ASKED, recorded=True)
    recorded = mrl.recorded_queries(docs, "docs")
    found = mrl.evaluate(docs, "docs", recorded, k=5, dims=[8], kinds=["truncate"], candidates=[10])
    assert found.queries == len(ASKED)
    assert "The queries are 40 recorded ones." in found.notes
    for queries, source in ((recorded, "recorded"), (ASKED, "queries"), (None, "rows")):
        tuned = mrl.tune(docs, "docs", queries, recall=0.5)
        assert (tuned.source, {one.source for one in tuned.points}) == (source, {source})
        assert docs.execute("SELECT DISTINCT source FROM mrl.operating_points").fetchall() == [(source,)]
        words = {"recorded": "recorded queries", "queries": "queries", "rows": "rows as queries"}[source]
        assert tuned.exact_is_enough or f" with {words}, half of the searches within " in sentences(tuned)[0]
        # Nothing was measured for so many rows.
        with pytest.raises(SearchError, match=rf"for k = 10 by embedding_8 with {words}\. Run"):
            mrl.search(docs, "docs", ASKED[0], k=11, recall=0.5)
    docs.execute("DELETE FROM mrl.recorded_queries")
    with pytest.raises(EvaluationError, match="0 recorded"):
        mrl.watch(docs, "docs", recorded=True)
