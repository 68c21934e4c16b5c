"""Runs the migrations against MRL_PG_DSN: a libpq URI or key=value string; libpq's own variables where it is unset."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

import mrl_pg.alembic  # noqa: F401 (registers op.mrl_...)
from mrl_pg import migrate
from mrl_pg.embedded import from_dsn
from mrl_pg.errors import MrlError

# Beside the migrations of an application, whose version table is alembic_version.
VERSION_TABLE = "mrl_pg_version"


def run_offline() -> None:
    context.configure(
        url="postgresql+psycopg://",
        version_table=VERSION_TABLE,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online(connection: sa.Connection) -> None:
    arguments = context.get_x_argument(as_dictionary=True)
    applied: list[Any] = []
    context.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        on_version_apply=lambda **step: applied.append(step),
    )
    with context.begin_transaction():
        context.run_migrations()
    if arguments and not applied and context.get_context().get_current_heads():
        migrate.check_applied(connection, arguments)


try:
    if context.is_offline_mode():
        run_offline()
    elif "connection" in context.config.attributes:
        run_online(context.config.attributes["connection"])
    else:
        with from_dsn(os.environ.get("MRL_PG_DSN", "")) as dsn, migrate.engine(dsn).connect() as connection:
            run_online(connection)
except MrlError as error:
    raise CommandError(str(error)) from error
