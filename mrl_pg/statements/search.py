"""The search statement, for one query and for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from mrl_pg.statements.parts import Key, NamedType, column_of, made, materialized, number, prefix_type, text

# Settings that a search carries; the first is the one stage one waits for.
SETTINGS = ("hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier")


def search(
    table: sa.FromClause,
    key: Key,
    prefixes: Sequence[Prefix],
    plan: SearchPlan,
    *,
    query: ColumnElement[Any],
    prefix_queries: Sequence[ColumnElement[Any]],
    columns: Sequence[Any],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> sa.Select[Any]:
    """Returns the search statement.

    Its rows are the columns, then ``distance``, ``received`` and the key, nearest first.

    The statement is right wherever it runs because it carries its settings: mrl_before remembers the caller's,
    mrl_settings sets ours, stage one (mrl_candidates) cannot start without them, mrl_restored puts the caller's
    back once all candidates are counted, and the last stage (mrl_hits) waits for that. The stages of a funnel
    (mrl_stage_2, ...) narrow the candidates down in between.

    A query that was projected for one basis must not meet prefixes of another, which a table may have that took the
    name of the one described. So with rotated prefixes the statement has a parameter more, ``mrl_table``, the name of
    the table as SQL writes it, and finds nothing where that table does not have their bases.

    :param prefixes: the prefix of each stage before the rerank.
    :param query: the full query; a parameter of any type that casts to the type of the embedding.
    :param prefix_queries: the same for each prefix; an exact search leaves them out.
    :param columns: what to return of the rows found: columns of the table, or a mapped class.
    :param source: what rows come from, where that is not the table itself: the mapped class, whose criteria
        (single-table inheritance, with_loader_criteria) then belong to stage one too.
    :param where: conditions on the table; they belong to stage one.
    """
    source = table if source is None else source
    found, received = hits(
        table, key, prefixes, plan, query=query, prefix_queries=prefix_queries, source=source, where=where
    )
    return joined(found, key, columns, source).add_columns(
        received.label("received"), *(_of(found, column).label(f"key_{n}") for n, column in enumerate(key))
    )


def hits(
    table: sa.FromClause,
    key: Key,
    prefixes: Sequence[Prefix],
    plan: SearchPlan,
    *,
    query: ColumnElement[Any],
    prefix_queries: Sequence[ColumnElement[Any]],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> tuple[sa.CTE, ColumnElement[int]]:
    """Returns (mrl_hits, received): the k nearest keys with their ``mrl_distance``, and how many candidates came."""
    source = table if source is None else source
    # As a subquery the cast runs once, not for every row.
    query = sa.select(sa.cast(query, _full_type(prefixes[0])).label("query")).scalar_subquery()
    if plan.exact:
        every = _exact(key, prefixes[0], plan, query, table, source, where).subquery("mrl_every")
        found = materialized(sa.select(*every.c).where(_is_number(every)), "mrl_hits")
        return found, sa.select(sa.func.count()).select_from(found).scalar_subquery()
    bases = _bases(prefixes)
    before, ours = _settings(plan, bases)
    if bases:
        # A condition on no row: where it fails, the scan does not begin.
        where = [sa.select(ours.c.ef_search).scalar_subquery().is_not(None), *where]
    first, *others = (
        sa.cast(short, prefix_type(p.kind, p.dims)) for p, short in zip(prefixes, prefix_queries, strict=True)
    )
    ready = sa.case((ours.c.ef_search.is_not(None), first))
    operands = [sa.select(short.label("prefix")).scalar_subquery() for short in (ready, *others)]
    orders = _orders(prefixes, plan, operands, query)
    candidates = found = materialized(_nearest(key, orders, table, source, where), "mrl_candidates")
    for n in range(1, len(prefixes)):
        found = materialized(_narrowed(found, key, orders[n:]), f"mrl_stage_{n + 1}")
    restored = _restored(before, candidates)
    received = sa.select(restored.c.received).scalar_subquery()
    return materialized(_ranked(found, key, orders[-1]).where(received.is_not(None)), "mrl_hits"), received


def search_many(
    table: sa.FromClause,
    key: Key,
    prefixes: Sequence[Prefix],
    plan: SearchPlan,
    *,
    queries: ColumnElement[Any],
    prefix_queries: Sequence[ColumnElement[Any]],
    columns: Sequence[Any],
    source: Any = None,
    where: Sequence[ColumnElement[bool]] = (),
) -> sa.Select[Any]:
    """Returns one statement for many queries, given as arrays of text: the full ones, and their prefixes by stage.

    Its rows are those of :func:`search` followed by ``n``, the number of their query (from 1), in its order.
    """
    source = table if source is None else source
    stages = [] if plan.exact else [*zip(prefixes, prefix_queries, strict=True)]
    names = [f"prefix_{n}" for n in range(len(stages))]
    shorts = (sa.cast(short, ARRAY(prefix_type(prefix.kind, prefix.dims))) for prefix, short in stages)
    given = (
        sa.func.unnest(sa.cast(queries, ARRAY(_full_type(prefixes[0]))), *shorts)
        .table_valued("query", *names, with_ordinality="n", name="given")
        .render_derived()
    )
    asked = sa.select(given.c.n.label("mrl_n"), given.c.query, *(given.c[name] for name in names))
    if plan.exact:
        asked_cte = materialized(asked, "mrl_queries")
        nearest = _exact(key, prefixes[0], plan, asked_cte.c.query, table, source, where).add_columns(
            sa.literal_column("NULL", sa.BigInteger).label("mrl_received")
        )
    else:
        before, ours = _settings(plan, _bases(prefixes))
        # Every scan waits for the settings, because its query does.
        asked_cte = materialized(asked.join_from(given, ours, ours.c.ef_search.is_not(None)), "mrl_queries")
        orders = _orders(prefixes, plan, [asked_cte.c[name] for name in names], asked_cte.c.query)
        counted = sa.func.count().over().label("mrl_received")
        candidates = _nearest(key, orders, table, source, where).subquery("mrl_nearest_prefixes")
        found_here: sa.FromClause = sa.select(*candidates.c, counted).subquery("mrl_candidates")
        for n in range(1, len(prefixes)):
            found_here = _narrowed(found_here, key, orders[n:], "mrl_received").subquery(f"mrl_stage_{n + 1}")
        nearest = _ranked(found_here, key, orders[-1]).add_columns(found_here.c.mrl_received)
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

    Candidates carry only the key and the embedding; the k rows that are left join back to their table, unless nothing
    but their keys is asked for.
    """
    keys = [_of(found, column) for column in key]
    selected = sa.select(*columns, found.c.mrl_distance.label("distance")).order_by(found.c.mrl_distance, *keys)
    if not columns:
        return selected
    on = sa.and_(*(column == found_key for column, found_key in zip(key, keys, strict=True)))
    return selected.join_from(source, found, on)


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
def _settings(plan: SearchPlan, bases: tuple[str, ...]) -> tuple[sa.CTE, sa.CTE]:
    """Returns (mrl_before, mrl_settings): the caller's settings, and ours set; no row of ours without the bases."""
    remembered = [sa.func.current_setting(text(name), sa.true()).label(_short(name)) for name in SETTINGS]
    before = materialized(sa.select(*remembered), "mrl_before")
    # The memory bound is lifted (1000 is pgvector's largest multiple of work_mem), so that max_scan_tuples is the
    # only one: at about 220 bytes a tuple, 20,000 take 4.4 MB.
    values = (str(plan.ef_search), "relaxed_order", str(plan.max_scan_tuples), "1000")
    ours = [_set(name, text(value)) for name, value in zip(SETTINGS, values, strict=True)]
    there = [_has_basis(basis) for basis in bases]
    return before, materialized(sa.select(*ours).select_from(before).where(*there), "mrl_settings")


def _bases(prefixes: Sequence[Prefix]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(prefix.basis for prefix in prefixes if prefix.basis is not None))


def _has_basis(basis: str) -> ColumnElement[bool]:
    """Whether the table of the parameter mrl_table has a prefix of a basis: its trigger names it, by an id that is
    unique everywhere."""
    triggers = sa.table("pg_trigger", sa.column("tgrelid"), sa.column("tgargs"), schema="pg_catalog")
    arguments = sa.func.encode(triggers.c.tgargs, text("escape"))
    return sa.exists(
        sa.select(triggers.c.tgrelid).where(
            triggers.c.tgrelid == sa.func.to_regclass(sa.bindparam("mrl_table", type_=sa.Text())),
            sa.func.strpos(arguments, text(basis)) > sa.literal_column("0"),
        )
    )


def _restored(before: sa.CTE, candidates: sa.FromClause) -> sa.CTE:
    counted = sa.select(sa.func.count().label("received")).select_from(candidates).subquery("counted")
    settings = [_set(name, before.c[_short(name)]) for name in SETTINGS]
    return materialized(sa.select(counted.c.received, *settings).join_from(counted, before, sa.true()), "mrl_restored")


@dataclass(frozen=True, slots=True)
class _Order:
    """What a stage orders by, and how many rows it keeps."""

    prefix: Prefix
    by: str
    operand: ColumnElement[Any]
    keep: int
    # Of a prefix that an index does not vouch for, rows may still wait for the backfill.
    may_lack: bool

    def distance(self, found: sa.FromClause) -> ColumnElement[float]:
        vector = column_of(found, self.by)
        if self.may_lack:
            vector = sa.func.coalesce(vector, made(column_of(found, self.prefix.embedding), self.prefix))
        operator = OPERATORS[self.prefix.distance] if self.by == self.prefix.embedding else self.prefix.operator
        return vector.op(operator, return_type=sa.Float())(self.operand)

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns, beside the key."""
        return (self.by, self.prefix.embedding) if self.may_lack else (self.by,)


def _orders(
    prefixes: Sequence[Prefix], plan: SearchPlan, operands: Sequence[ColumnElement[Any]], query: ColumnElement[Any]
) -> list[_Order]:
    """Returns the orders of all stages; the last, which ranks the hits, by the embedding or the last prefix."""
    keep = [stage.candidates for stage in plan.stages] or [plan.candidates]
    orders = [
        _Order(prefix, prefix.prefix, operand, count, n > 0)
        for n, (prefix, operand, count) in enumerate(zip(prefixes, operands, keep, strict=True))
    ]
    last = orders[-1]
    if plan.rerank:
        return [*orders, _Order(last.prefix, last.prefix.embedding, query, plan.k, False)]
    return [*orders, replace(last, keep=plan.k)]


def _nearest(
    key: Key,
    orders: Sequence[_Order],
    table: sa.FromClause,
    source: Any,
    where: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    """Stage one. relaxed_order may return candidates slightly out of order, which the next stage puts right."""
    first, *later = orders
    return (
        sa.select(*key, *_carried(table, later))
        .select_from(source)
        # What the index holds: without it a plan that does without the index would find rows that have no prefix.
        .where(column_of(table, first.by).is_not(None), *where)
        .order_by(first.distance(table))
        .limit(number(first.keep))
    )


def _narrowed(found: sa.FromClause, key: Key, orders: Sequence[_Order], *others: str) -> sa.Select[Any]:
    """A stage between; what it carries of the full embedding is where that is stored, not the vector."""
    first, *later = orders
    keys = [_of(found, column) for column in key]
    carried = [*_carried(found, later), *(found.c[name] for name in others)]
    return sa.select(*keys, *carried).order_by(first.distance(found), *keys).limit(number(first.keep))


def _carried(found: sa.FromClause, later: Sequence[_Order]) -> list[ColumnElement[Any]]:
    names = dict.fromkeys(name for order in later for name in order.needs)
    return [column_of(found, name) for name in names]


def _of(found: sa.FromClause, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same column, after it went through a CTE."""
    return found.c[str(column.key)]


def _is_number(found: sa.FromClause) -> ColumnElement[bool]:
    """Leaves out zero vectors, whose cosine distance is no number; only exact search meets them."""
    return found.c.mrl_distance != sa.literal_column("'NaN'", sa.Float)


def _ranked(candidates: sa.FromClause, key: Key, order: _Order) -> sa.Select[Any]:
    """The last stage."""
    keys = [_of(candidates, column) for column in key]
    distance = order.distance(candidates).label("mrl_distance")
    return sa.select(*keys, distance).order_by(distance, *keys).limit(number(order.keep))


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
    compared = embedding.op(OPERATORS[prefix.distance], return_type=sa.Float())(query)
    distance = (compared + sa.literal_column("0")).label("mrl_distance")
    return (
        sa.select(*key, distance)
        .select_from(source)
        .where(embedding.is_not(None), *where)
        .order_by(distance, *key)
        .limit(number(plan.k))
    )


def _full_type(prefix: Prefix) -> TypeEngine[Any]:
    return (HALFVEC if prefix.embedding_type == "halfvec" else VECTOR)(prefix.full_dims)


def _set(name: str, value: ColumnElement[Any]) -> ColumnElement[str]:
    return sa.func.set_config(text(name), value, sa.true()).label(_short(name))


def _short(name: str) -> str:
    return name.partition(".")[2]
