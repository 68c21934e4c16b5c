"""The statements of the recall that was measured over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from mrl_pg.statements.parts import regclass

_HISTORY = sa.table(
    "recall_history",
    *(
        sa.column(name)
        for name in (
            "measured_at", "target", "prefix", "source", "k", "candidates", "ef_search", "queries", "recall", "low",
            "high", "worst", "p50_ms", "floor",
        )
    ),
    schema="mrl",
)  # fmt: skip

MAY_STORE_RECALL = sa.text("SELECT has_table_privilege('mrl.recall_history', 'INSERT'), quote_ident(current_user)")


def store_recall(table: str, figures: Mapping[str, Any]) -> sa.Insert:
    """Returns the statement that stores the figures of a run, by column; it answers when that was.

    :param table: quoted as in SQL (see :func:`quoted`).
    """
    values = {**figures, "target": _full_name(table)}
    return sa.insert(_HISTORY).values(values).returning(_HISTORY.c.measured_at)


def last_recall(table: str, figures: Mapping[str, Any]) -> sa.Select[Any]:
    """Returns recall, low, high and time of the last run that can be compared: the same search, the same source."""
    same = [_HISTORY.c[name] == figures[name] for name in ("prefix", "source", "k", "candidates", "ef_search")]
    columns = (_HISTORY.c[name] for name in ("recall", "low", "high", "measured_at"))
    rows = sa.select(*columns).where(_HISTORY.c.target == _full_name(table), *same)
    return rows.order_by(_HISTORY.c.measured_at.desc()).limit(1)


def _full_name(table: str) -> sa.ScalarSelect[Any]:
    """The name of a table with its schema, quoted where it must be; as in mrl.bases."""
    relation = sa.table("pg_class", *map(sa.column, ("oid", "relname", "relnamespace")), schema="pg_catalog")
    schema = sa.table("pg_namespace", *map(sa.column, ("oid", "nspname")), schema="pg_catalog")
    joined = relation.join(schema, schema.c.oid == relation.c.relnamespace)
    name = sa.func.format("%I.%I", schema.c.nspname, relation.c.relname)
    return sa.select(name).select_from(joined).where(relation.c.oid == regclass(table)).scalar_subquery()
