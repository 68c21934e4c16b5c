"""The ways an application can search, behind one signature, so that every promise is tested through each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import mrl_pg.psycopg as mrl
from mrl_pg.sqlalchemy import search, search_async, search_many, search_statement
from mrl_pg.vectors import to_text


@dataclass(frozen=True)
class Found:
    """What a door returned: keys and distances, nearest first, and the number of candidates where it tells."""

    keys: list[Any]
    distances: list[float]
    received: int | None


# door(dsn, table, query, lang, options): options are k, candidates, exact, …; lang filters where it is not None.
Door = Callable[[str, sa.Table, Any, str | None, dict[str, Any]], Found]


def engine(dsn: str) -> sa.Engine:
    """Returns an engine for a libpq connection string."""
    return sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool)


def async_url(dsn: str, driver: str) -> sa.URL:
    """Returns a SQLAlchemy URL for a libpq connection string that names a unix socket."""
    parts = conninfo_to_dict(dsn)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=str(parts["user"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"])},
    )


def psycopg_autocommit(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    with psycopg.connect(dsn, autocommit=True) as conn:
        result = mrl.search(conn, table.name, query, filter=_only(lang), **options)
    return _found(result)


def psycopg_transaction(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    with psycopg.connect(dsn) as conn:
        return _found(mrl.search(conn, table.name, query, filter=_only(lang), **options))


def psycopg_many(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    with psycopg.connect(dsn, autocommit=True) as conn:
        _, result = mrl.search_many(conn, table.name, [-query, query], filter=_only(lang), **options)
    return _found(result)


def psycopg_async(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    async def run() -> Found:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            return _found(await mrl.search_async(conn, table.name, query, filter=_only(lang), **options))

    return asyncio.run(run())


def session(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    model = mapped(table)
    with orm.Session(engine(dsn)) as session:
        result = search(session, model, query, filter=_where(table, lang), **options)
        assert all(isinstance(hit.row, model) for hit in result)
    return _found(result)


def connection(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    with engine(dsn).connect() as conn:
        return _found(search(conn, table, query, filter=_where(table, lang), **options))


def connection_autocommit(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    with engine(dsn).connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        _, result = search_many(conn, table, [-query, query], filter=_where(table, lang), **options)
    return _found(result)


def statement(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    model = mapped(table)
    with orm.Session(engine(dsn)) as session:
        rows = session.execute(search_statement(model, query, filter=_where(table, lang), **options)).all()
    return Found([row[0].id for row in rows], [row.distance for row in rows], None)


def _async_session(driver: str) -> Door:
    def door(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
        async def run() -> Found:
            pool = create_async_engine(async_url(dsn, driver), poolclass=sa.NullPool)
            async with AsyncSession(pool) as session:
                where = _where(table, lang)
                return _found(await search_async(session, mapped(table), query, filter=where, **options))

        return asyncio.run(run())

    return door


def sql(dsn: str, table: sa.Table, query: Any, lang: str | None, options: dict[str, Any]) -> Found:
    options = dict(options)
    k, candidates = options.pop("k", 10), options.pop("candidates", None)
    filter_json = psycopg.types.json.Jsonb({} if lang is None else {"lang": lang})
    if "stages" in options:
        options["stages"] = [{"prefix": prefix, "candidates": n} for prefix, n in options["stages"]]
    prefix = options.pop("prefix", None)
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute(
            psycopg.sql.SQL(
                "SELECT (hit).id, distance, received FROM mrl.search(NULL::{}, %s, %s, %s, %s, %s, %s)"
            ).format(psycopg.sql.Identifier(table.name)),
            (to_text(query), k, candidates, filter_json, prefix, psycopg.types.json.Jsonb(options)),
        ).fetchall()
    return Found([row[0] for row in rows], [row[1] for row in rows], rows[0][2] if rows else 0)


DOORS: dict[str, Door] = {
    "psycopg": psycopg_autocommit,
    "psycopg transaction": psycopg_transaction,
    "psycopg search_many": psycopg_many,
    "psycopg async": psycopg_async,
    "session": session,
    "connection": connection,
    "connection autocommit search_many": connection_autocommit,
    "asyncpg session": _async_session("asyncpg"),
    "psycopg async session": _async_session("psycopg"),
    "search_statement": statement,
    "mrl.search": sql,
}


def mapped(table: sa.Table) -> Any:
    """Returns a class mapped to a table."""
    return type("Mapped", (orm.declarative_base(metadata=sa.MetaData()),), {"__table__": table})


def _only(lang: str | None) -> dict[str, str] | None:
    return None if lang is None else {"lang": lang}


def _where(table: sa.Table, lang: str | None) -> Sequence[sa.ColumnElement[bool]]:
    return [] if lang is None else [table.c.lang == lang]


def _found(result: Any) -> Found:
    return Found([hit.key for hit in result], [hit.distance for hit in result], result.received)
