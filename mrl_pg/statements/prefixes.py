"""Calls of the functions that add and drop prefixes and their indexes."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from mrl_pg.statements.catalog import PREFIX_INDEXES
from mrl_pg.statements.parts import regclass


def add_prefix(
    table: str,
    embedding: str,
    dims: int | None,
    distance: str,
    model: str | None,
    *,
    kind: str = "truncate",
    layer_norm: bool = False,
    basis: str | None = None,
) -> sa.Select[Any]:
    """Returns the call of mrl.add_prefix; ``table`` is quoted as in SQL (see :func:`quoted`)."""
    given: list[Any] = [regclass(table), embedding, dims, distance, model]
    options: dict[str, Any] = {"kind": kind} if kind != "truncate" else {}
    options |= {"layer_norm": True} if layer_norm else {}
    options |= {"basis": basis} if basis else {}
    if options:
        # By way of text, which can also be a literal.
        given.append(sa.cast(sa.literal(json.dumps(options), sa.Text), JSONB))
    return sa.select(sa.func.mrl.add_prefix(*given))


def drop_prefix(table: str, prefix: str) -> sa.Select[Any]:
    """Returns the call of mrl.drop_prefix; ``table`` is quoted as in SQL (see :func:`quoted`)."""
    return sa.select(sa.func.mrl.drop_prefix(regclass(table), prefix))


def create_prefix_index(table: str, prefix: str, *, concurrently: bool, m: int, ef_construction: int) -> sa.Select[Any]:
    """Returns the call of mrl.create_prefix_index, which answers the statement that builds the index.

    With ``concurrently`` that is left to the caller to run, outside a transaction; otherwise it has run.
    """
    options = sa.func.jsonb_build_object("m", m, "ef_construction", ef_construction)
    return sa.select(sa.func.mrl.create_prefix_index(regclass(table), prefix, sa.literal(concurrently), options))


def drop_prefix_index(
    table: str, prefix: str, *, concurrently: bool, m: int, ef_construction: int, only_invalid: bool = False
) -> sa.Select[Any]:
    """Returns the query for the statements that drop the indexes of a prefix with this m and ef_construction.

    They are left to the caller to run; those with ``concurrently`` outside a transaction.

    :param only_invalid: leave out the valid ones; the rest is what failed builds have left.
    """
    found = (
        PREFIX_INDEXES.bindparams(target=table, prefix=prefix, m=m, ef_construction=ef_construction)
        .columns(sa.column("nspname"), sa.column("relname"), sa.column("indisvalid", sa.Boolean))
        .subquery("found")
    )
    drop = "DROP INDEX CONCURRENTLY %I.%I" if concurrently else "DROP INDEX %I.%I"
    statements = sa.select(sa.func.format(drop, found.c.nspname, found.c.relname))
    return statements.where(sa.not_(found.c.indisvalid)) if only_invalid else statements
