"""The search statement, for one query and for many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import NULLTYPE, TypeEngine

from mrl_pg.registry import Target
from mrl_pg.search import FilterShape, SearchPlan
from mrl_pg.spec import OPERATORS, Prefix
from mrl_pg.statements.parts import Key, NamedType, column_of, materialized, number, prefix_type, text

# Settings that a search carries; the first is the one stage one waits for.
SETTINGS = ("hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier")


def search(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    *,
    query: ColumnElement[Any],
    prefix_query: ColumnElement[Any],
    columns: Sequence[Any],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> sa.Select[Any]:
    """Returns the search statement.

    Its rows are the columns, then ``distance``, ``received`` and the key, nearest first.

    The statement is right wherever it runs because it carries its settings: mrl_before remembers the caller's,
    mrl_settings sets ours, stage one (mrl_candidates) cannot start without them, mrl_restored puts the caller's
    back once all candidates are counted, and stage two (mrl_hits) waits for that.

    :param query: the full query; a parameter of any type that casts to the type of the embedding.
    :param prefix_query: the same for its prefix; an exact search leaves it out.
    :param columns: what to return of the rows found: columns of the table, or a mapped class.
    :param source: what rows come from, where that is not the table itself: the mapped class, whose criteria
        (single-table inheritance, with_loader_criteria) then belong to stage one too.
    :param where: conditions on the table; they belong to stage one.
    """
    source = table if source is None else source
    found, received = hits(table, key, prefix, plan, query=query, prefix_query=prefix_query, source=source, where=where)
    return joined(found, key, columns, source).add_columns(
        received.label("received"), *(_of(found, column).label(f"key_{n}") for n, column in enumerate(key))
    )


def hits(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    *,
    query: ColumnElement[Any],
    prefix_query: ColumnElement[Any],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> tuple[sa.CTE, ColumnElement[int]]:
    """Returns (mrl_hits, received): the k nearest keys with their ``mrl_distance``, and how many candidates came."""
    source = table if source is None else source
    # As a subquery the cast runs once, not for every row.
    query = sa.select(sa.cast(query, _full_type(prefix)).label("query")).scalar_subquery()
    if plan.exact:
        every = _exact(key, prefix, plan, query, table, source, where).subquery("mrl_every")
        found = materialized(sa.select(*every.c).where(_is_number(every)), "mrl_hits")
        return found, sa.select(sa.func.count()).select_from(found).scalar_subquery()
    before, ours = _settings(plan)
    short = sa.cast(prefix_query, prefix_type(prefix.kind, prefix.dims))
    ready = sa.select(sa.case((ours.c.ef_search.is_not(None), short)).label("prefix")).scalar_subquery()
    candidates = materialized(_nearest(key, prefix, plan, ready, table, source, where), "mrl_candidates")
    restored = _restored(before, candidates)
    received = sa.select(restored.c.received).scalar_subquery()
    return materialized(
        _reranked(candidates, key, prefix, plan, query).where(received.is_not(None)), "mrl_hits"
    ), received


def search_many(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    *,
    queries: ColumnElement[Any],
    prefix_queries: ColumnElement[Any],
    columns: Sequence[Any],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> sa.Select[Any]:
    """Returns one statement for many queries, which are two arrays of text: the full ones and their prefixes.

    Its rows are those of :func:`search` followed by ``n``, the number of their query (from 1), in its order.
    """
    source = table if source is None else source
    given = (
        sa.func.unnest(
            sa.cast(queries, ARRAY(_full_type(prefix))),
            sa.cast(prefix_queries, ARRAY(prefix_type(prefix.kind, prefix.dims))),
        )
        .table_valued("query", "prefix", with_ordinality="n", name="given")
        .render_derived()
    )
    asked = sa.select(given.c.n.label("mrl_n"), given.c.query, given.c.prefix)
    if plan.exact:
        asked_cte = materialized(asked, "mrl_queries")
        nearest = _exact(key, prefix, plan, asked_cte.c.query, table, source, where).add_columns(
            sa.literal_column("NULL", sa.BigInteger).label("mrl_received")
        )
    else:
        before, ours = _settings(plan)
        # Every scan waits for the settings, because its query does.
        asked_cte = materialized(asked.join_from(given, ours, ours.c.ef_search.is_not(None)), "mrl_queries")
        candidates = _nearest(key, prefix, plan, asked_cte.c.prefix, table, source, where)
        nearest = _reranked(candidates.subquery("mrl_candidates"), key, prefix, plan, asked_cte.c.query).add_columns(
            sa.func.count().over().label("mrl_received")
        )
    each = nearest.correlate(asked_cte).lateral("mrl_nearest")
    found = materialized(sa.select(asked_cte.c.mrl_n, *each.c).join_from(asked_cte, each, _is_number(each)), "mrl_hits")
    statement = joined(found, key, columns, source).add_columns(
        found.c.mrl_received.label("received"),
        *(_of(found, column).label(f"key_{n}") for n, column in enumerate(key)),
        found.c.mrl_n.label("n"),
    )
    if not plan.exact:
        restored = _restored(before, found)
        statement = statement.where(sa.select(restored.c.received).scalar_subquery().is_not(None))
    return statement.order_by(None).order_by(found.c.mrl_n, found.c.mrl_distance, *(_of(found, c) for c in key))


def joined(found: sa.CTE, key: Key, columns: Sequence[Any], source: Any) -> sa.Select[Any]:
    """Returns the columns of the rows found and their ``distance``, nearest first.

    Candidates carry only the key and the embedding; the k rows that are left join back to their table.
    """
    on = sa.and_(*(column == _of(found, column) for column in key))
    return (
        sa.select(*columns, found.c.mrl_distance.label("distance"))
        .join_from(source, found, on)
        .order_by(found.c.mrl_distance, *(_of(found, column) for column in key))
    )


def filter_conditions(target: Target, table: sa.FromClause, shape: FilterShape) -> list[ColumnElement[bool]]:
    """Returns conditions whose values are the parameters ``filter_0``, ``filter_1``, … in the order of the shape."""
    conditions: list[ColumnElement[bool]] = []
    for n, (name, comparison) in enumerate(shape):
        column = column_of(table, name)
        sql_type = target.column_type(name)
        value = sa.bindparam(f"filter_{n}", type_=NULLTYPE)
        if comparison == "null":
            conditions.append(column.is_(None))
        elif comparison == "equal":
            conditions.append(column == value)
        else:
            # The cast lets a list of strings meet a column of uuid, date, enum and the like.
            among = column == sa.func.any(sa.cast(value, NamedType(f"{sql_type}[]")))
            conditions.append(sa.or_(among, column.is_(None)) if comparison == "any or null" else among)
    return conditions


# Cached because building takes a third of a millisecond, and an application has few plans.
@lru_cache(maxsize=256)
def _settings(plan: SearchPlan) -> tuple[sa.CTE, sa.CTE]:
    """Returns (mrl_before, mrl_settings): the caller's settings, and ours set."""
    remembered = [sa.func.current_setting(text(name), sa.true()).label(_short(name)) for name in SETTINGS]
    before = materialized(sa.select(*remembered), "mrl_before")
    # The memory bound is lifted (1000 is pgvector's largest multiple of work_mem), so that max_scan_tuples is the
    # only one: at about 220 bytes a tuple, 20,000 take 4.4 MB.
    values = (str(plan.ef_search), "relaxed_order", str(plan.max_scan_tuples), "1000")
    ours = [_set(name, text(value)) for name, value in zip(SETTINGS, values, strict=True)]
    return before, materialized(sa.select(*ours).select_from(before), "mrl_settings")


def _restored(before: sa.CTE, candidates: sa.FromClause) -> sa.CTE:
    counted = sa.select(sa.func.count().label("received")).select_from(candidates).subquery("counted")
    settings = [_set(name, before.c[_short(name)]) for name in SETTINGS]
    return materialized(sa.select(counted.c.received, *settings).join_from(counted, before, sa.true()), "mrl_restored")


def _nearest(
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    operand: ColumnElement[Any],
    table: sa.FromClause,
    source: Any,
    where: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    """Stage one. relaxed_order may return candidates slightly out of order, which stage two puts right."""
    return (
        sa.select(*key, column_of(table, prefix.embedding))
        .select_from(source)
        # What the index holds: without it a plan that does without the index would find rows that have no prefix.
        .where(column_of(table, prefix.prefix).is_not(None), *where)
        .order_by(column_of(table, prefix.prefix).op(prefix.operator)(operand))
        .limit(number(plan.candidates))
    )


def _of(found: sa.FromClause, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same column, after it went through a CTE."""
    return found.c[str(column.key)]


def _is_number(found: sa.FromClause) -> ColumnElement[bool]:
    """Leaves out zero vectors, whose cosine distance is no number; only exact search meets them."""
    return found.c.mrl_distance != sa.literal_column("'NaN'", sa.Float)


def _reranked(
    candidates: sa.FromClause, key: Key, prefix: Prefix, plan: SearchPlan, query: ColumnElement[Any]
) -> sa.Select[Any]:
    """Stage two."""
    keys = [_of(candidates, column) for column in key]
    distance = _distance(column_of(candidates, prefix.embedding), prefix, query).label("mrl_distance")
    return sa.select(*keys, distance).order_by(distance, *keys).limit(number(plan.k))


def _exact(
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    query: ColumnElement[Any],
    table: sa.FromClause,
    source: Any,
    where: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    embedding = column_of(table, prefix.embedding)
    # "+ 0" is no expression of any index, so every row is compared.
    distance = (_distance(embedding, prefix, query) + sa.literal_column("0")).label("mrl_distance")
    return (
        sa.select(*key, distance)
        .select_from(source)
        .where(embedding.is_not(None), *where)
        .order_by(distance, *key)
        .limit(number(plan.k))
    )


def _distance(embedding: ColumnElement[Any], prefix: Prefix, query: ColumnElement[Any]) -> ColumnElement[float]:
    return embedding.op(OPERATORS[prefix.distance], return_type=sa.Float())(query)


def _full_type(prefix: Prefix) -> TypeEngine[Any]:
    return (HALFVEC if prefix.embedding_type == "halfvec" else VECTOR)(prefix.full_dims)


def _set(name: str, value: ColumnElement[Any]) -> ColumnElement[str]:
    return sa.func.set_config(text(name), value, sa.true()).label(_short(name))


def _short(name: str) -> str:
    return name.partition(".")[2]
