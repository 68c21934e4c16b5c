"""Search on a psycopg Connection or AsyncConnection."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import psycopg
import sqlalchemy as sa
from psycopg import AsyncConnection, BaseConnection, Connection
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import NULLTYPE
from typing_extensions import Unpack

from mrl_pg import statements
from mrl_pg.errors import NotInstalledError, SearchError
from mrl_pg.psycopg.basis import bases_of
from mrl_pg.psycopg.recording import recording
from mrl_pg.psycopg.run import Rows, Steps, compiled, run, run_async
from mrl_pg.recording import draws
from mrl_pg.registry import TARGET_SECONDS, TableName, Target, read_target, settle, split_name, uses_basis
from mrl_pg.search import FilterShape, Hit, SearchOptions, SearchPlan, SearchResult, read_filter, search_plan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import Bases, Packed, VectorLike, query_vectors, to_binary, to_text

Result: TypeAlias = SearchResult[dict[str, Any]]

_targets: WeakKeyDictionary[BaseConnection[Any], dict[TableName, tuple[float, Target]]] = WeakKeyDictionary()


def search(
    conn: Connection[Any],
    target: TableName,
    query: VectorLike,
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    prefix_query: VectorLike | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> Result:
    """Returns the k rows nearest to a query: candidates by the prefix, reranked by the full embedding.

    :param target: table as named in the catalog: ``"documents"``, ``"app.documents"`` or ``("app", "documents")``.
    :param query: full embedding (full_dims,) of any float type.
    :param columns: columns of ``hit.row``; all but the vectors if None.
    :param filter: ``{"lang": "en", "year": [2024, 2025], "deleted_at": None}`` is equality, any of, IS NULL.
    :param prefix: prefix column to use; the oldest with a valid index if None.
    :param prefix_query: the query's prefix where it is there already (an API's ``dimensions=256``), for the first
        stage; made from the query if None.
    :param record: probability with which the query of a search that succeeded is stored in mrl.recorded_queries, in
        the same transaction. Where that cannot be (read-only, no INSERT) it is not; the search answers all the same.
    :param options: ``k``, ``candidates``, ``ef_search``, ``max_scan_tuples``, ``exact``, ``rerank``, ``stages``,
        ``model``, ``recall``: see :class:`mrl_pg.search.SearchOptions`.
    :raises SearchError, DimensionError: for a search that cannot be answered; nothing has been searched then.
    :raises NotInstalledError, SchemaVersionError: where the schema mrl is missing or does not suit.
    """
    result: Result = run(conn, _search(conn, target, query, columns, filter, prefix, prefix_query, record, options))
    return result


async def search_async(
    conn: AsyncConnection[Any],
    target: TableName,
    query: VectorLike,
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    prefix_query: VectorLike | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> Result:
    """Returns what :func:`search` returns, on an AsyncConnection."""
    steps = _search(conn, target, query, columns, filter, prefix, prefix_query, record, options)
    result: Result = await run_async(conn, steps)
    return result


def search_many(
    conn: Connection[Any],
    target: TableName,
    queries: Iterable[VectorLike],
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> list[Result]:
    """Returns one result per query, in their order, from one round trip; parameters as in :func:`search`."""
    steps = _search_many(conn, target, queries, columns, filter, prefix, record, options)
    results: list[Result] = run(conn, steps)
    return results


async def search_many_async(
    conn: AsyncConnection[Any],
    target: TableName,
    queries: Iterable[VectorLike],
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> list[Result]:
    """Returns what :func:`search_many` returns, on an AsyncConnection."""
    steps = _search_many(conn, target, queries, columns, filter, prefix, record, options)
    results: list[Result] = await run_async(conn, steps)
    return results


def search_sql(
    conn: Connection[Any],
    target: TableName,
    query: VectorLike,
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    prefix_query: VectorLike | None = None,
    **options: Unpack[SearchOptions],
) -> str:
    """Returns the statement that :func:`search` runs, its values as literals: ready for psql."""
    plan = search_plan(**options)
    known = describe(conn, target)
    chosen, plan = settle(known, prefix, plan)
    shape, values = read_filter(filter)
    names = _names(known, columns)
    bases = run(conn, bases_of(chosen, plan))
    full, shorts = query_vectors(query, chosen, bases, prefix_query)
    parameters = values | {"query": to_text(full)} | {f"prefix_{n}": to_text(short) for n, short in enumerate(shorts)}
    parameters |= _named(known, chosen, plan)
    return psycopg.ClientCursor(conn).mogrify(_search_text(known, chosen, plan, names, shape), parameters)


def describe(conn: Connection[Any], target: TableName) -> Target:
    """Returns what the database knows of a table: its key, columns and prefixes."""
    known: Target = run(conn, _describe(conn, target))
    return known


def forget(conn: BaseConnection[Any], target: TableName) -> None:
    """Returns nothing; the next search on this connection reads afresh what the database knows of a table."""
    _targets.get(conn, {}).pop(target, None)


def _describe(conn: BaseConnection[Any], target: TableName) -> Steps:
    known = _targets.setdefault(conn, {})
    expires, found = known.get(target, (0.0, None))
    if found is not None and expires > time.monotonic():
        return found
    if not (yield compiled(statements.PROBE), {})[0][0]:
        raise NotInstalledError()
    schema, name = split_name(target)
    rows = yield compiled(statements.DESCRIBE), {"schema": schema, "name": name}
    found = read_target(target, rows)
    known[target] = (time.monotonic() + TARGET_SECONDS, found)
    return found


def _search(
    conn: BaseConnection[Any],
    target: TableName,
    query: VectorLike,
    columns: Sequence[str] | None,
    filter: Mapping[str, Any] | None,
    prefix: str | None,
    prefix_query: VectorLike | None,
    record: float,
    options: SearchOptions,
) -> Steps:
    plan = search_plan(**options)
    drawn = draws(record) if record else []
    shape, values = read_filter(filter)

    def parameters(chosen: Sequence[Prefix], bases: Bases) -> dict[str, Any]:
        vector, shorts = query_vectors(query, chosen, bases, prefix_query)
        full = vector.astype(np.float16) if chosen[0].embedding_type == "halfvec" else vector
        packed = {f"prefix_{n}": Packed(to_binary(short)) for n, short in enumerate(shorts)}
        return values | packed | {"query": Packed(to_binary(full))}

    searched = _searched(conn, target, columns, prefix, plan, shape, parameters, _search_text)
    names, rows, settled, served = yield from searched
    if drawn:
        yield from recording(conn, target, [query], served, settled, filter)
    return _result(names, rows, settled)


def _search_many(
    conn: BaseConnection[Any],
    target: TableName,
    queries: Iterable[VectorLike],
    columns: Sequence[str] | None,
    filter: Mapping[str, Any] | None,
    prefix: str | None,
    record: float,
    options: SearchOptions,
) -> Steps:
    plan = search_plan(**options)
    shape, values = read_filter(filter)
    queries = list(queries)
    drawn = draws(record, len(queries)) if record else []
    if not queries:
        return []

    def parameters(chosen: Sequence[Prefix], bases: Bases) -> dict[str, Any]:
        asked = [query_vectors(query, chosen, bases) for query in queries]
        shorts = {f"prefixes_{n}": [to_text(shorts[n]) for _, shorts in asked] for n in range(len(bases))}
        return values | shorts | {"queries": [to_text(full) for full, _ in asked]}

    searched = _searched(conn, target, columns, prefix, plan, shape, parameters, _search_many_text)
    names, rows, settled, served = yield from searched
    if drawn:
        yield from recording(conn, target, [queries[n] for n in drawn], served, settled, filter)
    grouped: dict[int, Rows] = {n: [] for n in range(1, len(queries) + 1)}
    for *row, n in rows:
        grouped[n].append(tuple(row))
    return [_result(names, grouped[n], settled) for n in grouped]


def _searched(
    conn: BaseConnection[Any],
    target: TableName,
    columns: Sequence[str] | None,
    prefix: str | None,
    plan: SearchPlan,
    shape: FilterShape,
    parameters: Callable[[Sequence[Prefix], Bases], dict[str, Any]],
    text: Callable[[Target, tuple[Prefix, ...], SearchPlan, tuple[str, ...], FilterShape], str],
) -> Generator[tuple[str, Mapping[str, Any]], Rows, tuple[tuple[str, ...], Rows, SearchPlan, Prefix]]:
    """Returns (columns, rows, plan with its numbers, first prefix); a changed table is described again, once."""
    while True:
        fresh = target not in _targets.get(conn, {})
        known = yield from _describe(conn, target)
        try:
            chosen, settled = settle(known, prefix, plan)
            names = _names(known, columns)
            statement = text(known, chosen, settled, names, shape)
            bases = yield from bases_of(chosen, settled)
        except SearchError:
            forget(conn, target)
            if fresh:
                raise
            continue
        try:
            rows = yield statement, parameters(chosen, bases) | _named(known, chosen, settled)
            if rows or fresh or not uses_basis(chosen, settled):
                return names, rows, settled, chosen[0]
            # Perhaps the table has other bases by now, and was not searched.
            forget(conn, target)
            there = yield from _describe(conn, target)
            if there.prefixes == known.prefixes:
                return names, rows, settled, chosen[0]
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
            forget(conn, target)
            # In a transaction of the caller's nothing more can run.
            if fresh or conn.info.transaction_status != TransactionStatus.IDLE:
                raise


def _named(known: Target, chosen: Sequence[Prefix], plan: SearchPlan) -> dict[str, str]:
    """Returns the parameter that a search by a rotated prefix has besides."""
    return {"mrl_table": statements.quoted(known.schema, known.name)} if uses_basis(chosen, plan) else {}


def _result(names: tuple[str, ...], rows: Rows, plan: SearchPlan) -> Result:
    width = len(names)
    hits = []
    for row in rows:
        key = row[width + 2 :]
        hits.append(Hit(key[0] if len(key) == 1 else key, row[width], dict(zip(names, row, strict=False))))
    if plan.exact:
        return SearchResult(hits, requested=plan.k, received=len(hits))
    return SearchResult(hits, requested=plan.candidates, received=rows[0][width + 1] if rows else 0)


# Building and compiling a statement takes longer than running it, and an application sends few shapes.
@lru_cache(maxsize=256)
def _search_text(
    target: Target, prefixes: tuple[Prefix, ...], plan: SearchPlan, names: tuple[str, ...], shape: FilterShape
) -> str:
    table, key = statements.table(target)
    return compiled(
        statements.search(
            table,
            key,
            prefixes,
            plan,
            # Without a type of its own a parameter takes the vector type it is cast to, so it can go in binary.
            query=sa.bindparam("query", type_=NULLTYPE),
            prefix_queries=[sa.bindparam(f"prefix_{n}", type_=NULLTYPE) for n in range(len(prefixes))],
            columns=_columns(target, table, names),
            where=statements.filter_conditions(target, table, shape),
        )
    )


@lru_cache(maxsize=256)
def _search_many_text(
    target: Target, prefixes: tuple[Prefix, ...], plan: SearchPlan, names: tuple[str, ...], shape: FilterShape
) -> str:
    table, key = statements.table(target)
    return compiled(
        statements.search_many(
            table,
            key,
            prefixes,
            plan,
            queries=sa.bindparam("queries", type_=ARRAY(sa.Text)),
            prefix_queries=[sa.bindparam(f"prefixes_{n}", type_=ARRAY(sa.Text)) for n in range(len(prefixes))],
            columns=_columns(target, table, names),
            where=statements.filter_conditions(target, table, shape),
        )
    )


def _names(target: Target, columns: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise SearchError(f"columns must be a sequence of names, not {columns!r}. Pass [{columns!r}].")
    return tuple(name for name, _ in target.columns) if columns is None else tuple(columns)


def _columns(target: Target, table: sa.TableClause, names: tuple[str, ...]) -> list[sa.ColumnElement[Any]]:
    for name in names:
        target.column_type(name)
    return [table.c[name] for name in names]
