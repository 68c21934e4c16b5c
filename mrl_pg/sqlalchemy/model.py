"""Models with prefixes: the mixin, and what create_all() makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import event, orm
from sqlalchemy.util import await_only

from mrl_pg import statements
from mrl_pg.install import install_files
from mrl_pg.spec import DEFAULT_EF_CONSTRUCTION, DEFAULT_M, Matryoshka

# Where a Table carries its specs, for metadata.create_all() and Alembic.
INFO_KEY = "mrl_pg"


class MatryoshkaMixin:
    """Gives a model the columns and indexes of the specs in ``__matryoshka__``, and its table the triggers.

    The vectors are deferred: rows load without them, and ``document.embedding`` loads on access (or at once with
    ``undefer``). Declare the embedding column yourself to have it otherwise.
    """

    __matryoshka__: ClassVar[Sequence[Matryoshka]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        for spec in cls.__dict__.get("__matryoshka__", ()):
            for name, kind in (
                (spec.column, _full_type(spec)),
                (spec.prefix, statements.prefix_type(spec.kind, spec.dims)),
            ):
                if not hasattr(cls, name):
                    setattr(cls, name, orm.mapped_column(name, kind, nullable=True, deferred=True))
        super().__init_subclass__(**kwargs)
        # Where the base class comes first, the class is mapped before its columns are added here.
        mapper = sa.inspect(cls, raiseerr=False)
        if mapper is not None:
            _declare_specs(mapper, cls)


# For bases that map the class later, declarative_base() among them.
@event.listens_for(MatryoshkaMixin, "after_mapper_constructed", propagate=True)
def _declare_specs(mapper: orm.Mapper[Any], model: type[MatryoshkaMixin]) -> None:
    table = mapper.local_table
    if isinstance(table, sa.Table):
        declare(table, *(spec for spec in getattr(model, "__matryoshka__", ()) if spec.prefix in table.c))


def declare(table: sa.Table, *specs: Matryoshka) -> None:
    """Returns nothing; gives a Table the missing columns, the indexes and the triggers of its prefixes.

    ``create_all()`` then makes them all, and installs mrl-pg where it is missing.
    """
    declared = table.info.setdefault(INFO_KEY, [])
    for spec in specs:
        if spec in declared:
            continue
        for name, kind in (
            (spec.column, _full_type(spec)),
            (spec.prefix, statements.prefix_type(spec.kind, spec.dims)),
        ):
            if name not in table.c:
                table.append_column(sa.Column(name, kind, nullable=True))
        prefix_index(table, spec)
        if not declared:
            event.listen(table, "before_create", _install_if_missing)
            event.listen(table, "after_create", _add_prefixes)
        declared.append(spec)


def prefix_index(table: sa.Table, spec: Matryoshka) -> sa.Index:
    """Returns the HNSW index of a prefix, bound to its table; its name carries what defines it."""
    graph = {"m": spec.m, "ef_construction": spec.ef_construction}
    default = (spec.m, spec.ef_construction) == (DEFAULT_M, DEFAULT_EF_CONSTRUCTION)
    return sa.Index(
        spec.index_name(table.name),
        table.c[spec.prefix],
        postgresql_using="hnsw",
        postgresql_ops={spec.prefix: spec.operator_class},
        postgresql_with={} if default else graph,
    )


def install(connection: sa.Connection) -> None:
    """Returns nothing; installs the schema mrl, and pgvector where it is missing, in the connection's transaction."""
    connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    for path in install_files(None):
        run_script(connection, path)


def run_script(connection: sa.Connection, path: Path) -> None:
    """Returns nothing; runs one of our SQL files in the connection's transaction.

    A file goes to the driver as it is: SQLAlchemy would read ``:x`` and drivers ``%`` as parameters.
    """
    script = path.read_text(encoding="utf-8")
    driver_connection = connection.connection.driver_connection
    if connection.dialect.driver == "asyncpg":
        # asyncpg prepares what goes through a cursor, and so takes one command there; and its transaction opens
        # with the first statement.
        connection.execute(sa.text("SELECT 1"))
        await_only(driver_connection.execute(script))  # type: ignore[union-attr]
        return
    cursor = connection.connection.cursor()
    try:
        cursor.execute(script)
    finally:
        cursor.close()


def _full_type(spec: Matryoshka) -> VECTOR | HALFVEC:
    return (HALFVEC if spec.embedding_type == "halfvec" else VECTOR)(spec.full_dims)


def _install_if_missing(table: sa.Table, connection: sa.Connection, **_: Any) -> None:
    if not connection.scalar(statements.PROBE):
        install(connection)


def _add_prefixes(table: sa.Table, connection: sa.Connection, **_: Any) -> None:
    translated = connection.get_execution_options().get("schema_translate_map", {})
    name = statements.quoted(translated.get(table.schema, table.schema), table.name)
    for spec in table.info[INFO_KEY]:
        connection.execute(
            statements.add_prefix(
                name,
                spec.column,
                spec.dims,
                spec.distance,
                spec.model,
                kind=spec.kind,
                layer_norm=spec.layer_norm,
            )
        )
