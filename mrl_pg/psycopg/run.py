"""Running statements on psycopg connections."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.adapt import Dumper
from psycopg.conninfo import make_conninfo
from psycopg.pq import Format
from psycopg.rows import tuple_row
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.sql import ClauseElement

from mrl_pg.errors import NotInstalledError
from mrl_pg.statements import PROBE
from mrl_pg.vectors import Packed as Packed

Rows: TypeAlias = list[tuple[Any, ...]]
# What a verb does, apart from the waiting: statements go out, rows (or the driver's error) come in.
Steps: TypeAlias = Generator[tuple[str, Mapping[str, Any]], Rows, Any]

_dialect = psycopg_dialect()  # type: ignore[no-untyped-call]


def compiled(statement: ClauseElement) -> str:
    """Returns a statement as text for psycopg, its parameters as %(name)s."""
    return str(statement.compile(dialect=_dialect))


def execute(
    conn: Connection[Any],
    statement: ClauseElement,
    values: Mapping[str, Any] = MappingProxyType({}),
    *,
    binary: bool = False,
) -> Rows:
    """Returns the rows of a statement that carries its values, but for those given."""
    ready = statement.compile(dialect=_dialect)
    with Cursor(conn, row_factory=tuple_row) as cursor:
        return cursor.execute(str(ready), {**ready.params, **values}, binary=binary).fetchall()


def conninfo_of(conn: Connection[Any]) -> str:
    """Returns what another connection like this one is made from."""
    return make_conninfo(**conn.info.get_parameters(), password=conn.info.password or None)


def check_installed(conn: Connection[Any]) -> None:
    """Returns nothing; raises NotInstalledError where the schema mrl is missing."""
    if not execute(conn, PROBE)[0][0]:
        raise NotInstalledError()


def server_versions(conn: Connection[Any]) -> dict[str, str]:
    """Returns the versions of PostgreSQL and pgvector, by name."""
    with Cursor(conn, row_factory=tuple_row) as cursor:
        ((postgres, pgvector),) = cursor.execute(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchall()
    return {"PostgreSQL": postgres, "pgvector": pgvector}


def execute_many(conn: Connection[Any], statement: ClauseElement, values: Sequence[Mapping[str, Any]]) -> int:
    """Returns how many rows a statement has changed, run for each of several sets of values in few round trips."""
    ready = statement.compile(dialect=_dialect)
    with Cursor(conn, row_factory=tuple_row) as cursor:
        cursor.adapters.register_dumper(Packed, PackedDumper)
        cursor.executemany(str(ready), [{**ready.params, **one} for one in values])
        return cursor.rowcount


class PackedDumper(Dumper):
    """Passes on what is in binary form already."""

    format = Format.BINARY

    def dump(self, obj: Packed) -> bytes:
        return obj


def run(conn: Connection[Any], steps: Steps) -> Any:
    """Returns what the steps return; runs their statements on a connection."""
    # Our own cursor: the connection's row factory, cursor class and adapters stay its user's.
    with Cursor(conn, row_factory=tuple_row) as cursor:
        cursor.adapters.register_dumper(Packed, PackedDumper)
        try:
            step = next(steps)
            while True:
                try:
                    rows = cursor.execute(*step).fetchall()
                except psycopg.Error as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(rows)
        except StopIteration as stop:
            return stop.value


async def run_async(conn: AsyncConnection[Any], steps: Steps) -> Any:
    """Returns what the steps return; runs their statements on an AsyncConnection."""
    async with AsyncCursor(conn, row_factory=tuple_row) as cursor:
        cursor.adapters.register_dumper(Packed, PackedDumper)
        try:
            step = next(steps)
            while True:
                try:
                    await cursor.execute(*step)
                    rows = await cursor.fetchall()
                except psycopg.Error as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(rows)
        except StopIteration as stop:
            return stop.value
