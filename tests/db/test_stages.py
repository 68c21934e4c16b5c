"""More stages than two, and fewer: funnels, and searches that rank by the prefix alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

import mrl_pg.psycopg as mrl
from mrl_pg import DimensionError, SearchError, Stage
from mrl_pg.sqlalchemy import search, search_statement
from mrl_pg.vectors import prefixes, to_text
from tests.conftest import Conn, FloatArray, vectors
from tests.db.conftest import DIMS, FULL_DIMS, ROWS, Prepared, documents, fill
from tests.db.doors import DOORS, Door, engine, mapped

QUERY = vectors(1, FULL_DIMS, seed=7)[0]
FIRST, SECOND, BITS = f"embedding_{DIMS}", f"embedding_{2 * DIMS}", f"embedding_bit{FULL_DIMS}"
FUNNEL = [Stage(FIRST, 400), Stage(SECOND, 40)]
TABLE = documents({"dims": 2 * DIMS}, {"dims": FULL_DIMS, "kind": "binary"})
# Rows enough for their index to be used, few enough for a scan of it to find what an exact one finds.
EFFORT: dict[str, Any] = {"ef_search": 1000}


def nearest(rows: FloatArray, among: Any, count: int, dims: int = FULL_DIMS) -> Any:
    """Returns the ids nearest to QUERY by the first dims, of those given."""
    short = prefixes(rows[among], dims, "cosine").astype(np.float64) if dims < FULL_DIMS else rows[among]
    query = prefixes(QUERY, dims, "cosine").astype(np.float64) if dims < FULL_DIMS else QUERY
    distance = 1 - short @ query / np.linalg.norm(short, axis=1) / np.linalg.norm(query)
    return np.asarray(among)[np.argsort(distance, kind="stable")[:count]]


def through(rows: FloatArray) -> Any:
    """Returns the ids that FUNNEL hands to its rerank."""
    return nearest(rows, nearest(rows, np.arange(len(rows)), 400, DIMS), 40, 2 * DIMS)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_funnel_hands_on_the_best_of_each_stage(prepared: Prepared, corpus: FloatArray, door: Door) -> None:
    found = door(prepared("funnel"), TABLE, QUERY, None, {"stages": FUNNEL, **EFFORT})
    assert found.keys == list(nearest(corpus, through(corpus), 10))
    assert found.received in (400, None)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_funnel_without_a_rerank_ranks_by_its_last_stage(prepared: Prepared, corpus: FloatArray, door: Door) -> None:
    found = door(prepared("funnel"), TABLE, QUERY, None, {"stages": FUNNEL, "rerank": False, **EFFORT})
    assert found.keys == list(through(corpus)[:10])


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_one_stage_ranks_by_the_prefix(prepared: Prepared, corpus: FloatArray, door: Door) -> None:
    found = door(prepared("funnel"), TABLE, QUERY, None, {"rerank": False, "prefix": SECOND, **EFFORT})
    expected = nearest(corpus, np.arange(ROWS), 10, 2 * DIMS)
    assert found.keys == list(expected)
    short = prefixes(corpus[expected], 2 * DIMS, "cosine") @ prefixes(QUERY, 2 * DIMS, "cosine").astype(np.float64)
    np.testing.assert_allclose(found.distances, 1 - short, atol=2e-3)
    assert found.received in (10, None)


def test_one_stage_over_bits_has_hamming_distances(prepared: Prepared, corpus: FloatArray) -> None:
    options = {"rerank": False, "prefix": BITS, "candidates": 100, **EFFORT}
    found = DOORS["psycopg"](prepared("funnel"), TABLE, QUERY, None, options)
    different = ((corpus > 0) != (QUERY > 0)).sum(axis=1)
    assert found.distances == [float(different[key]) for key in found.keys]
    assert found.distances == sorted(different)[:10]


def test_a_rotated_prefix_starts_a_funnel(conn: Conn) -> None:
    rows = vectors(2000, FULL_DIMS)
    fill(conn.info.dsn, documents(), rows)
    column = mrl.rotate(conn, "documents", dims=8)
    mrl.backfill(conn, "documents", prefix=column)
    mrl.create_index(conn, "documents", prefix=column)
    stages = [Stage(column, 2000), Stage(f"embedding_{DIMS}", 2000)]
    exact = mrl.search(conn, "documents", QUERY, exact=True)
    found = mrl.search(conn, "documents", QUERY, stages=stages, **EFFORT)
    assert [hit.key for hit in found] == [hit.key for hit in exact]
    sent = Jsonb({"stages": [stage._asdict() for stage in stages], **EFFORT})
    ids = conn.execute(
        "SELECT (hit).id FROM mrl.search(NULL::documents, %s, options => %s)", (to_text(QUERY), sent)
    ).fetchall()
    assert [key for (key,) in ids] == [hit.key for hit in exact]
    # The other way round, so that the rotation is made of rows that lack it.
    conn.execute(f"ALTER TABLE documents DISABLE TRIGGER ALL; UPDATE documents SET {column} = NULL")
    found = mrl.search(conn, "documents", QUERY, stages=[(f"embedding_{DIMS}", 2000), (column, 20)], **EFFORT)
    assert found[0].key == exact[0].key


def test_a_row_that_waits_for_a_later_prefix_is_not_lost(conn: Conn, corpus: FloatArray) -> None:
    fill(conn.info.dsn, TABLE, corpus)
    best = int(nearest(corpus, through(corpus), 1)[0])
    conn.execute("ALTER TABLE documents DISABLE TRIGGER ALL")
    conn.execute(f"UPDATE documents SET {SECOND} = NULL WHERE id = %s", (best,))
    for door in ("psycopg", "psycopg search_many", "session", "mrl.search"):
        found = DOORS[door](conn.info.dsn, TABLE, QUERY, None, {"stages": FUNNEL, **EFFORT})
        assert found.keys == list(nearest(corpus, through(corpus), 10)), door


def test_a_filter_belongs_to_the_first_stage(prepared: Prepared, corpus: FloatArray) -> None:
    german = np.arange(0, ROWS, 100)
    for door in ("psycopg", "psycopg search_many", "connection", "mrl.search"):
        stages = [Stage(FIRST, 60), Stage(SECOND, 30)]
        found = DOORS[door](prepared("funnel"), TABLE, QUERY, "de", {"stages": stages, **EFFORT})
        expected = nearest(corpus, nearest(corpus, german, 30, 2 * DIMS), 10)
        assert (found.keys, found.received) == (list(expected), 60)


def plan_of(conn: Conn, statement: str) -> str:
    return "\n".join(row[0] for row in conn.execute(f"EXPLAIN (VERBOSE) {statement}"))


def statements_of(conn: Conn, **options: Any) -> list[str]:
    """Returns the statement of a search from Python and from SQL."""
    sent = dict(options)
    if "stages" in sent:
        sent["stages"] = [stage._asdict() for stage in sent["stages"]]
    call = "SELECT mrl.search_sql(NULL::documents, %s, options => %s)"
    ((text,),) = conn.execute(call, (to_text(QUERY), Jsonb(sent))).fetchall()
    return [mrl.search_sql(conn, "documents", QUERY, **options), text]


def test_the_index_serves_the_first_stage_alone(prepared: Prepared) -> None:
    with psycopg.connect(prepared("funnel"), autocommit=True) as conn:
        for options in ({"stages": FUNNEL}, {"rerank": False}):
            for statement in statements_of(conn, **options):
                plan = plan_of(conn, statement)
                assert f"Index Scan using documents_{FIRST}_halfvec_cosine_ops_idx" in plan
                assert "Seq Scan" not in plan
        with engine(prepared("funnel")).connect() as connection:
            made = search_statement(mapped(TABLE), QUERY, stages=FUNNEL)
            text = made.compile(connection, compile_kwargs={"literal_binds": True})
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {text}").scalars())
        assert f"Index Scan using documents_{FIRST}_halfvec_cosine_ops_idx" in plan


def test_one_stage_reads_no_full_embedding(prepared: Prepared) -> None:
    with psycopg.connect(prepared("funnel"), autocommit=True) as conn:
        python, sql = statements_of(conn, rerank=False)
        python = mrl.search_sql(conn, "documents", QUERY, rerank=False, columns=["lang"])
        assert not re.search(r"\bembedding\b", python)
        assert not re.search(r"\bembedding\b", sql)


def test_settings_are_given_back(prepared: Prepared) -> None:
    with psycopg.connect(prepared("funnel")) as conn:
        conn.execute("SET LOCAL hnsw.ef_search = 77")
        for options in ({"stages": FUNNEL}, {"rerank": False}):
            mrl.search(conn, "documents", QUERY, **options)
            assert conn.execute("SHOW hnsw.ef_search").fetchall() == [("77",)]
            conn.execute(statements_of(conn, **options)[1])
            assert conn.execute("SHOW hnsw.ef_search").fetchall() == [("77",)]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stages": [Stage(FIRST, 5)]}, "hand over 5 rows for k = 10"),
    ({"stages": [Stage(FIRST, 50), Stage(SECOND, 60)]}, "hand over 50, 60 rows for k = 10"),
    ({"stages": [Stage(FIRST, 100)], "candidates": 100}, "and stages were given"),
    ({"stages": [Stage(FIRST, 100)], "prefix": FIRST}, "and stages were given"),
    ({"stages": [Stage(FIRST, 100)], "exact": True}, "exact"),
    ({"rerank": False, "exact": True}, "exact search"),
    ({"stages": [Stage("embedding_4", 100)]}, "has no prefix"),
    ({"stages": [Stage(FIRST, 100), Stage("other_8", 50)]}, "is a prefix of"),
    ({"stages": [Stage(FIRST, 100), Stage("title; DROP", 50)]}, "has no prefix"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_stages_that_cannot_be(conn: Conn, options: dict[str, Any], message: str) -> None:
    fill(conn.info.dsn, TABLE, vectors(50, FULL_DIMS))
    conn.execute("ALTER TABLE documents ADD other vector(16)")
    mrl.add_prefix(conn, "documents", "other", dims=8)
    with pytest.raises(SearchError, match=re.escape(message)):
        mrl.search(conn, "documents", QUERY, **options)
    for door in ("connection", "mrl.search"):
        with pytest.raises((SearchError, psycopg.Error), match=re.escape(message)):
            DOORS[door](conn.info.dsn, TABLE, QUERY, None, options)


@pytest.mark.parametrize("stages", ["x", [("a",)], [("a", "b")], [("a", 1.5)], 7])
def test_what_is_no_stage(prepared: Prepared, stages: Any) -> None:
    with psycopg.connect(prepared("funnel"), autocommit=True) as conn:
        with pytest.raises(SearchError, match=r"stages must be pairs|must be a whole number"):
            mrl.search(conn, "documents", QUERY, stages=stages)
        with pytest.raises(psycopg.Error, match="stages must be prefixes with their candidates"):
            conn.execute(
                "SELECT mrl.search(NULL::documents, %s, options => %s)", (to_text(QUERY), Jsonb({"stages": stages}))
            )


def test_a_query_of_another_model_is_refused(conn: Conn) -> None:
    table = documents(model="acme/small-3")
    fill(conn.info.dsn, table, vectors(50, FULL_DIMS))
    for model in ("acme/small-3", "small-3", None):
        assert len(mrl.search(conn, "documents", QUERY, model=model)) == 10
    message = "holds embeddings of acme/small-3, and a query of acme/large-3 does not compare with them"
    for door in DOORS.values():
        with pytest.raises((SearchError, psycopg.Error), match=message):
            door(conn.info.dsn, table, QUERY, None, {"model": "acme/large-3"})
    with pytest.raises(DimensionError, match=r"query has 3 dimensions, expected 64\. Embed it with acme/small-3"):
        mrl.search(conn, "documents", [1, 2, 3])


def test_any_prefix_of_the_embedding_knows_its_model(conn: Conn) -> None:
    fill(conn.info.dsn, documents(), vectors(50, FULL_DIMS))
    mrl.add_prefix(conn, "documents", dims=8, model="small-3")
    mrl.backfill(conn, "documents", prefix="embedding_8")
    # The one that serves was told none.
    search = "SELECT * FROM mrl.search(NULL::documents, %s, options => %s)"
    stages = [{"prefix": f"embedding_{dims}", "candidates": 20} for dims in (DIMS, 8)]
    for options in ({}, {"stages": stages}, {"exact": True}):
        assert len(conn.execute(search, (to_text(QUERY), Jsonb(options | {"model": "x/small-3"}))).fetchall()) == 10
        with pytest.raises(psycopg.Error, match="holds embeddings of small-3, and a query of large-3 does not compare"):
            conn.execute(search, (to_text(QUERY), Jsonb(options | {"model": "large-3"})))


def test_embeddings_of_two_models_do_not_share_a_column(conn: Conn) -> None:
    fill(conn.info.dsn, documents(model="small-3"), vectors(50, FULL_DIMS))
    message = "embedding of public.documents holds embeddings of small-3, and those of large-3 do not compare with them"
    with pytest.raises(psycopg.Error, match=message):
        mrl.add_prefix(conn, "documents", dims=8, model="large-3")
    with pytest.raises(psycopg.Error, match=message):
        mrl.rotate(conn, "documents", dims=8, model="large-3")
    # Nothing is left of the fit.
    assert conn.execute("SELECT count(*) FROM mrl.bases").fetchall() == [(0,)]
    mrl.add_prefix(conn, "documents", dims=8, model="acme/small-3")


def test_a_short_query_serves_the_first_stage_beside_the_full_one(prepared: Prepared) -> None:
    short = QUERY[:DIMS] / np.linalg.norm(QUERY[:DIMS])
    with psycopg.connect(prepared("funnel"), autocommit=True) as conn:
        plain = mrl.search(conn, "documents", QUERY, k=5)
        given = mrl.search(conn, "documents", QUERY, k=5, prefix_query=short)
        assert [hit.key for hit in given] == [hit.key for hit in plain]
        other = mrl.search(conn, "documents", QUERY, k=5, prefix_query=-short)
        assert [hit.key for hit in other] != [hit.key for hit in plain]
        with pytest.raises(DimensionError, match=f"query has {DIMS} dimensions, expected {FULL_DIMS}"):
            mrl.search(conn, "documents", short)
        with pytest.raises(DimensionError, match=f"prefix_query has 3 dimensions, expected {DIMS}"):
            mrl.search(conn, "documents", QUERY, prefix_query=[1, 2, 3])
        with pytest.raises(SearchError, match="is of kind binary"):
            mrl.search(conn, "documents", QUERY, prefix=BITS, prefix_query=QUERY)
    with engine(prepared("funnel")).connect() as connection:
        found = search(connection, TABLE, QUERY, k=5, prefix_query=short)
        assert [hit.key for hit in found] == [hit.key for hit in plain]
