"""What statements are made of: tables, columns, literals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import BIT, REGCLASS, dialect
from sqlalchemy.sql import ClauseElement, ColumnElement
from sqlalchemy.types import UserDefinedType

from mrl_pg.errors import SearchError
from mrl_pg.registry import Target
from mrl_pg.spec import Prefix

# Its names become values, in which a % stands for itself: not the default paramstyle, which doubles it.
_preparer = dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# A table as statements see it, and the columns of its primary key.
Key = Sequence[ColumnElement[Any]]


def table(target: Target) -> tuple[sa.TableClause, list[ColumnElement[Any]]]:
    """Returns a table by its name in the catalog, and the columns of its primary key.

    :raises SearchError: where it has no primary key.
    """
    if not target.key:
        raise SearchError(f"{target} has no primary key. Run: ALTER TABLE {target} ADD PRIMARY KEY (...);")
    names = dict.fromkeys(
        [*target.key, *(name for name, _ in target.columns)]
        + [name for p in target.prefixes for name in (p.embedding, p.prefix)]
    )
    clause = sa.table(target.name, *(sa.column(name) for name in names), schema=target.schema)
    return clause, [clause.c[name] for name in target.key]


def column_of(table: sa.FromClause, name: str) -> ColumnElement[Any]:
    """A column of the table, also one that a reflected or mapped table leaves out."""
    return next((c for c in table.c if c.name == name), sa.column(name, _selectable=table))


class NamedType(UserDefinedType[Any]):
    """A type that the catalog named (format_type, so it is quoted where it must be)."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def prefix_type(kind: str, dims: int) -> HALFVEC | BIT:
    """Returns the type of a prefix column."""
    return BIT(dims) if kind == "binary" else HALFVEC(dims)


def made(embedding: ColumnElement[Any], prefix: Prefix) -> ColumnElement[Any]:
    """Returns the expression that makes a prefix; as mrl.prefix_expression() in SQL."""
    if prefix.layer_norm:
        embedding = sa.func.mrl.layer_norm(embedding)
    if prefix.kind == "binary":
        return sa.func.mrl.bits(embedding, number(prefix.dims))
    if prefix.kind == "rotate":
        return sa.func.mrl.rotate(embedding, sa.cast(text(str(prefix.basis)), sa.Uuid), text(prefix.distance))
    return sa.func.mrl.prefix(embedding, number(prefix.dims), text(prefix.distance))


def materialized(select: sa.SelectBase, name: str) -> sa.CTE:
    return select.cte(name).prefix_with("MATERIALIZED")


def quoted(schema: str | None, name: str) -> str:
    """Returns a table's name as SQL writes it, quoted where it must be: a value that casts to regclass."""
    return _preparer.format_table(sa.table(name, schema=schema))


def literal(statement: ClauseElement) -> str:
    """Returns a statement as psql takes it, its values as literals."""
    # Not the dialect of a driver, which may want every % twice.
    plain = dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    plain._backslash_escapes = False  # as it is on every server that has standard_conforming_strings on
    return str(statement.compile(dialect=plain, compile_kwargs={"literal_binds": True})).strip()


def regclass(table: str) -> ColumnElement[Any]:
    # By way of text, which can also be a literal (Alembic's --sql).
    return sa.cast(sa.literal(table, sa.Text), REGCLASS)


def number(value: int) -> ColumnElement[int]:
    return sa.literal_column(str(int(value)), sa.Integer)


def text(value: str) -> ColumnElement[str]:
    """A literal of our own (names of settings, numbers, distances), never a user's."""
    return sa.literal_column(f"'{value}'", sa.Text)
