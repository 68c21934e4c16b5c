"""The statements that read the embeddings of a table: all of them, or those of a random share of its rows."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement

from mrl_pg.registry import Target
from mrl_pg.search import FilterShape
from mrl_pg.statements.parts import column_of, number
from mrl_pg.statements.search import filter_conditions

# One snapshot for all that is read of a table while others write to it.
SNAPSHOT = sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

FIRST_UNFINISHED = sa.text("SELECT CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text)")


class Share(NamedTuple):
    """A random share of rows; the same seed gives the same ones of a table that has not changed."""

    percent: float
    seed: int


def count_embeddings(target: Target, embedding: str, shape: FilterShape = ()) -> sa.Select[Any]:
    """Returns the count of rows that have an embedding, and of those among them that a filter keeps."""
    table = _table(target, embedding)
    there = table.c[embedding].is_not(None)
    kept = sa.func.count().filter(_kept(target, table, shape)) if shape else sa.func.count()
    counts: list[ColumnElement[Any]] = [sa.func.count(), kept]
    return sa.select(*counts).select_from(table).where(there)


def count_written(target: Target, embedding: str) -> sa.Select[Any]:
    """Returns the count of rows that have an embedding, and of those written by the transaction ``since`` or later."""
    table = _table(target, embedding)
    # By their age, because a bare xid has no order.
    since = sa.text("age(CAST(CAST(:since AS xid8) AS xid))").bindparams(sa.bindparam("since", type_=sa.Text))
    written = sa.func.count().filter(sa.func.age(sa.column("xmin", _selectable=table)) <= since)
    counts: list[ColumnElement[Any]] = [sa.func.count(), written]
    return sa.select(*counts).select_from(table).where(table.c[embedding].is_not(None))


def embeddings(
    target: Target,
    embedding: str,
    *,
    share: Share | None = None,
    ids: bool = False,
    shape: FilterShape = (),
    among: Literal["only", "not"] | None = None,
) -> sa.Select[Any]:
    """Returns the embeddings of the rows as bytes, then ids and whether a filter keeps them, where asked for.

    :param share: of the rows to read; all if left out.
    :param ids: with the id of each row, its key as text; the whole row of a composite key, ``(1,en)``.
    :param shape: of the filter, whose values are parameters; none for no such column.
    :param among: only the rows whose id is in the parameter ``ids``, or only those whose id is not.
    """
    source: sa.FromClause = _table(target, embedding)
    if share:
        # Rows, not pages: neighbours on a page were often written together, and are alike.
        chance = sa.func.bernoulli(sa.literal_column(f"{share.percent:.9f}"))
        source = sa.tablesample(source, chance, seed=number(share.seed))
    columns: list[ColumnElement[Any]] = [sa.func.mrl.to_bytes(source.c[embedding])]
    if ids:
        columns.append(_id(target, source))
    if shape:
        columns.append(_kept(target, source, shape))
    statement = sa.select(*columns).where(source.c[embedding].is_not(None))
    if among is None:
        return statement
    listed = _id(target, source) == sa.func.any(sa.bindparam("ids", type_=ARRAY(sa.Text)))
    return statement.where(listed if among == "only" else sa.not_(listed))


def texts(target: Target, column: str, rows: int, *, seed: int, max_chars: int) -> sa.Select[Any]:
    """Returns the id of some rows and the beginning of their texts: the same rows in the same order for one seed.

    Rows in the order of a hash of their id: with more of them the first stay the same, whatever else is written.
    Those without a text are left out, and those without the embedding of a prefix, which no search finds.

    :param rows: how many at most.
    :param max_chars: characters of each text.
    """
    needed = dict.fromkeys(prefix.embedding for prefix in target.prefixes)
    source = _table(target, column, *needed)
    text = sa.cast(source.c[column], sa.Text)
    row = _id(target, source)
    there = [source.c[name].is_not(None) for name in needed]
    chosen = sa.select(row, sa.func.left(text, number(max_chars))).where(text != "", *there)
    return chosen.order_by(sa.func.hashtextextended(row, sa.cast(number(seed), sa.BigInteger)), row).limit(number(rows))


def _table(target: Target, *others: str) -> sa.TableClause:
    names = dict.fromkeys([*target.key, *(name for name, _ in target.columns), *others])
    return sa.table(target.name, *(sa.column(name) for name in names), schema=target.schema)


def _id(target: Target, source: sa.FromClause) -> ColumnElement[str]:
    key = [column_of(source, name) for name in target.key]
    return sa.cast(key[0] if len(key) == 1 else sa.func.row(*key), sa.Text)


def _kept(target: Target, source: sa.FromClause, shape: FilterShape) -> ColumnElement[bool]:
    # Where a condition is neither true nor false, WHERE does not keep the row.
    return sa.func.coalesce(sa.and_(*filter_conditions(target, source, shape)), sa.false())
