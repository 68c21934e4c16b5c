"""Every shape of statement is planned with the index it is made for, and leaves no setting changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import NULLTYPE

import mrl_pg.psycopg as mrl
from mrl_pg import SearchError, statements
from mrl_pg.psycopg.run import compiled
from mrl_pg.registry import Target, choose_prefix
from mrl_pg.search import search_plan
from mrl_pg.spec import OPERATOR_CLASSES, Distance
from mrl_pg.sqlalchemy import search, search_statement
from mrl_pg.vectors import prefixes, to_text
from tests.conftest import vectors
from tests.db.conftest import DIMS, FULL_DIMS, Prepared, documents, fill
from tests.db.doors import DOORS, engine, mapped

INDEX = f"documents_embedding_{DIMS}_halfvec_cosine_ops_idx"
QUERY = vectors(1, FULL_DIMS, seed=7)[0]
TEXTS = {"query": to_text(QUERY), "prefix_0": to_text(prefixes(QUERY, DIMS, "cosine"))}


def single(target: Target, **options: Any) -> sa.Select[Any]:
    """Returns the statement of one search; ``shape`` is that of its filter."""
    table, key = statements.table(target)
    shape = options.pop("shape", ())
    return statements.search(
        table,
        key,
        (choose_prefix(target, None),),
        search_plan(**options),
        query=sa.bindparam("query", type_=NULLTYPE),
        prefix_queries=[sa.bindparam("prefix_0", type_=NULLTYPE)],
        columns=[table.c.lang],
        where=statements.filter_conditions(target, table, shape),
    )


def many(target: Target, **options: Any) -> sa.Select[Any]:
    """Returns the statement of a batch of searches; ``shape`` is that of its filter."""
    table, key = statements.table(target)
    shape = options.pop("shape", ())
    return statements.search_many(
        table,
        key,
        (choose_prefix(target, None),),
        search_plan(),
        queries=sa.bindparam("queries", type_=ARRAY(sa.Text)),
        prefix_queries=[sa.bindparam("prefixes_0", type_=ARRAY(sa.Text))],
        columns=[table.c.lang],
        where=statements.filter_conditions(target, table, shape),
    )


MANY = {"queries": [TEXTS["query"]] * 2, "prefixes_0": [TEXTS["prefix_0"]] * 2}
SHAPES: dict[str, tuple[Callable[[Target], sa.Select[Any]], dict[str, Any]]] = {
    "plain": (single, TEXTS),
    "many candidates": (lambda target: single(target, candidates=400), TEXTS),
    "equal": (lambda target: single(target, shape=(("lang", "equal"),)), TEXTS | {"filter_0": "en"}),
    "any": (lambda target: single(target, shape=(("lang", "any"),)), TEXTS | {"filter_0": ["en", "fr"]}),
    "any or null": (lambda target: single(target, shape=(("lang", "any or null"),)), TEXTS | {"filter_0": ["en"]}),
    "search_many": (many, MANY),
    "search_many equal": (lambda target: many(target, shape=(("lang", "equal"),)), MANY | {"filter_0": "en"}),
}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_search_uses_the_prefix_index(prepared: Prepared, shape: str, mode: str) -> None:
    build, values = SHAPES[shape]
    with psycopg.connect(prepared("plain"), autocommit=True) as conn:
        conn.execute("SELECT set_config('plan_cache_mode', %s, false)", (mode,))
        text = compiled(build(mrl.describe(conn, "documents")))
        for n, name in enumerate(values, start=1):
            text = text.replace(f"%({name})s", f"${n}")
        conn.execute(f"PREPARE searching AS {text}")
        arguments = psycopg.sql.SQL(", ").join(map(psycopg.sql.Literal, values.values()))
        rows = conn.execute(psycopg.sql.SQL("EXPLAIN (VERBOSE) EXECUTE searching ({})").format(arguments)).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert ("$1" in plan) == (mode == "force_generic_plan")
    assert f"Index Scan using {INDEX}" in plan
    # The rows found join back by their key; a batch of them may do so by a hash.
    assert ("Index Scan using documents_pkey" in plan) or "many" in shape


@pytest.mark.parametrize("distance", ["l2", "inner_product"])
def test_every_distance_uses_its_index(prepared: Prepared, distance: Distance) -> None:
    index = f"documents_embedding_{DIMS}_{OPERATOR_CLASSES[distance]}_idx"
    with psycopg.connect(prepared(distance), autocommit=True) as conn:
        ((text,),) = conn.execute("SELECT mrl.search_sql(NULL::documents, %s)", (TEXTS["query"],)).fetchall()
        for statement in (mrl.search_sql(conn, "documents", QUERY), text):
            plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {statement}"))
            assert f"Index Scan using {index}" in plan


def test_a_composite_key_uses_its_index(conn: psycopg.Connection[Any]) -> None:
    conn.execute(f"CREATE TABLE docs (tenant int, id int, embedding vector({FULL_DIMS}), PRIMARY KEY (tenant, id))")
    mrl.add_prefix(conn, "docs", dims=DIMS)
    with conn.cursor().copy("COPY docs (tenant, id, embedding) FROM STDIN") as copy:
        for n, row in enumerate(vectors(3000, FULL_DIMS)):
            copy.write_row((n % 7, n, to_text(row)))
    mrl.create_index(conn, "docs")
    conn.execute("ANALYZE docs")
    ((text,),) = conn.execute("SELECT mrl.search_sql(NULL::docs, %s)", (TEXTS["query"],)).fetchall()
    for statement in (mrl.search_sql(conn, "docs", QUERY, columns=["id"]), text):
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {statement}"))
        assert f"Index Scan using docs_embedding_{DIMS}_halfvec_cosine_ops_idx" in plan
        assert "using docs_pkey on docs" in plan


def test_the_statement_of_a_model_uses_the_prefix_index(prepared: Prepared) -> None:
    statement = search_statement(mapped(documents()), QUERY, k=5)
    with engine(prepared("plain")).connect() as conn:
        text = statement.compile(conn, compile_kwargs={"literal_binds": True})
        plan = "\n".join(conn.exec_driver_sql(f"EXPLAIN {text}").scalars())
    assert f"Index Scan using {INDEX}" in plan


def test_the_statement_of_mrl_search_uses_the_prefix_index(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain"), autocommit=True) as conn:
        (text,) = conn.execute("SELECT mrl.search_sql(NULL::documents, %s)", (TEXTS["query"],)).fetchone() or ()
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}"))
    assert f"Index Scan using {INDEX}" in plan


def test_search_sql_is_ready_for_psql(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain"), autocommit=True) as conn:
        text = mrl.search_sql(conn, "documents", QUERY, k=4, filter={"lang": ["en", "o'brien"]})
        rows = conn.execute(text).fetchall()
        assert [row[0] for row in rows] == [
            hit.key for hit in mrl.search(conn, "documents", QUERY, k=4, filter={"lang": "en"})
        ]


def test_exact_search_uses_no_vector_index(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain"), autocommit=True) as conn:
        conn.execute("SET enable_seqscan = off")
        text = mrl.search_sql(conn, "documents", QUERY, exact=True)
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}"))
    assert "embedding_" not in plan


def test_a_selective_filter_with_its_own_index_does_without(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain")) as conn:
        text = mrl.search_sql(conn, "documents", QUERY, filter={"id": 17})
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {text}"))
    assert INDEX not in plan


def test_a_backfill_batch_follows_the_key(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, embedding vector(8))")
    conn.execute("INSERT INTO documents SELECT n, '[1,2,3,4,5,6,7,8]' FROM generate_series(1, 20000) n")
    mrl.add_prefix(conn, "documents", dims=2)
    conn.execute("ANALYZE documents")
    target = mrl.describe(conn, "documents")
    table, key = statements.table(target)
    bound, fill = (
        statements.backfill_bound(table, key, target.prefixes[0], 1000, resume=True),
        statements.backfill_batch(table, key, target.prefixes[0], resume=True),
    )
    values = {"last_0": 5, "bound_0": 1005}
    with conn.transaction():
        conn.execute("SET LOCAL enable_sort = off")
        for statement in (bound, fill):
            plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {compiled(statement)}", values))
            assert "Index Scan using documents_pkey" in plan


SETTINGS = {
    "hnsw.ef_search": "77",
    "hnsw.iterative_scan": "strict_order",
    "hnsw.max_scan_tuples": "12345",
    "hnsw.scan_mem_multiplier": "3",
}


def given(conn: Any, execute: Callable[[str], Any]) -> None:
    for name, value in SETTINGS.items():
        execute(f"SET LOCAL {name} = '{value}'")


def kept(execute: Callable[[str], Any]) -> dict[str, str]:
    return {name: execute(f"SHOW {name}") for name in SETTINGS}


@pytest.mark.parametrize("lang", [None, "fr"])
def test_psycopg_gives_settings_back(prepared: Prepared, lang: str | None) -> None:
    only = {"lang": lang} if lang else None
    with psycopg.connect(prepared("plain")) as conn:
        given(conn, conn.execute)
        assert len(mrl.search(conn, "documents", QUERY, candidates=400, filter=only)) == (0 if lang else 10)
        mrl.search_many(conn, "documents", [QUERY, -QUERY], filter=only)
        conn.execute("SELECT count(*) FROM mrl.search(NULL::documents, %s)", (TEXTS["query"],))
        assert kept(lambda text: conn.execute(text).fetchone()[0]) == SETTINGS  # type: ignore[index]


def test_psycopg_async_gives_settings_back(prepared: Prepared) -> None:
    async def run() -> dict[str, str]:
        async with await psycopg.AsyncConnection.connect(prepared("plain")) as conn:
            for name, value in SETTINGS.items():
                await conn.execute(f"SET LOCAL {name} = '{value}'")
            await mrl.search_async(conn, "documents", QUERY)
            await mrl.search_many_async(conn, "documents", [QUERY])
            return {name: (await (await conn.execute(f"SHOW {name}")).fetchone())[0] for name in SETTINGS}  # type: ignore[index]

    assert asyncio.run(run()) == SETTINGS


def test_sqlalchemy_gives_settings_back(prepared: Prepared) -> None:
    model = mapped(documents())
    with orm.Session(engine(prepared("plain"))) as session:
        given(session, lambda text: session.execute(sa.text(text)))
        assert len(search(session, model, QUERY)) == 10
        assert search(session, model, QUERY, filter=[model.lang == "fr"]).received == 0
        session.execute(search_statement(model, QUERY)).all()
        assert kept(lambda text: session.scalar(sa.text(text))) == SETTINGS


def test_settings_are_given_back_on_a_fresh_connection(prepared: Prepared) -> None:
    """pgvector is loaded by the search itself there, so the settings did not exist before it."""
    with psycopg.connect(prepared("plain")) as conn:
        mrl.search(conn, "documents", QUERY, candidates=400)
        after = kept(lambda text: conn.execute(text).fetchone()[0])  # type: ignore[index]
        conn.rollback()
        assert after == kept(lambda text: conn.execute(text).fetchone()[0])  # type: ignore[index]


def test_a_failed_search_leaves_the_settings_of_the_savepoint(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain")) as conn:
        given(conn, conn.execute)
        mrl.describe(conn, "documents")
        text = mrl.search_sql(conn, "documents", QUERY).replace("LIMIT 100", "LIMIT 100 / 0")
        with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute(text)
        assert kept(lambda text: conn.execute(text).fetchone()[0]) == SETTINGS  # type: ignore[index]


@pytest.mark.parametrize("name", ["psycopg transaction", "session", "asyncpg session", "mrl.search"])
def test_read_only_transactions(prepared: Prepared, name: str) -> None:
    dsn = psycopg.conninfo.make_conninfo(prepared("plain"))
    with psycopg.connect(dsn, autocommit=True) as conn:
        database = conn.info.dbname
        conn.execute(
            psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                psycopg.sql.Identifier(database)
            )
        )
        try:
            assert len(DOORS[name](dsn, documents(), QUERY, None, {}).keys) == 10
        finally:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute(
                psycopg.sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(
                    psycopg.sql.Identifier(database)
                )
            )


def test_transaction_pooling(prepared: Prepared) -> None:
    """As behind PgBouncer in transaction mode: every statement of a client may meet another server connection."""
    dsn = prepared("plain")
    with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as other:
        expected = [hit.key for hit in mrl.search(one, "documents", QUERY, k=300, candidates=400)]
        for conn in (one, other):
            conn.prepare_threshold = None
            (text,) = [mrl.search_sql(conn, "documents", QUERY, k=300, candidates=400)]
        for conn in (other, one, other):
            assert [row[0] for row in conn.execute(text)] == expected
            assert conn.execute("SHOW hnsw.ef_search").fetchone() == ("40",)


def test_the_connection_is_left_as_it_was(prepared: Prepared) -> None:
    with psycopg.connect(
        prepared("plain"), row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.ClientCursor
    ) as conn:
        assert len(mrl.search(conn, "documents", QUERY)) == 10
        row = conn.execute("SELECT embedding FROM documents LIMIT 1").fetchone()
        assert row is not None
        assert isinstance(row["embedding"], str)


def test_statements_compose(prepared: Prepared) -> None:
    """A parameter named like ours, a condition on the rows found, a join."""
    model = mapped(documents())
    statement = (
        search_statement(model, QUERY, k=20, candidates=400)
        .where(model.id > sa.bindparam("query"))
        .add_columns(sa.literal("x"))
    )
    with orm.Session(engine(prepared("plain"))) as session:
        found = [hit.key for hit in search(session, model, QUERY, k=20, candidates=400)]
        rows = session.execute(statement, {"query": 3000}).all()
        assert [row[0].id for row in rows] == [key for key in found if key > 3000]


def test_a_changed_table_is_noticed(prepared: Prepared, dsn: str) -> None:
    fill(dsn, documents(), vectors(200, FULL_DIMS))
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as other:
        assert len(mrl.search(conn, "documents", QUERY)) == 10
        # Add the new prefix beside the old, fill and index it; dropping the old one is the switch.
        mrl.add_prefix(other, "documents", dims=32)
        mrl.backfill(other, "documents", prefix="embedding_32")
        other.execute("SELECT mrl.create_prefix_index('documents', 'embedding_32', concurrently => false)")
        mrl.drop_prefix(other, "documents", f"embedding_{DIMS}")
        assert len(mrl.search(conn, "documents", QUERY)) == 10
        other.execute("ALTER TABLE documents RENAME TO renamed")
        with pytest.raises(SearchError, match="table documents does not exist"):
            mrl.search(conn, "documents", QUERY)


def test_queries_of_any_float_type(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain"), autocommit=True) as conn:
        expected = [hit.key for hit in mrl.search(conn, "documents", QUERY)]
        queries: list[Any] = [QUERY.tolist(), tuple(QUERY.tolist()), QUERY.astype(np.float64)]
        assert all([hit.key for hit in mrl.search(conn, "documents", query)] == expected for query in queries)
        assert len(mrl.search(conn, "documents", QUERY.astype(np.float16))) == 10
