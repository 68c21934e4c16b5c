"""The statements that a basis is stored and read with."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import NULLTYPE

from mrl_pg.statements.parts import regclass

# The directions of a basis, end to end in binary form.
BASIS = sa.text("""
SELECT full_dims, (SELECT string_agg(mrl.to_bytes(axis), '' ORDER BY n)
                   FROM unnest(rows) WITH ORDINALITY AS a (axis, n))
FROM mrl.bases WHERE id = CAST(:id AS uuid)
""").bindparams(sa.bindparam("id", type_=sa.Text))

# What is known of the fit: the basis of a prefix.
FIT = sa.text("""
SELECT b.full_dims, b.sample, b.kept FROM mrl.bases b JOIN mrl.prefixes p ON p.basis = b.id
WHERE p.target = CAST(:target AS regclass) AND p.prefix = :prefix
""").bindparams(sa.bindparam("target", type_=sa.Text), sa.bindparam("prefix", type_=sa.Text))


# What is there of a rotation by its version: its prefix, else the basis of one that was dropped.
ROTATION = sa.text("""
SELECT NULL AS basis, p.dims, p.distance FROM mrl.prefixes p
WHERE p.target = CAST(:target AS regclass) AND p.prefix = :prefix
UNION ALL
SELECT CAST(b.id AS text), b.dims, b.distance
FROM mrl.bases b
JOIN pg_catalog.pg_class c ON c.oid = CAST(:target AS regclass)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE b.target = format('%I.%I', n.nspname, c.relname) AND b.embedding = :embedding AND b.version = :version
  AND NOT EXISTS (SELECT FROM mrl.prefixes p WHERE p.basis = b.id)
ORDER BY basis NULLS FIRST LIMIT 1
""").bindparams(
    sa.bindparam("target", type_=sa.Text),
    sa.bindparam("prefix", type_=sa.Text),
    sa.bindparam("embedding", type_=sa.Text),
    sa.bindparam("version", type_=sa.Integer),
)


def add_basis(table: str, embedding: str, distance: str, model: str | None) -> sa.Select[Any]:
    """Returns the call of mrl.add_basis, which answers the id.

    Parameters are ``rows``, ``sample``, ``seed`` and ``kept``.
    """
    # Without a type of its own a parameter takes that of the argument.
    rows = sa.bindparam("rows", type_=NULLTYPE)
    numbers = (
        sa.cast(sa.bindparam("sample"), sa.Integer),
        sa.cast(sa.bindparam("seed"), sa.BigInteger),
        sa.cast(sa.bindparam("kept"), sa.Double),
    )
    call = sa.func.mrl.add_basis(regclass(table), embedding, distance, rows, *numbers, model)
    return sa.select(sa.cast(call, sa.Text))
