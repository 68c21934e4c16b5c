"""The shipped migration: ``alembic upgrade head`` as a function, and what its ``-x`` arguments mean."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from mrl_pg import statements
from mrl_pg.documents import documents_table
from mrl_pg.errors import MrlError
from mrl_pg.install import resource_dir
from mrl_pg.registry import read_target
from mrl_pg.spec import Matryoshka
from mrl_pg.sqlalchemy.model import INFO_KEY

# The -x arguments with their defaults; without a schema the search_path decides.
ARGUMENTS = {"table": "documents", "full_dims": "1536", "dims": "256", "schema": ""}


def upgrade(
    target: str | sa.Engine,
    revision: str = "head",
    *,
    table: str | None = None,
    full_dims: int | None = None,
    dims: int | None = None,
    schema: str | None = None,
    sql: bool = False,
) -> None:
    """Returns nothing; makes a ready table for documents, once: installs mrl-pg, and adds prefix, trigger and index.

    Done already, it does nothing, as ``alembic upgrade head`` does.

    :param target: a libpq connection string (empty: the libpq environment variables), or an Engine.
    :param table: name of the table, ``documents`` if None.
    :param full_dims: length of its embeddings, 1536 if None.
    :param dims: length of its prefix, 256 if None.
    :param sql: print the SQL, for psql, and connect to nothing.
    :raises SpecError: for dims that cannot be.
    :raises MrlError: where it is done already, but with other arguments than those given.
    """
    given = {"table": table, "full_dims": full_dims, "dims": dims, "schema": schema}
    _run(command.upgrade, target, revision, given, sql=sql)


def downgrade(target: str | sa.Engine, revision: str = "base", *, sql: bool = False) -> None:
    """Returns nothing; drops the table that :func:`upgrade` made, and mrl-pg unless other tables have prefixes."""
    _run(command.downgrade, target, f"head:{revision}" if sql else revision, {}, sql=sql)


def engine(dsn: str) -> sa.Engine:
    """Returns an Engine for a libpq connection string, which is no URL of SQLAlchemy's."""
    return sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.NullPool)


def requested(arguments: Mapping[str, str]) -> sa.Table:
    """Returns the table that ``-x`` arguments ask for.

    :raises MrlError: for an argument that is not one of ours, or not a number where it must be.
    :raises SpecError: for dims that cannot be.
    """
    for name, value in arguments.items():
        if name not in ARGUMENTS:
            raise MrlError(f"unknown argument -x {name}={value}. Use one of: {', '.join(ARGUMENTS)}.")
        if name in ("full_dims", "dims") and not value.isdecimal():
            raise MrlError(f"-x {name} must be a whole number, not {value!r}. For example: -x {name}={ARGUMENTS[name]}")
    chosen = {**ARGUMENTS, **arguments}
    spec = Matryoshka(full_dims=int(chosen["full_dims"]), dims=int(chosen["dims"]))
    return documents_table(chosen["table"], spec, schema=chosen["schema"] or None)


def check_applied(connection: sa.Connection, arguments: Mapping[str, str]) -> None:
    """Returns nothing; raises MrlError where the migration has been applied, but not with these ``-x`` arguments.

    Alembic would say nothing: for it there is nothing to do.
    """
    table = requested(arguments)
    (spec,) = table.info[INFO_KEY]
    name = f"{table.schema}.{table.name}" if table.schema else table.name
    rows = connection.execute(statements.DESCRIBE, {"schema": table.schema, "name": table.name}).all()
    once = "The migration has been applied, and its -x arguments count once."
    another = f"mrl-pg create-table {shlex.quote(name)} --full-dims {spec.full_dims} --dims {spec.dims}"
    if not rows[0][1]:
        raise MrlError(f"{once} There is no table {name}. Run: {another}")
    there = read_target((table.schema, table.name), rows).prefixes
    if "full_dims" in arguments and all(p.full_dims != spec.full_dims for p in there):
        has = ", ".join(sorted({str(p.full_dims) for p in there})) or "no"
        raise MrlError(
            f"{once} {name} has {has} dimensions, not {spec.full_dims}. Choose a name for another table and run: "
            f"mrl-pg create-table NAME --full-dims {spec.full_dims} --dims {spec.dims}"
        )
    if "dims" in arguments and all(p.dims != spec.dims for p in there):
        has = ", ".join(p.prefix for p in there) or "no prefix"
        raise MrlError(
            f"{once} {name} has {has}, none of {spec.dims} dimensions. "
            f"Run: mrl-pg add-prefix {shlex.quote(name)} --dims {spec.dims}"
        )


def _run(
    alembic_command: Callable[..., None],
    target: str | sa.Engine,
    revision: str,
    arguments: Mapping[str, str | int | None],
    *,
    sql: bool,
) -> None:
    # In a configuration file % begins a placeholder.
    config = Config()
    config.set_main_option("script_location", str(resource_dir("migrations")).replace("%", "%%"))
    config.cmd_opts = Namespace(x=[f"{name}={value}" for name, value in arguments.items() if value is not None])
    try:
        if sql:
            alembic_command(config, revision, sql=True)
            return
        with (engine(target) if isinstance(target, str) else target).connect() as connection:
            config.attributes["connection"] = connection
            alembic_command(config, revision)
    except CommandError as error:
        # env.py wraps ours, so that the alembic command reports them without a traceback.
        if isinstance(error.__cause__, MrlError):
            raise error.__cause__ from None
        raise
