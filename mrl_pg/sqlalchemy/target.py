"""What a connection knows of the tables that are searched on it."""

from __future__ import annotations

import time
from typing import cast

import sqlalchemy as sa

from mrl_pg import statements
from mrl_pg.errors import NotInstalledError
from mrl_pg.registry import TARGET_SECONDS, Target, read_target

# Where a DBAPI connection keeps what it knows of tables (Connection.info): one thread at a time has it.
_TARGETS = "mrl_pg_targets"


def describe(connection: sa.Connection, table: sa.Table) -> Target:
    """Returns what the database knows of a table: its key, columns and prefixes.

    Schemas are translated as the connection translates them (schema_translate_map). Where the search_path decides
    which table a name means, tables of one name are taken to have the same prefixes.
    """
    schema, name = name_of(connection, table)
    known = connection.info.setdefault(_TARGETS, {})
    expires, found = known.get((schema, name), (0.0, None))
    if found is not None and expires > time.monotonic():
        return cast("Target", found)
    if not connection.scalar(statements.PROBE):
        raise NotInstalledError()
    rows = connection.execute(statements.DESCRIBE, {"schema": schema, "name": name}).all()
    found = read_target((schema, name), rows)
    known[schema, name] = (time.monotonic() + TARGET_SECONDS, found)
    return found


def forget(connection: sa.Connection, table: sa.Table) -> None:
    """Returns nothing; the next search on this connection reads afresh what the database knows of a table."""
    connection.info.get(_TARGETS, {}).pop(name_of(connection, table), None)


def name_of(connection: sa.Connection, table: sa.Table) -> tuple[str | None, str]:
    """Returns (schema, name) of a table as the connection translates them (schema_translate_map)."""
    translated = connection.get_execution_options().get("schema_translate_map", {})
    return translated.get(table.schema, table.schema), table.name


def is_known(connection: sa.Connection, table: sa.Table) -> bool:
    """Returns whether a search has described the table on this connection, and may go by what was true then."""
    return name_of(connection, table) in connection.info.get(_TARGETS, {})
