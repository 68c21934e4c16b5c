"""Installing, upgrading and removing the schema mrl."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.rows import tuple_row

from mrl_pg.errors import MrlError
from mrl_pg.install import SCHEMA_VERSION, install_files, resource_dir
from mrl_pg.psycopg.run import execute
from mrl_pg.statements import IS_EXTENSION, PROBE, VERSION


def version(conn: Connection[Any]) -> str | None:
    """Returns the version of the schema mrl, None where it is not installed."""
    if not execute(conn, PROBE)[0][0]:
        return None
    return str(execute(conn, VERSION)[0][0])


def install(conn: Connection[Any]) -> str:
    """Returns the version of the schema mrl after installing or upgrading it, in one transaction.

    pgvector is created where it is missing. An installation as an extension is upgraded as one.

    :raises SchemaVersionError: where the database is newer than this package; nothing has changed then.
    :raises MrlError: where pgvector cannot be had.
    """
    with conn.transaction(), Cursor(conn, row_factory=tuple_row) as cursor:
        files = install_files(version(conn))
        if not files:
            return SCHEMA_VERSION
        if execute(conn, IS_EXTENSION)[0][0]:
            cursor.execute(sql.SQL("ALTER EXTENSION mrl_pg UPDATE TO {}").format(SCHEMA_VERSION))
            return SCHEMA_VERSION
        try:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
            raise MrlError(
                "pgvector is not available on this server. Install it (https://github.com/pgvector/pgvector), "
                "then run: mrl-pg install"
            ) from error
        for path in files:
            cursor.execute(path.read_text(encoding="utf-8"))
    return SCHEMA_VERSION


def uninstall(conn: Connection[Any]) -> None:
    """Returns nothing; removes the schema mrl, and refuses while prefixes exist (the error names them)."""
    with conn.transaction(), Cursor(conn, row_factory=tuple_row) as cursor:
        if execute(conn, IS_EXTENSION)[0][0]:
            cursor.execute("DROP EXTENSION mrl_pg")
            return
        script = resource_dir("sql") / "uninstall.sql"
        cursor.execute(script.read_text(encoding="utf-8"))
