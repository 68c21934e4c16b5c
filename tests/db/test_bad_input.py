"""What cannot be answered is refused before anything runs, with the numbers and the next command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

import mrl_pg.psycopg as mrl
from mrl_pg import (
    DimensionError,
    MrlError,
    NotInstalledError,
    SchemaVersionError,
    SearchError,
    SpecError,
)
from mrl_pg.sqlalchemy import search, search_statement
from mrl_pg.vectors import to_text
from tests.conftest import Conn, vectors
from tests.db.conftest import DIMS, FULL_DIMS, Prepared, documents, fill
from tests.db.doors import engine, mapped

QUERY = vectors(1, FULL_DIMS, seed=7)[0]


def changed(position: int, value: float) -> Any:
    """Returns the query with one number changed."""
    query = QUERY.astype(np.float64)
    query[position] = value
    return query


QUERIES: dict[str, tuple[Any, type[MrlError], str]] = {
    "too short": (
        QUERY[:3],
        DimensionError,
        "query has 3 dimensions, expected 64. Embed it with the model of the table, at full size.",
    ),
    "too long": (
        np.tile(QUERY, 2),
        DimensionError,
        "query has 128 dimensions, expected 64. Embed it with the model of the table, at full size.",
    ),
    "NaN": (
        changed(5, np.nan),
        SearchError,
        "query[5] is nan. Check how the embedding was made: every number must be finite as float32.",
    ),
    "infinite": (
        changed(6, -np.inf),
        SearchError,
        "query[6] is -inf. Check how the embedding was made: every number must be finite as float32.",
    ),
    "beyond float32": (
        changed(7, 1e300),
        SearchError,
        "query[7] is 1e+300. Check how the embedding was made: every number must be finite as float32.",
    ),
    "zero": (
        np.zeros(FULL_DIMS),
        SearchError,
        "the first 16 dimensions of the query are zero, and cosine has no direction there. "
        "Check how the embedding was made.",
    ),
    "two-dimensional": (
        [QUERY],
        SearchError,
        "query has shape (1, 64), expected one dimension. Pass one vector, or use search_many.",
    ),
    "text": (
        "no vector",
        SearchError,
        "query is not a vector of numbers (could not convert string to float: 'no vector'). "
        "Pass a list, tuple or array of floats.",
    ),
}

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "k = 0": ({"k": 0}, "k must be at least 1, not 0. k is the number of rows to return."),
    "k = 2.5": ({"k": 2.5}, "k must be a whole number, not 2.5. Pass an int."),
    "candidates < k": (
        {"k": 10, "candidates": 9},
        "candidates must be at least k = 10, not 9. Leave candidates out for the larger of 100 and 10 * k.",
    ),
    "ef_search = 0": (
        {"ef_search": 0},
        "ef_search must be between 1 and 1000, not 0. "
        "It may be below candidates: the scan goes on in steps of ef_search.",
    ),
    "ef_search = 1001": (
        {"ef_search": 1001},
        "ef_search must be between 1 and 1000, not 1001. "
        "It may be below candidates: the scan goes on in steps of ef_search.",
    ),
    "max_scan_tuples = 0": (
        {"max_scan_tuples": 0},
        "max_scan_tuples must be at least 1, not 0. Leave it out for the default.",
    ),
    "unknown prefix": ({"prefix": "embedding_512"}, "documents has no prefix 'embedding_512'. It has: embedding_16."),
}


def by_psycopg(dsn: str, query: Any, **options: Any) -> Any:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return mrl.search(conn, "documents", query, **options)


def by_psycopg_many(dsn: str, query: Any, **options: Any) -> Any:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return mrl.search_many(conn, "documents", [QUERY, query], **options)


def by_sqlalchemy(dsn: str, query: Any, **options: Any) -> Any:
    with engine(dsn).connect() as conn:
        return search(conn, documents(), query, **options)


VERBS = [by_psycopg, by_psycopg_many, by_sqlalchemy]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", QUERIES)
def test_queries(prepared: Prepared, verb: Callable[..., Any], case: str) -> None:
    query, error, message = QUERIES[case]
    with pytest.raises(error) as raised:
        verb(prepared("plain"), query)
    assert str(raised.value) == message
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", OPTIONS)
def test_options(prepared: Prepared, verb: Callable[..., Any], case: str) -> None:
    options, message = OPTIONS[case]
    with pytest.raises(SearchError) as raised:
        verb(prepared("plain"), QUERY, **options)
    assert str(raised.value) == message


def test_numbers_of_any_integer_type(prepared: Prepared) -> None:
    assert len(by_psycopg(prepared("plain"), QUERY, k=np.int64(3), candidates=np.int32(50))) == 3


def test_unknown_names(prepared: Prepared) -> None:
    dsn = prepared("plain")
    columns = "does not exist or is a vector. Use one of: id, lang."
    with psycopg.connect(dsn, autocommit=True) as conn:
        with pytest.raises(SearchError, match=r"column 'year' of documents " + columns):
            mrl.search(conn, "documents", QUERY, filter={"year": 2024})
        with pytest.raises(SearchError, match=r"column 'embedding' of documents " + columns):
            mrl.search(conn, "documents", QUERY, columns=["embedding"])
        with pytest.raises(SearchError, match=r"table nowhere does not exist\. Check the name and the search_path"):
            mrl.search(conn, "nowhere", QUERY)
        with pytest.raises(SearchError, match=r"table app\.documents does not exist"):
            mrl.search(conn, "app.documents", QUERY)


def test_a_query_for_the_wrong_type_of_filter_reaches_the_caller(prepared: Prepared) -> None:
    with psycopg.connect(prepared("plain"), autocommit=True) as conn, pytest.raises(psycopg.errors.UndefinedFunction):
        mrl.search(conn, "documents", QUERY, filter={"lang": 5})


def test_not_installed(bare_dsn: str) -> None:
    message = "mrl-pg is not installed in this database. Run: mrl-pg install"
    with psycopg.connect(bare_dsn) as conn:
        for verb in (
            lambda: mrl.search(conn, "documents", QUERY),
            lambda: mrl.describe(conn, "documents"),
            lambda: mrl.add_prefix(conn, "documents", dims=8),
            lambda: mrl.drop_prefix(conn, "documents", "embedding_8"),
            lambda: mrl.status(conn),
        ):
            with pytest.raises(NotInstalledError) as raised:
                verb()
            assert str(raised.value) == message
        assert conn.execute("SELECT 'the transaction goes on'").fetchone() is not None
        assert mrl.version(conn) is None
    with pytest.raises(NotInstalledError):
        by_sqlalchemy(bare_dsn, QUERY)


@pytest.mark.parametrize(("installed", "advice"), [("0.0", "mrl-pg install"), ("1.0", "pip install --upgrade mrl-pg")])
def test_other_versions_of_the_schema(conn: Conn, dsn: str, installed: str, advice: str) -> None:
    conn.execute(f"CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql RETURN '{installed}'::text")
    message = f"the database has version {installed} of schema mrl, this package needs 0.1. Run: {advice}"
    for verb in VERBS:
        with pytest.raises(SchemaVersionError) as raised:
            verb(dsn, QUERY)
        assert str(raised.value) == message


def test_a_newer_minor_version_is_fine(conn: Conn, dsn: str) -> None:
    """The database is upgraded first, while applications with the older package are still running."""
    fill(dsn, documents(), vectors(50, FULL_DIMS))
    conn.execute("CREATE OR REPLACE FUNCTION mrl.version() RETURNS text LANGUAGE sql RETURN '0.9'::text")
    assert all(len(verb(dsn, QUERY)) in (2, 10) for verb in VERBS)


def test_no_prefix_and_no_index(conn: Conn) -> None:
    conn.execute(f"CREATE TABLE documents (id int PRIMARY KEY, embedding vector({FULL_DIMS}))")
    with pytest.raises(SearchError) as raised:
        mrl.search(conn, "documents", QUERY)
    assert str(raised.value) == (
        "documents has no prefix. Run: mrl-pg add-prefix documents --dims DIMS (256 and 512 are the usual ones)"
    )
    mrl.add_prefix(conn, "documents", dims=DIMS)
    with pytest.raises(SearchError) as raised:
        mrl.search(conn, "documents", QUERY)
    assert (
        str(raised.value)
        == "prefix embedding_16 of documents has no valid index. Run: mrl-pg index documents --prefix embedding_16"
    )
    assert len(mrl.search(conn, "documents", QUERY, exact=True)) == 0
    # Built by someone else, and noticed at once.
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_16', concurrently => false)")
    assert len(mrl.search(conn, "documents", QUERY)) == 0


def test_no_primary_key(conn: Conn, dsn: str) -> None:
    conn.execute(f"CREATE TABLE documents (id int, embedding vector({FULL_DIMS}))")
    mrl.add_prefix(conn, "documents", dims=DIMS)
    conn.execute("SELECT mrl.create_prefix_index('documents', 'embedding_16', concurrently => false)")
    message = "documents has no primary key. Run: ALTER TABLE documents ADD PRIMARY KEY (...);"
    with pytest.raises(SearchError) as raised:
        mrl.search(conn, "documents", QUERY)
    assert str(raised.value) == message
    with pytest.raises(SearchError) as raised:
        mrl.backfill(conn, "documents")
    assert str(raised.value) == message
    table = sa.Table("documents", sa.MetaData(), sa.Column("id", sa.Integer))
    with engine(dsn).connect() as connection, pytest.raises(SearchError) as raised:
        search(connection, table, QUERY)
    assert str(raised.value) == message


HOSTILE = ['we"ird; drop table x', "Größe %s :x $1", "select", "x" * 63, "ü" * 31 + "x", "a.b", "'; --"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(conn: Conn, dsn: str, name: str) -> None:
    """As the names of schema, table, key, embedding and filter column at once."""
    schema = name[:-1] + "s"
    conn.execute("CREATE TABLE x (untouched int)")
    conn.execute(
        sql.SQL(
            "CREATE SCHEMA {schema}; "
            "CREATE TABLE {schema}.{name} ({key} int PRIMARY KEY, {filter} text, {embedding} vector(8))"
        ).format(
            schema=sql.Identifier(schema),
            name=sql.Identifier(name),
            key=sql.Identifier(name),
            filter=sql.Identifier(name[1:]),
            embedding=sql.Identifier(name[2:]),
        )
    )
    rows = vectors(40, 8)
    for n, row in enumerate(rows):
        conn.execute(
            sql.SQL("INSERT INTO {}.{} VALUES ({}, {}, {})").format(
                *map(sql.Identifier, (schema, name)), *map(sql.Literal, (n, name, to_text(row)))
            )
        )
    target = (schema, name)
    prefix = mrl.add_prefix(conn, target, name[2:], dims=4)
    assert mrl.backfill(conn, target).filled == 40
    conn.execute(
        "SELECT mrl.create_prefix_index(%s::regclass, %s, concurrently => false)",
        (sql.Identifier(schema, name).as_string(conn), prefix),
    )
    for options in ({}, {"exact": True}, {"prefix": prefix}):
        (hit,) = mrl.search(conn, target, rows[5], k=1, filter={name[1:]: [name, None]}, **options)
        assert (hit.key, hit.row) == (5, {name: 5, name[1:]: name})
    assert mrl.search_many(conn, target, [rows[6]], k=1)[0][0].key == 6
    assert conn.execute(mrl.search_sql(conn, target, rows[7], k=1, filter={name[1:]: name})).fetchall()[0][0] == 7
    assert mrl.status(conn, target)[0]["missing"] == 0
    table = sa.Table(name, sa.MetaData(), sa.Column(name, sa.Integer, primary_key=True), schema=schema)
    with engine(dsn).connect() as connection:
        assert search(connection, table, rows[8], k=1)[0].key == 8
    mrl.drop_prefix(conn, target, prefix)
    assert mrl.status(conn) == []
    assert conn.execute("SELECT count(*) FROM x").fetchone() == (0,)


@pytest.mark.parametrize("value", ["'; DROP TABLE documents; --", "%(query)s", ":x", "{de}", 'NULL"'])
def test_hostile_values(prepared: Prepared, value: str) -> None:
    assert len(by_psycopg(prepared("plain"), QUERY, filter={"lang": value})) == 0
    assert len(by_psycopg(prepared("plain"), QUERY, filter={"lang": [value, "de"]})) == 10


def test_a_server_that_goes_away_in_the_middle(prepared: Prepared) -> None:
    dsn = prepared("plain")
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as admin:
        mrl.search(conn, "documents", QUERY)
        admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            mrl.search(conn, "documents", QUERY)
        assert conn.closed


def test_specs(conn: Conn) -> None:
    conn.execute("CREATE TABLE documents (id int PRIMARY KEY, embedding vector(8))")
    with pytest.raises(SpecError) as raised:
        mrl.add_prefix(conn, "documents", dims=4001)
    assert str(raised.value) == (
        "dims must be between 1 and 4,000, not 4001. HNSW takes at most 4,000 halfvec dimensions."
    )
    with pytest.raises(SpecError) as raised:
        mrl.add_prefix(conn, "documents", dims=4, distance="euclid")  # type: ignore[arg-type]
    assert str(raised.value) == "unknown distance 'euclid'. Use cosine, l2 or inner_product."
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="dims must be below the 8 dimensions"):
        mrl.add_prefix(conn, "documents", dims=8)


def test_a_model_without_the_prefix() -> None:
    with pytest.raises(SearchError) as raised:
        search_statement(mapped(documents()), QUERY, prefix="embedding_32")
    assert str(raised.value) == (
        "documents declares no prefix 'embedding_32'. Add it to __matryoshka__, or use search()."
    )
