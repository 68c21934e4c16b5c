"""Operating points: measured, stored with their prefix, and used by searches with a recall."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

import mrl_pg.psycopg as mrl
from mrl_pg import EvaluationError, MrlError, SearchError
from mrl_pg.evaluate import Progress
from mrl_pg.sqlalchemy import search, search_many
from mrl_pg.tune import sentences
from mrl_pg.vectors import to_text
from tests.conftest import Conn, vectors
from tests.db.doors import engine

ROWS, FULL = 3_000, 64
CORPUS = vectors(ROWS, FULL)
ASKED = vectors(120, FULL, seed=1)
# Candidates, ef_search, recall and p50 by hand, in place of measurements.
BY_HAND = [(20, 40, 0.90, 1.0), (50, 60, 0.981, 2.0), (200, 200, 0.999, 4.0)]

POINTS = "SELECT p.prefix, o.candidates, o.recall FROM mrl.operating_points o JOIN mrl.prefixes p ON p.id = o.prefix_id"


def make(conn: Conn, table: str = "docs", rows: int = ROWS) -> None:
    conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, embedding vector({FULL}))")
    with conn.cursor().copy(f"COPY {table} (id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(CORPUS[:rows]):
            copy.write_row((n, to_text(row)))


def index(conn: Conn, dims: int, table: str = "docs") -> str:
    prefix = mrl.add_prefix(conn, table, dims=dims)
    mrl.backfill(conn, table, prefix=prefix)
    mrl.create_index(conn, table, prefix=prefix)
    return prefix


def store(
    conn: Conn, prefix: str, points: list[tuple[int, int, float, float]], k: int = 10, source: str = "queries"
) -> None:
    conn.cursor().executemany(
        "INSERT INTO mrl.operating_points (prefix_id, k, candidates, ef_search, target_recall, recall, recall_low, "
        "recall_high, p50_ms, p95_ms, rows, queries, source, versions) "
        "SELECT id, %s, %s, %s, 0.98, %s, 0.9, 1, %s, 9, 3000, 60, %s, '' FROM mrl.prefixes WHERE prefix = %s",
        [(k, *point, source, prefix) for point in points],
    )


def columns(conn: Conn) -> list[Any]:
    """Returns what a table of ours is made of: columns, triggers, indexes, and the bases there are."""
    live = "attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped"
    return [
        *conn.execute(f"SELECT attname FROM pg_attribute WHERE {live}"),
        *conn.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'docs'::regclass"),
        *conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'docs'::regclass"),
        *conn.execute("SELECT count(*) FROM mrl.bases"),
        *conn.execute("SELECT count(*) FROM mrl.operating_points"),
    ]


@pytest.fixture
def docs(conn: Conn) -> Conn:
    make(conn)
    return conn


@pytest.fixture
def indexed(docs: Conn) -> Conn:
    index(docs, 16)
    return docs


# Searches by recall -------------------------------------------------------------------------------------


def test_a_search_by_recall_uses_the_cheapest_point(indexed: Conn) -> None:
    store(indexed, "embedding_16", BY_HAND)
    for recall, candidates in [(0.5, 20), (0.9, 20), (0.95, 50), (0.98, 50), (0.99, 200)]:
        assert mrl.search(indexed, "docs", ASKED[0], recall=recall).requested == candidates
        (many,) = mrl.search_many(indexed, "docs", ASKED[:1], recall=recall)
        assert many.requested == candidates
        ((received,),) = indexed.execute(
            "SELECT DISTINCT received FROM mrl.search(NULL::docs, %s, options => %s)",
            [to_text(ASKED[0]), f'{{"recall": {recall}}}'],
        ).fetchall()
        assert received == candidates
    text = mrl.search_sql(indexed, "docs", ASKED[0], recall=0.95)
    assert text == mrl.search_sql(indexed, "docs", ASKED[0], candidates=50, ef_search=60)
    ((same,),) = indexed.execute(
        "SELECT mrl.search_sql(NULL::docs, q, options => '{\"recall\": 0.95}') = "
        "mrl.search_sql(NULL::docs, q, candidates => 50, options => '{\"ef_search\": 60}') "
        "FROM (SELECT %s::vector) AS asked (q)",
        [to_text(ASKED[0])],
    ).fetchall()
    assert same
    # Fewer rows than were measured: at least as well. More: not known.
    assert mrl.search(indexed, "docs", ASKED[0], k=5, recall=0.98).requested == 50
    with pytest.raises(SearchError, match=r"no operating point of docs reaches recall 0.98 for k = 11"):
        mrl.search(indexed, "docs", ASKED[0], k=11, recall=0.98)


def test_sqlalchemy_too(indexed: Conn, dsn: str) -> None:
    store(indexed, "embedding_16", BY_HAND)
    table = sa.Table("docs", sa.MetaData(), autoload_with=engine(dsn))
    with engine(dsn).connect() as connection:
        assert search(connection, table, ASKED[0], recall=0.98).requested == 50
        assert [found.requested for found in search_many(connection, table, ASKED[:2], recall=0.99)] == [200, 200]
        with pytest.raises(SearchError, match=r"measured: at most 0.9990 for k = 10 by embedding_16"):
            search(connection, table, ASKED[0], recall=1)


def test_of_several_prefixes_the_cheapest_or_the_one_named(indexed: Conn) -> None:
    store(indexed, "embedding_16", BY_HAND)
    index(indexed, 32)
    store(indexed, "embedding_32", [(30, 40, 0.985, 1.5)])
    options = '{"recall": 0.98}'
    statement = "SELECT mrl.search_sql(NULL::docs, %s, prefix => %s, options => %s) LIKE %s"
    for prefix, used in [(None, "embedding_32"), ("embedding_16", "embedding_16"), ("embedding_32", "embedding_32")]:
        assert f"{used}" in mrl.search_sql(indexed, "docs", ASKED[0], prefix=prefix, recall=0.98)
        called = [to_text(ASKED[0]), prefix, options, f"%ORDER BY {used} %"]
        assert indexed.execute(statement, called).fetchall() == [(True,)]
    # One that has no index any more serves nobody.
    indexed.execute("DROP INDEX docs_embedding_32_halfvec_cosine_ops_idx")
    with psycopg.connect(indexed.info.dsn, autocommit=True) as fresh:
        assert mrl.search(fresh, "docs", ASKED[0], recall=0.98).requested == 50


def test_points_of_another_embedding_do_not_serve(indexed: Conn) -> None:
    indexed.execute(f"ALTER TABLE docs ADD other vector({FULL}); UPDATE docs SET other = embedding")
    mrl.add_prefix(indexed, "docs", "other", dims=8)
    mrl.backfill(indexed, "docs", prefix="other_8")
    mrl.create_index(indexed, "docs", prefix="other_8")
    store(indexed, "other_8", BY_HAND)
    with pytest.raises(SearchError, match=r"reaches recall 0.98 for k = 10; measured: nothing. Run: mrl-pg tune docs"):
        mrl.search(indexed, "docs", ASKED[0], recall=0.98)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="measured: nothing"):
        indexed.execute("SELECT mrl.search_sql(NULL::docs, %s, options => '{\"recall\": 0.98}')", [to_text(ASKED[0])])
    assert mrl.search(indexed, "docs", ASKED[0], prefix="other_8", recall=0.98).requested == 50


def test_what_was_never_measured_is_named(indexed: Conn) -> None:
    store(indexed, "embedding_16", BY_HAND)
    store(indexed, "embedding_16", [(20, 40, 0.97, 1.0)], k=5, source="rows")
    message = (
        "no operating point of docs reaches recall 0.9995 for k = 10; "
        "measured: at most 0.9700 for k = 5 by embedding_16 with rows as queries, "
        "0.9990 for k = 10 by embedding_16 with queries"
    )
    with pytest.raises(SearchError) as python:
        mrl.search(indexed, "docs", ASKED[0], recall=0.9995)
    assert str(python.value) == f"{message}. Run: mrl-pg tune docs --recall 0.9995 --k 10"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as sql:
        indexed.execute("SELECT mrl.search_sql(NULL::docs, %s, options => '{\"recall\": 0.9995}')", [to_text(ASKED[0])])
    assert sql.value.diag.message_primary == message.replace("docs", "public.docs")
    assert sql.value.diag.message_hint == "Run: mrl-pg tune public.docs --recall 0.9995 --k 10"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 50}, "recall = 0.9 and candidates were given"),
        ({"ef_search": 50}, "recall = 0.9 and ef_search were given"),
        ({"stages": [("embedding_16", 50)]}, "recall = 0.9 and stages were given"),
        ({"exact": True}, "recall = 0.9 and exact were given"),
        ({"rerank": False}, "recall = 0.9 and no_rerank were given"),
    ],
)
def test_a_recall_goes_with_nothing_that_it_chooses(indexed: Conn, options: Any, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        mrl.search(indexed, "docs", ASKED[0], recall=0.9, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("candidates => 50, options => '{\"recall\": 0.9}'", "recall = 0.9 and candidates were given"),
        ('options => \'{"recall": 0.9, "ef_search": 50}\'', "recall = 0.9 and ef_search were given"),
        ('options => \'{"recall": 0.9, "stages": []}\'', "recall = 0.9 and stages were given"),
        ('options => \'{"recall": 0.9, "exact": true}\'', "recall = 0.9 and exact were given"),
        ('options => \'{"recall": 0.9, "rerank": false}\'', "recall = 0.9 and rerank = false were given"),
        ("options => '{\"recall\": 0}'", "recall must be above 0 and at most 1, not 0"),
        ("options => '{\"recall\": 1.5}'", "recall must be above 0 and at most 1, not 1.5"),
        ('options => \'{"recall": "high"}\'', 'recall must be above 0 and at most 1, not "high"'),
        ("options => '{\"recall\": null}'", "recall must be above 0 and at most 1, not null"),
    ],
)
def test_the_same_in_sql(indexed: Conn, call: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        indexed.execute(f"SELECT mrl.search_sql(NULL::docs, %s, {call})", [to_text(ASKED[0])])
    assert error.value.diag.message_primary == message


@pytest.mark.parametrize("recall", [0, -1, 1.01, float("nan"), "high"])
def test_a_recall_that_cannot_be(conn: Conn, recall: Any) -> None:
    with pytest.raises(SearchError, match="recall must be above 0 and at most 1, not"):
        mrl.tune(conn, "docs", recall=recall)
    with pytest.raises(SearchError, match="recall must be above 0 and at most 1, not"):
        mrl.search(conn, "docs", ASKED[0], recall=recall)


# What is stored -----------------------------------------------------------------------------------------


def test_points_follow_renames_and_serve_nobody_without_their_prefix(indexed: Conn) -> None:
    store(indexed, "embedding_16", BY_HAND)
    indexed.execute("ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME embedding_16 TO short")
    indexed.execute("CREATE SCHEMA app; ALTER TABLE papers SET SCHEMA app")
    assert mrl.search(indexed, "app.papers", ASKED[0], recall=0.98).requested == 50
    mrl.drop_prefix(indexed, "app.papers", "short")
    assert indexed.execute(POINTS).fetchall() == []
    # Another of the same spec is another prefix, of which nothing was measured.
    index(indexed, 16, "app.papers")
    with pytest.raises(SearchError, match="measured: nothing"):
        mrl.search(indexed, "app.papers", ASKED[0], recall=0.98)
    mrl.tune(indexed, "app.papers", ASKED, recall=0.9)
    assert indexed.execute("SELECT count(DISTINCT prefix_id) FROM mrl.operating_points").fetchall() == [(1,)]


def test_tune_measures_stores_and_search_uses_it(indexed: Conn) -> None:
    found = mrl.tune(indexed, "docs", ASKED, recall=0.9)
    assert (found.chosen_by, found.confirmed_by, found.rows, found.source, found.built) == (60, 60, ROWS, "queries", ())
    assert found.best is not None
    assert found.best.recall >= 0.9
    assert found.best.recall_low <= found.best.recall <= found.best.recall_high
    assert found.best == min((one for one in found.points if one.recall >= 0.9), key=lambda one: one.p50_ms)
    assert found.stored == len(indexed.execute(POINTS).fetchall()) > 0
    result = mrl.search(indexed, "docs", ASKED[0], recall=0.9)
    assert result.requested == found.best.candidates
    # The figures are those of the searches.
    exact = [{hit.key for hit in mrl.search(indexed, "docs", query, exact=True)} for query in ASKED]
    hits = [{hit.key for hit in mrl.search(indexed, "docs", query, recall=0.9)} for query in ASKED]
    recall = sum(len(a & b) for a, b in zip(exact, hits, strict=True)) / 10 / len(ASKED)
    assert found.best.recall == pytest.approx(recall, abs=0.04)
    (told, *_) = sentences(found)
    assert "embedding_16" in told or "Exact search is the answer" in told
    # Again replaces what was stored.
    again = mrl.tune(indexed, "docs", sample=50, recall=0.9, also=[0.5])
    assert again.source == "rows"
    assert all(one.target_recall == (0.9 if one.recall >= 0.9 else 0.5) for one in again.points)
    assert len(indexed.execute(POINTS).fetchall()) == again.stored
    assert mrl.tune(indexed, "docs", ASKED, recall=0.9, store=False).stored == 0
    assert len(indexed.execute(POINTS).fetchall()) == again.stored


def test_figures_of_a_table_that_changed_are_not_stored(dsn: str, indexed: Conn) -> None:
    stored = mrl.tune(indexed, "docs", ASKED, recall=0.9).stored
    before = indexed.execute(POINTS).fetchall()
    written: list[str] = []

    def write(now: Progress) -> None:
        if now.what == "choosing" and not written:
            written.append(now.what)
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("DELETE FROM docs WHERE id % 33 = 1")

    found = mrl.tune(indexed, "docs", ASKED, recall=0.9, on_progress=write)
    assert found.stored == 0 < stored
    assert indexed.execute(POINTS).fetchall() == before
    assert "rows of docs were written or deleted while it was measured" in found.notes[-2]
    assert found.notes[-1] == "So nothing was stored, and what was stored before stays."


def test_nothing_reaches_it(docs: Conn) -> None:
    index(docs, 1)
    found = mrl.tune(docs, "docs", ASKED, recall=1)
    assert found.best is None
    assert not found.exact_is_enough
    told = sentences(found)
    assert told[0].startswith("Nothing that was measured has a recall@10 of 1. Exact search takes ")
    assert told[1].startswith("The closest: embedding_1 with ")


def test_a_latency_that_only_exact_search_or_nobody_keeps(indexed: Conn) -> None:
    found = mrl.tune(indexed, "docs", ASKED, recall=0.9, latency_ms=10_000)
    assert found.exact_is_enough
    assert sentences(found)[0].startswith("Exact search is the answer: with 3,000 rows it takes")
    found = mrl.tune(indexed, "docs", ASKED, recall=0.9, latency_ms=0.001)
    assert (found.best, found.exact_is_enough) == (None, False)
    assert sentences(found)[1].startswith("The closest: embedding_16")


def test_a_small_table_gets_exact_search(conn: Conn) -> None:
    make(conn, rows=200)
    before = columns(conn)
    found = mrl.tune(conn, "docs", recall=0.9, build=True, dims=[16])
    assert found.exact_is_enough
    assert sentences(found)[0].startswith("Exact search is the answer: with 200 rows it takes")
    assert found.dropped == found.built != ()
    assert columns(conn) == before


# Built and dropped --------------------------------------------------------------------------------------


def test_build_keeps_the_recommended_prefix_only(docs: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_pg.tune.ABOUT_AS_FAST", 0)
    found = mrl.tune(docs, "docs", ASKED, recall=0.9, build=True, dims=[16, 32])
    assert found.best is not None
    assert len(found.built) == len(found.scanned) > 1
    assert set(found.built) - set(found.dropped) == {found.best.prefix}
    assert [status["prefix"] for status in mrl.status(docs, "docs")] == [found.best.prefix]
    ((bases,),) = docs.execute("SELECT count(*) FROM mrl.bases").fetchall()
    assert bases == (1 if "rot" in found.best.prefix else 0)
    assert {prefix for prefix, *_ in docs.execute(POINTS)} == {found.best.prefix}
    assert mrl.search(docs, "docs", ASKED[0], recall=0.9).requested == found.best.candidates
    assert found.as_dict()["best"]["prefix"] == found.best.prefix


class Stop(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("when", ["adding", "filling", "embedding_16: ", "choosing", "confirming"])
def test_stopped_anywhere_nothing_is_left(docs: Conn, when: str) -> None:
    before = columns(docs)
    seen = []

    def on_progress(now: Progress) -> None:
        # From a thread of its own an index build cannot be stopped; and before the first is added there is nothing.
        if now.what.startswith(when) and threading.current_thread() is threading.main_thread():
            seen.append(now)
            if when != "adding" or len(seen) == 2:
                raise Stop

    if when == "embedding_16: ":
        docs.execute("CREATE FUNCTION fail() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
        docs.execute(
            "CREATE EVENT TRIGGER fail ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION fail()"
        )
        with pytest.raises(psycopg.errors.RaiseException, match="no"):
            mrl.tune(docs, "docs", ASKED, recall=0.9, build=True, dims=[16])
    else:
        with pytest.raises(Stop):
            mrl.tune(docs, "docs", ASKED, recall=0.9, build=True, dims=[16], on_progress=on_progress)
    assert columns(docs) == before
    assert docs.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_prefixes_of_others_are_left_alone(indexed: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_pg.tune.ABOUT_AS_FAST", 0)
    found = mrl.tune(indexed, "docs", ASKED, recall=0.9, build=True, dims=[16], kinds=["truncate", "binary"])
    assert "embedding_16" not in found.built
    assert "embedding_16" in [status["prefix"] for status in mrl.status(indexed, "docs")]
    assert "embedding_16" in {one.prefix for one in found.points}


def test_on_a_connection_without_autocommit(docs: Conn, dsn: str) -> None:
    before = columns(docs)
    with psycopg.connect(dsn) as conn:
        found = mrl.tune(conn, "docs", ASKED, recall=0.9, build=True, dims=[16], kinds=["truncate"], latency_ms=10_000)
        conn.rollback()
    assert found.exact_is_enough
    assert columns(docs) == before


# Refused ------------------------------------------------------------------------------------------------


def test_the_vacuum_it_names_can_be_run(conn: Conn) -> None:
    make(conn, '"My docs"', rows=500)
    found = mrl.tune(conn, "My docs", ASKED, recall=0.5, build=True, kinds=["truncate"], dims=[32])
    (note,) = (one for one in found.notes if "VACUUM" in one)
    conn.execute(note[note.index("VACUUM") :])


def test_without_an_index(docs: Conn) -> None:
    with pytest.raises(EvaluationError, match=r"with an index. Run: mrl-pg tune docs --recall 0.9 --build"):
        mrl.tune(docs, "docs", ASKED, recall=0.9)
    with pytest.raises(EvaluationError, match="no kind and length reaches recall 1 in an exact scan"):
        mrl.tune(docs, "docs", ASKED, recall=1, build=True, dims=[1], kinds=["truncate"])


def test_bad_input(indexed: Conn) -> None:
    with pytest.raises(EvaluationError, match="k must be between 1 and"):
        mrl.tune(indexed, "docs", ASKED, recall=0.9, k=ROWS + 1)
    with pytest.raises(EvaluationError, match="one query cannot both choose and confirm"):
        mrl.tune(indexed, "docs", ASKED[:1], recall=0.9)
    with pytest.raises(EvaluationError, match="kind 'random' cannot be built here"):
        mrl.tune(indexed, "docs", ASKED, recall=0.9, kinds=["random"])
    with pytest.raises(SearchError, match="recall must be above 0 and at most 1, not 60"):
        mrl.tune(indexed, "docs", ASKED, recall=0.9, also=[60])
    with pytest.raises(MrlError, match="expected 64"):
        mrl.tune(indexed, "docs", ASKED[:, :8], recall=0.9)
    with pytest.raises(SearchError, match="table nowhere does not exist"):
        mrl.tune(indexed, "nowhere", ASKED, recall=0.9)
    indexed.execute(f"CREATE TABLE empty (id int PRIMARY KEY, embedding vector({FULL}))")
    with pytest.raises(MrlError, match="no row of empty has an embedding"):
        mrl.tune(indexed, "empty", recall=0.9)
    with psycopg.connect(indexed.info.dsn) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(MrlError, match="the connection is in a transaction"):
            mrl.tune(conn, "docs", ASKED, recall=0.9)


@pytest.fixture
def reader(indexed: Conn, dsn: str) -> Iterator[Conn]:
    """Somebody who may read the table, and no more."""
    role = f"reader_of_{indexed.info.dbname}"
    indexed.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON docs TO {role}")
    with psycopg.connect(make_conninfo(dsn, user=role), autocommit=True) as conn:
        yield conn


def test_without_permission(indexed: Conn, reader: Conn) -> None:
    role = reader.info.user
    with pytest.raises(MrlError, match=f"role {role} may not store operating points.* leave them with --no-store"):
        mrl.tune(reader, "docs", ASKED, recall=0.9)
    assert mrl.tune(reader, "docs", ASKED, recall=0.9, store=False).best
    with pytest.raises(MrlError, match=f"role {role} does not own docs"):
        mrl.tune(reader, "docs", ASKED, recall=0.9, store=False, build=True)
    indexed.execute(f"GRANT INSERT, DELETE ON mrl.operating_points TO {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT count(*) FROM mrl.operating_points; UPDATE mrl.operating_points SET recall = 1")
    assert mrl.tune(reader, "docs", ASKED, recall=0.9).stored
    assert mrl.search(reader, "docs", ASKED[0], recall=0.9)
    indexed.execute(f"ALTER TABLE docs OWNER TO {role}; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    before = columns(indexed)
    with pytest.raises(
        MrlError, match=rf"may not create an index in schema public.*GRANT CREATE ON SCHEMA public TO {role};"
    ):
        mrl.tune(reader, "docs", ASKED, recall=0.9, build=True)
    assert columns(indexed) == before
    indexed.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
    with pytest.raises(MrlError, match=f"role {role} may not store the bases of rotations"):
        mrl.tune(reader, "docs", ASKED, recall=0.9, build=True)
