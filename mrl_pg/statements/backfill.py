"""The statements of the backfill."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import NULLTYPE

from mrl_pg.spec import Prefix
from mrl_pg.statements.parts import Key, column_of, number, text


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
    if prefix.kind == "binary":
        made = sa.func.mrl.bits(embedding, number(prefix.dims))
    else:
        made = sa.func.mrl.prefix(embedding, number(prefix.dims), text(prefix.distance))
    after = [_after(key, "last")] if resume else []
    return (
        sa.update(table)
        .values({prefix.prefix: made})
        .where(*_unfilled(table, prefix), *after, ~_after(key, "bound"))
        .returning(*key, column_of(table, prefix.prefix).is_(None).label("impossible"))
    )


def _after(key: Key, name: str) -> ColumnElement[bool]:
    values = [sa.bindparam(f"{name}_{n}", type_=NULLTYPE) for n in range(len(key))]
    return sa.tuple_(*key) > sa.tuple_(*values)


def _unfilled(table: sa.FromClause, prefix: Prefix) -> list[ColumnElement[bool]]:
    return [column_of(table, prefix.embedding).is_not(None), column_of(table, prefix.prefix).is_(None)]
