"""Every statement we send, as SQLAlchemy Core: the only SQL generator of the Python side.

Names given by users become identifiers of SQLAlchemy, values become parameters. What the planner must match
(dims, limits) is a literal, checked to be a whole number before it gets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy.dialects.postgresql import ARRAY, REGCLASS, dialect
from sqlalchemy.sql import ClauseElement, ColumnElement
from sqlalchemy.types import NULLTYPE, TypeEngine, UserDefinedType

from mrl_pg.errors import SearchError
from mrl_pg.registry import Target
from mrl_pg.search import FilterShape, SearchPlan
from mrl_pg.spec import OPERATORS, Prefix

# Its names become values, in which a % stands for itself: not the default paramstyle, which doubles it.
_preparer = dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# Settings that a search carries; the first is the one stage one waits for.
SETTINGS = ("hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier")

PROBE = sa.text("SELECT to_regclass('mrl.prefixes') IS NOT NULL")
VERSION = sa.text("SELECT mrl.version()")
IS_EXTENSION = sa.text("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'mrl_pg')")
# As sql/uninstall.sql, but where prefixes remain it does nothing instead of refusing.
UNINSTALL_IF_UNUSED = sa.text("""
DO $$
BEGIN
    IF to_regclass('mrl.prefixes') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM mrl.prefixes) THEN
            DROP EXTENSION IF EXISTS mrl_pg;
            DROP SCHEMA IF EXISTS mrl CASCADE;
        END IF;
    END IF;
END
$$
""")

STATUS_COLUMNS = (
    "target",
    "embedding",
    "prefix",
    "kind",
    "dims",
    "distance",
    "model",
    "full_dims",
    "embedding_type",
    "maintained",
    "index",
    "index_bytes",
    "rows",
    "missing",
    "impossible",
)

DESCRIBE = sa.text("""
SELECT mrl.version(),
       c.oid IS NOT NULL,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_index x
             CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS i (attnum, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = i.attnum
             WHERE x.indrelid = c.oid AND x.indisprimary ORDER BY i.n),
       (SELECT coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, -1))
                                  ORDER BY a.attnum), '[]')::text
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND t.typname NOT IN ('vector', 'halfvec', 'sparsevec')),
       (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.position), '[]')::text
        FROM mrl.prefixes p WHERE p.target = c.oid)
FROM (SELECT to_regclass(concat_ws('.', quote_ident(CAST(:schema AS text)), quote_ident(CAST(:name AS text))))::oid
      AS oid) AS c
""")


# Every prefix with the schema and name of its table.
PREFIXES = sa.text("""
SELECT n.nspname::text, c.relname::text, to_jsonb(p)::text
FROM mrl.prefixes p
JOIN pg_catalog.pg_class c ON c.oid = p.target
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname, p.position
""")

# Whole HNSW indexes over a prefix that are built with m and ef_construction, also those whose build has failed;
# whatever their names, which stay behind when a table is renamed.
PREFIX_INDEXES = sa.text("""
SELECT n.nspname::text, c.relname::text, i.indisvalid
FROM mrl.prefixes p
JOIN pg_catalog.pg_index i
  ON i.indrelid = p.target AND i.indkey[0] = p.position AND i.indnatts = 1 AND i.indpred IS NULL
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am am ON am.oid = c.relam AND am.amname = 'hnsw'
JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = mrl.operator_class(p.distance)
CROSS JOIN LATERAL (SELECT coalesce(jsonb_object_agg(option_name, option_value), '{}') AS options
                    FROM pg_catalog.pg_options_to_table(c.reloptions)) r
WHERE p.target = CAST(:target AS regclass) AND p.prefix = :prefix
  AND coalesce(CAST(r.options ->> 'm' AS int), 16) = :m
  AND coalesce(CAST(r.options ->> 'ef_construction' AS int), 64) = :ef_construction
ORDER BY i.indisvalid DESC, c.relname
""")

# A locker is a transaction that the build waits for.
INDEX_PROGRESS = sa.text("""
SELECT phase || coalesce(' (pid ' || nullif(current_locker_pid, 0) || ')', ''),
       CASE WHEN lockers_total > 0 THEN lockers_done WHEN blocks_total > 0 THEN blocks_done ELSE tuples_done END,
       CASE WHEN lockers_total > 0 THEN lockers_total WHEN blocks_total > 0 THEN blocks_total ELSE tuples_total END
FROM pg_catalog.pg_stat_progress_create_index
WHERE pid = :pid AND phase IS NOT NULL
""")


# A table as statements see it, and the columns of its primary key.
Key = Sequence[ColumnElement[Any]]


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
    :param source: what the columns come from, where that is not the table itself: the mapped class.
    :param where: conditions on the table; they belong to stage one.
    """
    found, received = hits(table, key, prefix, plan, query=query, prefix_query=prefix_query, where=where)
    return joined(found, key, columns, table if source is None else source).add_columns(
        received.label("received"), *(found.c[column.name].label(f"key_{n}") for n, column in enumerate(key))
    )


def hits(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    *,
    query: ColumnElement[Any],
    prefix_query: ColumnElement[Any],
    where: Sequence[ColumnElement[bool]] = (),
) -> tuple[sa.CTE, ColumnElement[int]]:
    """Returns (mrl_hits, received): the k nearest keys with their ``mrl_distance``, and how many candidates came."""
    # As a subquery the cast runs once, not for every row.
    query = sa.select(sa.cast(query, _full_type(prefix))).scalar_subquery()
    if plan.exact:
        found = _materialized(_exact(table, key, prefix, plan, query, where), "mrl_hits")
        return found, sa.select(sa.func.count()).select_from(found).scalar_subquery()
    before, ours = _settings(plan)
    short = sa.cast(prefix_query, HALFVEC(prefix.dims))
    ready = sa.select(sa.case((ours.c.ef_search.is_not(None), short))).scalar_subquery()
    candidates = _materialized(_nearest(table, key, prefix, plan, ready, where), "mrl_candidates")
    restored = _restored(before, candidates)
    received = sa.select(restored.c.received).scalar_subquery()
    return _materialized(
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
    given = (
        sa.func.unnest(
            sa.cast(queries, ARRAY(_full_type(prefix))), sa.cast(prefix_queries, ARRAY(HALFVEC(prefix.dims)))
        )
        .table_valued("query", "prefix", with_ordinality="n", name="given")
        .render_derived()
    )
    asked = sa.select(given.c.n.label("mrl_n"), given.c.query, given.c.prefix)
    if plan.exact:
        asked_cte = _materialized(asked, "mrl_queries")
        nearest = _exact(table, key, prefix, plan, asked_cte.c.query, where).add_columns(
            sa.literal_column("NULL", sa.BigInteger).label("mrl_received")
        )
    else:
        before, ours = _settings(plan)
        # Every scan waits for the settings, because its query does.
        asked_cte = _materialized(asked.join_from(given, ours, ours.c.ef_search.is_not(None)), "mrl_queries")
        candidates = _nearest(table, key, prefix, plan, asked_cte.c.prefix, where)
        nearest = _reranked(candidates.subquery("mrl_candidates"), key, prefix, plan, asked_cte.c.query).add_columns(
            sa.func.count().over().label("mrl_received")
        )
    each = nearest.correlate(asked_cte).lateral("mrl_nearest")
    found = _materialized(sa.select(asked_cte.c.mrl_n, *each.c).join_from(asked_cte, each, sa.true()), "mrl_hits")
    statement = joined(found, key, columns, table if source is None else source).add_columns(
        found.c.mrl_received.label("received"),
        *(found.c[column.name].label(f"key_{n}") for n, column in enumerate(key)),
        found.c.mrl_n.label("n"),
    )
    if not plan.exact:
        restored = _restored(before, found)
        statement = statement.where(sa.select(restored.c.received).scalar_subquery().is_not(None))
    return statement.order_by(None).order_by(found.c.mrl_n, found.c.mrl_distance, *(found.c[c.name] for c in key))


def joined(found: sa.CTE, key: Key, columns: Sequence[Any], source: Any) -> sa.Select[Any]:
    """Returns the columns of the rows found and their ``distance``, nearest first.

    Candidates carry only the key and the embedding; the k rows that are left join back to their table.
    """
    on = sa.and_(*(column == found.c[column.name] for column in key))
    return (
        sa.select(*columns, found.c.mrl_distance.label("distance"))
        .join_from(source, found, on)
        .order_by(found.c.mrl_distance, *(found.c[column.name] for column in key))
    )


def add_prefix(table: str, embedding: str, dims: int, distance: str, model: str | None) -> sa.Select[Any]:
    """Returns the call of mrl.add_prefix; ``table`` is quoted as in SQL (see :func:`quoted`)."""
    return sa.select(sa.func.mrl.add_prefix(_regclass(table), embedding, dims, distance, model))


def drop_prefix(table: str, prefix: str) -> sa.Select[Any]:
    """Returns the call of mrl.drop_prefix; ``table`` is quoted as in SQL (see :func:`quoted`)."""
    return sa.select(sa.func.mrl.drop_prefix(_regclass(table), prefix))


def create_prefix_index(table: str, prefix: str, *, concurrently: bool, m: int, ef_construction: int) -> sa.Select[Any]:
    """Returns the call of mrl.create_prefix_index, which answers the statement that builds the index.

    With ``concurrently`` that is left to the caller to run, outside a transaction; otherwise it has run.
    """
    options = sa.func.jsonb_build_object("m", m, "ef_construction", ef_construction)
    return sa.select(sa.func.mrl.create_prefix_index(_regclass(table), prefix, sa.literal(concurrently), options))


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


def status(table: str | None) -> sa.Select[Any]:
    """Returns the rows of mrl.status, of one table (quoted as in SQL) or of all."""
    view = sa.table("status", *(sa.column(name) for name in STATUS_COLUMNS), schema="mrl")
    columns = [sa.cast(c, sa.Text).label(c.name) if c.name in ("target", "index") else c for c in view.c]
    rows = sa.select(*columns).order_by(view.c.target, view.c.prefix)
    return rows if table is None else rows.where(view.c.target == _regclass(table))


def quoted(schema: str | None, name: str) -> str:
    """Returns a table's name as SQL writes it, quoted where it must be: a value that casts to regclass."""
    return _preparer.format_table(sa.table(name, schema=schema))


def literal(statement: ClauseElement) -> str:
    """Returns a statement as psql takes it, its values as literals."""
    # Not the dialect of a driver, which may want every % twice.
    plain = dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    plain._backslash_escapes = False  # as it is on every server that has standard_conforming_strings on
    return str(statement.compile(dialect=plain, compile_kwargs={"literal_binds": True})).strip()


def filter_conditions(target: Target, table: sa.FromClause, shape: FilterShape) -> list[ColumnElement[bool]]:
    """Returns conditions whose values are the parameters ``filter_0``, ``filter_1``, … in the order of the shape."""
    conditions: list[ColumnElement[bool]] = []
    for n, (name, comparison) in enumerate(shape):
        column = _column(table, name)
        sql_type = target.column_type(name)
        value = sa.bindparam(f"filter_{n}", type_=NULLTYPE)
        if comparison == "null":
            conditions.append(column.is_(None))
        elif comparison == "equal":
            conditions.append(column == value)
        else:
            # The cast lets a list of strings meet a column of uuid, date, enum and the like.
            among = column == sa.func.any(sa.cast(value, _ArrayOf(sql_type)))
            conditions.append(sa.or_(among, column.is_(None)) if comparison == "any or null" else among)
    return conditions


def missing(table: sa.TableClause, prefix: Prefix) -> sa.Select[Any]:
    """Returns the count of rows that have an embedding but no prefix."""
    return sa.select(sa.func.count()).select_from(table).where(*_unfilled(table, prefix))


def backfill_bound(table: sa.TableClause, key: Key, prefix: Prefix, batch_size: int, *, resume: bool) -> sa.Select[Any]:
    """Returns the last key of the next batch, or no row where nothing is left.

    :param resume: whether to begin after the key in the parameters ``last_0``, ``last_1``, …
    """
    after = [_after(key, "last")] if resume else []
    rows = sa.select(*key).where(*_unfilled(table, prefix), *after).order_by(*key).limit(_number(batch_size))
    batch = rows.subquery("mrl_batch")
    keys = [batch.c[column.name] for column in key]
    return sa.select(*keys).order_by(*(column.desc() for column in keys)).limit(_number(1))


def backfill_batch(table: sa.TableClause, key: Key, prefix: Prefix, *, resume: bool) -> sa.Update:
    """Returns the statement that fills a batch; its rows are (key…, impossible) in no order.

    UPDATE computes the prefix of the row as it is when its lock is had, so a concurrent update is never
    overwritten with the prefix of an older embedding (PostgreSQL rechecks a row it had to wait for).

    :param resume: as in :func:`backfill_bound`, whose row goes into the parameters ``bound_0``, ``bound_1``, …
    """
    made = sa.func.mrl.prefix(_column(table, prefix.embedding), _number(prefix.dims), _text(prefix.distance))
    after = [_after(key, "last")] if resume else []
    return (
        sa.update(table)
        .values({prefix.prefix: made})
        .where(*_unfilled(table, prefix), *after, ~_after(key, "bound"))
        .returning(*key, _column(table, prefix.prefix).is_(None).label("impossible"))
    )


def _after(key: Key, name: str) -> ColumnElement[bool]:
    values = [sa.bindparam(f"{name}_{n}", type_=NULLTYPE) for n in range(len(key))]
    return sa.tuple_(*key) > sa.tuple_(*values)


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


class _ArrayOf(UserDefinedType[Any]):
    """An array of a type that the catalog named (format_type, so it is quoted where it must be)."""

    cache_ok = True

    def __init__(self, element: str) -> None:
        self.element = element

    def get_col_spec(self, **_: Any) -> str:
        return f"{self.element}[]"


# Cached because building takes a third of a millisecond, and an application has few plans.
@lru_cache(maxsize=256)
def _settings(plan: SearchPlan) -> tuple[sa.CTE, sa.CTE]:
    """Returns (mrl_before, mrl_settings): the caller's settings, and ours set."""
    remembered = [sa.func.current_setting(_text(name), sa.true()).label(_short(name)) for name in SETTINGS]
    before = _materialized(sa.select(*remembered), "mrl_before")
    # The memory bound is lifted (1000 is pgvector's largest multiple of work_mem), so that max_scan_tuples is the
    # only one: at about 220 bytes a tuple, 20,000 take 4.4 MB.
    values = (str(plan.ef_search), "relaxed_order", str(plan.max_scan_tuples), "1000")
    ours = [_set(name, _text(value)) for name, value in zip(SETTINGS, values, strict=True)]
    return before, _materialized(sa.select(*ours).select_from(before), "mrl_settings")


def _restored(before: sa.CTE, candidates: sa.FromClause) -> sa.CTE:
    counted = sa.select(sa.func.count().label("received")).select_from(candidates).subquery("counted")
    settings = [_set(name, before.c[_short(name)]) for name in SETTINGS]
    return _materialized(sa.select(counted.c.received, *settings).join_from(counted, before, sa.true()), "mrl_restored")


def _nearest(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    operand: ColumnElement[Any],
    where: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    """Stage one. relaxed_order may return candidates slightly out of order, which stage two puts right."""
    return (
        sa.select(*key, _column(table, prefix.embedding))
        .select_from(table)
        .where(*where)
        .order_by(_column(table, prefix.prefix).op(OPERATORS[prefix.distance])(operand))
        .limit(_number(plan.candidates))
    )


def _reranked(
    candidates: sa.FromClause, key: Key, prefix: Prefix, plan: SearchPlan, query: ColumnElement[Any]
) -> sa.Select[Any]:
    """Stage two."""
    keys = [candidates.c[column.name] for column in key]
    distance = _distance(candidates.c[prefix.embedding], prefix, query).label("mrl_distance")
    return sa.select(*keys, distance).order_by(distance, *keys).limit(_number(plan.k))


def _exact(
    table: sa.FromClause,
    key: Key,
    prefix: Prefix,
    plan: SearchPlan,
    query: ColumnElement[Any],
    where: Sequence[ColumnElement[bool]],
) -> sa.Select[Any]:
    embedding = _column(table, prefix.embedding)
    # "+ 0" is no expression of any index, so every row is compared.
    distance = (_distance(embedding, prefix, query) + sa.literal_column("0")).label("mrl_distance")
    return (
        sa.select(*key, distance)
        .select_from(table)
        .where(embedding.is_not(None), *where)
        .order_by(distance, *key)
        .limit(_number(plan.k))
    )


def _distance(embedding: ColumnElement[Any], prefix: Prefix, query: ColumnElement[Any]) -> ColumnElement[float]:
    return embedding.op(OPERATORS[prefix.distance], return_type=sa.Float())(query)


def _unfilled(table: sa.FromClause, prefix: Prefix) -> list[ColumnElement[bool]]:
    return [_column(table, prefix.embedding).is_not(None), _column(table, prefix.prefix).is_(None)]


def _full_type(prefix: Prefix) -> TypeEngine[Any]:
    return (HALFVEC if prefix.embedding_type == "halfvec" else VECTOR)(prefix.full_dims)


def _column(table: sa.FromClause, name: str) -> ColumnElement[Any]:
    """A column of the table, also one that a reflected or mapped table leaves out."""
    return table.c[name] if name in table.c else sa.column(name, _selectable=table)


def _materialized(select: sa.SelectBase, name: str) -> sa.CTE:
    return select.cte(name).prefix_with("MATERIALIZED")


def _set(name: str, value: ColumnElement[Any]) -> ColumnElement[str]:
    return sa.func.set_config(_text(name), value, sa.true()).label(_short(name))


def _short(name: str) -> str:
    return name.partition(".")[2]


def _regclass(table: str) -> ColumnElement[Any]:
    # By way of text, which can also be a literal (Alembic's --sql).
    return sa.cast(sa.literal(table, sa.Text), REGCLASS)


def _number(value: int) -> ColumnElement[int]:
    return sa.literal_column(str(int(value)), sa.Integer)


def _text(value: str) -> ColumnElement[str]:
    """A literal of our own (names of settings, numbers, distances), never a user's."""
    return sa.literal_column(f"'{value}'", sa.Text)
