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
from mrl_pg.psycopg.basis import basis_of
from mrl_pg.psycopg.run import Rows, Steps, compiled, run, run_async
from mrl_pg.registry import TARGET_SECONDS, TableName, Target, choose_prefix, read_target, split_name
from mrl_pg.search import FilterShape, Hit, SearchOptions, SearchPlan, SearchResult, read_filter, search_plan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import FloatArray, Packed, VectorLike, prefixes_of, query_vector, to_binary, to_text

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
    **options: Unpack[SearchOptions],
) -> Result:
    """Returns the k rows nearest to a query: candidates by the prefix, reranked by the full embedding.

    :param target: table as named in the catalog: ``"documents"``, ``"app.documents"`` or ``("app", "documents")``.
    :param query: full embedding (full_dims,) of any float type.
    :param columns: columns of ``hit.row``; all but the vectors if None.
    :param filter: ``{"lang": "en", "year": [2024, 2025], "deleted_at": None}`` is equality, any of, IS NULL.
    :param prefix: prefix column to use; the oldest with a valid index if None.
    :param options: ``k``, ``candidates``, ``ef_search``, ``max_scan_tuples``, ``exact``: see
        :class:`mrl_pg.search.SearchOptions`.
    :raises SearchError, DimensionError: for a search that cannot be answered; nothing has been searched then.
    :raises NotInstalledError, SchemaVersionError: where the schema mrl is missing or does not suit.
    """
    result: Result = run(conn, _search(conn, target, query, columns, filter, prefix, options))
    return result


async def search_async(
    conn: AsyncConnection[Any],
    target: TableName,
    query: VectorLike,
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    **options: Unpack[SearchOptions],
) -> Result:
    """Returns what :func:`search` returns, on an AsyncConnection."""
    result: Result = await run_async(conn, _search(conn, target, query, columns, filter, prefix, options))
    return result


def search_many(
    conn: Connection[Any],
    target: TableName,
    queries: Iterable[VectorLike],
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    **options: Unpack[SearchOptions],
) -> list[Result]:
    """Returns one result per query, in their order, from one round trip; parameters as in :func:`search`."""
    steps = _search_many(conn, target, queries, columns, filter, prefix, options)
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
    **options: Unpack[SearchOptions],
) -> list[Result]:
    """Returns what :func:`search_many` returns, on an AsyncConnection."""
    steps = _search_many(conn, target, queries, columns, filter, prefix, options)
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
    **options: Unpack[SearchOptions],
) -> str:
    """Returns the statement that :func:`search` runs, its values as literals: ready for psql."""
    plan = search_plan(**options)
    known = describe(conn, target)
    chosen = choose_prefix(known, prefix, exact=plan.exact)
    vector = query_vector(query, chosen)
    shape, values = read_filter(filter)
    names = _names(known, columns)
    parameters = values | {"query": to_text(vector)}
    if not plan.exact:
        parameters["prefix"] = to_text(prefixes_of(vector, chosen, run(conn, basis_of(chosen))))
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
    options: SearchOptions,
) -> Steps:
    plan = search_plan(**options)
    shape, values = read_filter(filter)

    def parameters(chosen: Prefix, basis: FloatArray | None) -> dict[str, Any]:
        vector = query_vector(query, chosen)
        full = vector.astype(np.float16) if chosen.embedding_type == "halfvec" else vector
        given = values | {"query": Packed(to_binary(full))}
        return given if plan.exact else given | {"prefix": Packed(to_binary(prefixes_of(vector, chosen, basis)))}

    names, rows = yield from _searched(conn, target, columns, prefix, plan, shape, parameters, _search_text)
    return _result(names, rows, plan)


def _search_many(
    conn: BaseConnection[Any],
    target: TableName,
    queries: Iterable[VectorLike],
    columns: Sequence[str] | None,
    filter: Mapping[str, Any] | None,
    prefix: str | None,
    options: SearchOptions,
) -> Steps:
    plan = search_plan(**options)
    shape, values = read_filter(filter)
    queries = list(queries)
    if not queries:
        return []

    def parameters(chosen: Prefix, basis: FloatArray | None) -> dict[str, Any]:
        vectors = np.stack([query_vector(query, chosen) for query in queries])
        shorts = [None] * len(vectors) if plan.exact else [*map(to_text, prefixes_of(vectors, chosen, basis))]
        return values | {"queries": [*map(to_text, vectors)], "prefixes": shorts}

    names, rows = yield from _searched(conn, target, columns, prefix, plan, shape, parameters, _search_many_text)
    grouped: dict[int, Rows] = {n: [] for n in range(1, len(queries) + 1)}
    for *row, n in rows:
        grouped[n].append(tuple(row))
    return [_result(names, grouped[n], plan) for n in grouped]


def _searched(
    conn: BaseConnection[Any],
    target: TableName,
    columns: Sequence[str] | None,
    prefix: str | None,
    plan: SearchPlan,
    shape: FilterShape,
    parameters: Callable[[Prefix, FloatArray | None], dict[str, Any]],
    text: Callable[[Target, Prefix, SearchPlan, tuple[str, ...], FilterShape], str],
) -> Generator[tuple[str, Mapping[str, Any]], Rows, tuple[tuple[str, ...], Rows]]:
    """Returns (columns, rows); a table that has changed since it was described is described again, once."""
    while True:
        fresh = target not in _targets.get(conn, {})
        known = yield from _describe(conn, target)
        try:
            chosen = choose_prefix(known, prefix, exact=plan.exact)
            names = _names(known, columns)
            statement = text(known, chosen, plan, names, shape)
            basis = None if plan.exact else (yield from basis_of(chosen))
        except SearchError:
            forget(conn, target)
            if fresh:
                raise
            continue
        try:
            return names, (yield statement, parameters(chosen, basis))
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
            forget(conn, target)
            # In a transaction of the caller's nothing more can run.
            if fresh or conn.info.transaction_status != TransactionStatus.IDLE:
                raise


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
def _search_text(target: Target, prefix: Prefix, plan: SearchPlan, names: tuple[str, ...], shape: FilterShape) -> str:
    table, key = statements.table(target)
    return compiled(
        statements.search(
            table,
            key,
            prefix,
            plan,
            # Without a type of its own a parameter takes the vector type it is cast to, so it can go in binary.
            query=sa.bindparam("query", type_=NULLTYPE),
            prefix_query=sa.bindparam("prefix", type_=NULLTYPE),
            columns=_columns(target, table, names),
            where=statements.filter_conditions(target, table, shape),
        )
    )


@lru_cache(maxsize=256)
def _search_many_text(
    target: Target, prefix: Prefix, plan: SearchPlan, names: tuple[str, ...], shape: FilterShape
) -> str:
    table, key = statements.table(target)
    return compiled(
        statements.search_many(
            table,
            key,
            prefix,
            plan,
            queries=sa.bindparam("queries", type_=ARRAY(sa.Text)),
            prefix_queries=sa.bindparam("prefixes", type_=ARRAY(sa.Text)),
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
