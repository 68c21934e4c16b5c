"""Search on a Session, AsyncSession, Connection or AsyncConnection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql import ColumnElement
from typing_extensions import Unpack

from mrl_pg import statements
from mrl_pg.errors import SearchError
from mrl_pg.recording import draws
from mrl_pg.registry import Target, choose_prefixes, settle, uses_basis
from mrl_pg.search import Hit, SearchOptions, SearchPlan, SearchResult, search_plan
from mrl_pg.spec import Matryoshka, Prefix
from mrl_pg.sqlalchemy.basis import bases_of
from mrl_pg.sqlalchemy.model import INFO_KEY
from mrl_pg.sqlalchemy.recording import record as record_queries
from mrl_pg.sqlalchemy.target import describe, forget, is_known, name_of
from mrl_pg.vectors import Bases, VectorLike, query_vectors, to_text

Row = TypeVar("Row")
Filter: TypeAlias = Sequence[ColumnElement[bool]] | ColumnElement[bool]
# scoped_session stands for the Session of a thread or request.
AnySession: TypeAlias = orm.Session | orm.scoped_session[Any] | sa.Connection
Conditions: TypeAlias = tuple[ColumnElement[bool], ...]


def search(
    session: AnySession,
    target: type[Row] | sa.Table,
    query: VectorLike,
    *,
    filter: Filter = (),
    prefix: str | None = None,
    prefix_query: VectorLike | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> SearchResult[Any]:
    """Returns the k rows nearest to a query: candidates by the prefix, reranked by the full embedding.

    :param session: a Session, whose hits carry model instances, or a Connection, whose hits carry mappings.
    :param target: mapped class or Table.
    :param query: full embedding (full_dims,) of any float type.
    :param filter: conditions on the target, all of which must hold: ``[Document.lang == "en"]``, or a single one.
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
    plan = search_plan(**options)
    drawn = draws(record) if record else []

    def parameters(chosen: Sequence[Prefix], bases: Bases) -> dict[str, Any]:
        full, shorts = _texts(query, chosen, bases, prefix_query)
        return {f"mrl_prefix_{n}": short for n, short in enumerate(shorts)} | {"mrl_query": full}

    searched = _searched(session, target, prefix, plan, filter, _search, parameters)
    if drawn:
        searched.record([query], filter)
    return _result(searched.source, searched.rows, searched.plan)


async def search_async(
    session: AsyncSession | AsyncConnection,
    target: type[Row] | sa.Table,
    query: VectorLike,
    *,
    filter: Filter = (),
    prefix: str | None = None,
    prefix_query: VectorLike | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> SearchResult[Any]:
    """Returns what :func:`search` returns, on an AsyncSession or AsyncConnection."""
    return await session.run_sync(
        lambda sync: search(
            sync, target, query, filter=filter, prefix=prefix, prefix_query=prefix_query, record=record, **options
        )
    )


def search_many(
    session: AnySession,
    target: type[Row] | sa.Table,
    queries: Iterable[VectorLike],
    *,
    filter: Filter = (),
    prefix: str | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> list[SearchResult[Any]]:
    """Returns one result per query, in their order, from one round trip; parameters as in :func:`search`."""
    plan = search_plan(**options)
    queries = list(queries)
    drawn = draws(record, len(queries)) if record else []
    if not queries:
        return []

    def parameters(chosen: Sequence[Prefix], bases: Bases) -> dict[str, Any]:
        asked = [_texts(query, chosen, bases) for query in queries]
        shorts = {f"mrl_prefixes_{n}": [shorts[n] for _, shorts in asked] for n in range(len(bases))}
        return shorts | {"mrl_queries": [full for full, _ in asked]}

    searched = _searched(session, target, prefix, plan, filter, _search_many, parameters)
    if drawn:
        searched.record([queries[n] for n in drawn], filter)
    grouped: dict[int, list[sa.Row[Any]]] = {n: [] for n in range(1, len(queries) + 1)}
    for row in searched.rows:
        grouped[row[-1]].append(row)
    return [_result(searched.source, grouped[n], searched.plan) for n in grouped]


async def search_many_async(
    session: AsyncSession | AsyncConnection,
    target: type[Row] | sa.Table,
    queries: Iterable[VectorLike],
    *,
    filter: Filter = (),
    prefix: str | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> list[SearchResult[Any]]:
    """Returns what :func:`search_many` returns, on an AsyncSession or AsyncConnection."""
    return await session.run_sync(
        lambda sync: search_many(sync, target, queries, filter=filter, prefix=prefix, record=record, **options)
    )


def search_statement(
    target: type[Row],
    query: VectorLike,
    *,
    filter: Filter = (),
    prefix: str | None = None,
    **options: Unpack[SearchOptions],
) -> sa.Select[Any]:
    """Returns a Select of (target, distance), nearest first, to run anywhere or to compose further.

    It is made from the specs of the model alone, without a look at the database: the first spec serves, or the one
    whose prefix is named. Conditions added with ``.where()`` apply to the k rows found; ``filter`` applies before.

    :raises SearchError, DimensionError: as :func:`search`.
    """
    plan = search_plan(**options)
    if plan.recall is not None:
        raise SearchError(
            f"recall = {plan.recall:g} is looked up in the database, and search_statement() looks at none. "
            "Give candidates and ef_search, or use search()."
        )
    source = _source(target)
    specs: Sequence[Matryoshka] = source.table.info.get(INFO_KEY, ())
    for name in [stage.prefix for stage in plan.stages] if plan.stages else [prefix]:
        if not any(name in (None, spec.prefix) for spec in specs):
            wanted = "no prefix" if name is None else f"no prefix {name!r}"
            raise SearchError(f"{source.table.name} declares {wanted}. Add it to __matryoshka__, or use search().")
    # What is declared is taken to be there, with its index.
    declared = [replace(spec.as_prefix(), index=spec.index_name(source.table.name)) for spec in specs]
    key = tuple(column.name for column in source.key)
    prefixes = choose_prefixes(Target(None, source.table.name, key, (), tuple(declared)), prefix, plan)
    text, shorts = _texts(query, prefixes, [] if plan.exact else [None] * len(prefixes))
    # Unique, so that the statement composes with others that have a parameter of that name.
    full, *short = (sa.bindparam("mrl", value, type_=sa.Text(), unique=True) for value in (text, *shorts))
    found, _ = statements.hits(
        source.table,
        source.key,
        prefixes,
        plan,
        query=full,
        prefix_queries=short,
        source=target,
        where=_conditions(filter),
    )
    return statements.joined(found, source.key, [target], target)


class _Source:
    """What is searched: the table that holds the embedding, its key, and what is returned of a row."""

    def __init__(self, target: Any) -> None:
        inspected = sa.inspect(target, raiseerr=False)
        if not isinstance(inspected, orm.Mapper | sa.Table):
            raise SearchError(f"cannot search {target!r}. Pass a mapped class or a Table.")
        self.entity = target
        self.mapper = inspected if isinstance(inspected, orm.Mapper) else None
        self.table: sa.Table = self.mapper.local_table if self.mapper else target  # type: ignore[assignment]
        self.key = list(self.table.primary_key.columns)
        bits = {spec.prefix for spec in self.table.info.get(INFO_KEY, ())}
        scalars = [c for c in self.table.c if not isinstance(c.type, VECTOR | HALFVEC) and c.name not in bits]
        self.columns: list[Any] = [target] if self.mapper else scalars
        if not self.key:
            raise SearchError(
                f"{self.table.name} has no primary key. Run: ALTER TABLE {self.table.name} ADD PRIMARY KEY (...);"
            )


# One for each target, so that statements built for it are found again.
_source: Callable[[Any], _Source] = lru_cache(maxsize=256)(_Source)

Prefixes: TypeAlias = tuple[Prefix, ...]
Build: TypeAlias = Callable[[_Source, Prefixes, SearchPlan, Conditions], sa.Select[Any]]


class _Searched(NamedTuple):
    """A search that succeeded: its plan with the numbers, and the first prefix that served."""

    connection: sa.Connection
    source: _Source
    rows: Sequence[sa.Row[Any]]
    plan: SearchPlan
    prefix: Prefix

    def record(self, queries: Sequence[VectorLike], filter: Filter) -> None:
        """Returns nothing; records some of its queries, and of conditions their text."""
        where = _conditions(filter)
        table = name_of(self.connection, self.source.table)
        text = str(sa.and_(*where)) if where else None
        record_queries(self.connection, table, queries, self.prefix, self.plan, text)


def _searched(
    session: AnySession,
    target: Any,
    prefix: str | None,
    plan: SearchPlan,
    filter: Filter,
    build: Build,
    parameters: Callable[[Sequence[Prefix], Bases], dict[str, Any]],
) -> _Searched:
    where = _conditions(filter)
    source = _source(target)
    if isinstance(session, sa.Connection):
        # A Connection knows no model instances.
        source, connection, bound = _source(source.table), session, {}
    else:
        # With the mapper, so that a session that routes by get_bind() asks the database it would search.
        bound = {"bind_arguments": {"mapper": source.mapper} if source.mapper else {}}
        connection = session.connection(**bound)
    while True:
        fresh = not is_known(connection, source.table)
        known = describe(connection, source.table)
        try:
            chosen, settled = settle(known, prefix, plan)
        except SearchError:
            forget(connection, source.table)
            if fresh:
                raise
            continue
        values = parameters(chosen, bases_of(connection, chosen, settled))
        if uses_basis(chosen, settled):
            values["mrl_table"] = statements.quoted(known.schema, known.name)
        statement = build(source, chosen, settled, where) if where else _unfiltered(build, source, chosen, settled)
        try:
            result = session.execute(statement, values, **bound)
        except sa.exc.ProgrammingError:
            # The table may have changed since it was described; the next search looks again.
            forget(connection, source.table)
            raise
        # A model may load collections by a join, which repeats rows.
        rows = result.unique().all() if source.mapper else result.all()
        found = _Searched(connection, source, rows, settled, chosen[0])
        if rows or fresh or not uses_basis(chosen, settled):
            return found
        # Perhaps the table has other bases by now, and was not searched.
        forget(connection, source.table)
        if describe(connection, source.table).prefixes == known.prefixes:
            return found


def _conditions(filter: Filter) -> Conditions:
    # A condition has no truth value, so "if filter" would pass over one that came without a list.
    if isinstance(filter, ColumnElement):
        return (filter,)
    if isinstance(filter, str | Mapping) or not all(isinstance(part, ColumnElement) for part in filter):
        raise SearchError(f"filter must be conditions on the target, not {filter!r}. Pass [Document.lang == 'en'].")
    return tuple(filter)


def _result(source: _Source, rows: Sequence[sa.Row[Any]], plan: SearchPlan) -> SearchResult[Any]:
    width = 1 if source.mapper else len(source.columns)
    hits = []
    for row in rows:
        distance, _, *key = row[width : width + 2 + len(source.key)]
        value = row[0] if source.mapper else dict(zip((c.name for c in source.columns), row, strict=False))
        hits.append(Hit(key[0] if len(key) == 1 else tuple(key), distance, value))
    if plan.exact:
        return SearchResult(hits, requested=plan.k, received=len(hits))
    return SearchResult(hits, requested=plan.candidates, received=rows[0][width + 1] if rows else 0)


def _texts(
    query: VectorLike, prefixes: Sequence[Prefix], bases: Bases, prefix_query: VectorLike | None = None
) -> tuple[str, list[str]]:
    """Returns a query and its prefixes as text, because that is what every driver passes on."""
    full, shorts = query_vectors(query, prefixes, bases, prefix_query)
    return to_text(full), [*map(to_text, shorts)]


def _search(source: _Source, prefixes: Prefixes, plan: SearchPlan, where: Conditions) -> sa.Select[Any]:
    return statements.search(
        source.table,
        source.key,
        prefixes,
        plan,
        query=sa.bindparam("mrl_query", type_=sa.Text()),
        prefix_queries=[sa.bindparam(f"mrl_prefix_{n}", type_=sa.Text()) for n in range(len(prefixes))],
        columns=source.columns,
        source=source.entity,
        where=where,
    )


def _search_many(source: _Source, prefixes: Prefixes, plan: SearchPlan, where: Conditions) -> sa.Select[Any]:
    return statements.search_many(
        source.table,
        source.key,
        prefixes,
        plan,
        queries=sa.bindparam("mrl_queries", type_=ARRAY(sa.Text)),
        prefix_queries=[sa.bindparam(f"mrl_prefixes_{n}", type_=ARRAY(sa.Text)) for n in range(len(prefixes))],
        columns=source.columns,
        source=source.entity,
        where=where,
    )


# Building takes about as long as a search; without conditions of the user's there are few statements to build.
@lru_cache(maxsize=256)
def _unfiltered(build: Build, source: _Source, prefixes: Prefixes, plan: SearchPlan) -> sa.Select[Any]:
    return build(source, prefixes, plan, ())
