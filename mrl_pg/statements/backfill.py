"""The statements of the backfill."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import NULLTYPE

from mrl_pg.registry import Target
from mrl_pg.spec import Prefix
from mrl_pg.statements.parts import Key, NamedType, column_of, made, number

# What an array of them says in binary that it is made of.
HALFVEC_OID = sa.text("SELECT CAST(CAST('halfvec' AS regtype) AS oid)")


def missing(table: sa.TableClause, prefix: Prefix) -> sa.Select[Any]:
    """Returns the count of rows that have an embedding but no prefix."""
    return sa.select(sa.func.count()).select_from(table).where(*_unfilled(table, prefix))


def backfill_bound(table: sa.TableClause, key: Key, prefix: Prefix, batch_size: int, *, resume: bool) -> sa.Select[Any]:
    """Returns the last key of the next batch, or no row where nothing is left.

    :param resume: whether to begin after the key in the parameters ``last_0``, ``last_1``, …
    """
    after = [_after(key, "last")] if resume else []
    rows = sa.select(*key).where(*_unfilled(table, prefix), *after).order_by(*key).limit(number(batch_size))
    batch = rows.subquery("mrl_batch")
    keys = [batch.c[column.name] for column in key]
    return sa.select(*keys).order_by(*(column.desc() for column in keys)).limit(number(1))


def backfill_batch(table: sa.TableClause, key: Key, prefix: Prefix, *, resume: bool) -> sa.Update:
    """Returns the statement that fills a batch; its rows are (key…, impossible) in no order.

    UPDATE computes the prefix of the row as it is when its lock is had, so a concurrent update is never
    overwritten with the prefix of an older embedding (PostgreSQL rechecks a row it had to wait for).

    :param resume: as in :func:`backfill_bound`, whose row goes into the parameters ``bound_0``, ``bound_1``, …
    """
    embedding = column_of(table, prefix.embedding)
    after = [_after(key, "last")] if resume else []
    return (
        sa.update(table)
        .values({prefix.prefix: made(embedding, prefix)})
        .where(*_unfilled(table, prefix), *after, ~_after(key, "bound"))
        .returning(*key, column_of(table, prefix.prefix).is_(None).label("impossible"))
    )


def backfill_rows(table: sa.TableClause, key: Key, prefix: Prefix, *, resume: bool) -> sa.Select[Any]:
    """Returns the statement that locks a batch and reads it: the keys as text, the embeddings as bytes.

    What it reads stays true until its transaction ends, which is when :func:`backfill_write` has written.
    Parameters are those of :func:`backfill_batch`.
    """
    after = [_after(key, "last")] if resume else []
    columns: list[Any] = [sa.cast(column, sa.Text) for column in key]
    return (
        sa.select(*columns, sa.func.mrl.to_bytes(column_of(table, prefix.embedding)))
        .select_from(table)
        .where(*_unfilled(table, prefix), *after, ~_after(key, "bound"))
        .order_by(*key)
        .with_for_update(key_share=True)
    )


def backfill_write(target: Target, table: sa.TableClause, key: Key, prefix: Prefix) -> sa.Update:
    """Returns the statement that writes prefixes made elsewhere; its rows are those of :func:`backfill_batch`.

    Keys go as text (``keys_0``, …) and are cast to their types, which is right for any type; ``prefixes`` may be
    shorter, and what is left has none.
    """
    names = [f"key_{n}" for n in range(len(key))]
    keys = [sa.cast(sa.bindparam(f"keys_{n}", type_=NULLTYPE), ARRAY(sa.Text)) for n in range(len(key))]
    prefixes = sa.cast(sa.bindparam("prefixes", type_=NULLTYPE), ARRAY(HALFVEC()))
    given = sa.func.unnest(*keys, prefixes).table_valued(*names, "prefix", name="mrl_made").render_derived()
    same = [
        column == sa.cast(given.c[name], NamedType(target.column_type(column.name)))
        for column, name in zip(key, names, strict=True)
    ]
    return (
        sa.update(table)
        .values({prefix.prefix: given.c.prefix})
        .where(*same)
        .returning(*key, column_of(table, prefix.prefix).is_(None).label("impossible"))
    )


def touch(table: sa.TableClause, prefix: Prefix) -> sa.Update:
    """Returns the statement that has the trigger fill every row that lacks its prefix."""
    return sa.update(table).values({prefix.embedding: table.c[prefix.embedding]}).where(*_unfilled(table, prefix))


def _after(key: Key, name: str) -> ColumnElement[bool]:
    values = [sa.bindparam(f"{name}_{n}", type_=NULLTYPE) for n in range(len(key))]
    return sa.tuple_(*key) > sa.tuple_(*values)


def _unfilled(table: sa.FromClause, prefix: Prefix) -> list[ColumnElement[bool]]:
    return [column_of(table, prefix.embedding).is_not(None), column_of(table, prefix.prefix).is_(None)]
