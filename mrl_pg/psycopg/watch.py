"""Replaying queries against exact search, on a psycopg Connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import psycopg
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus

from mrl_pg import statements
from mrl_pg.embed import TextFunction
from mrl_pg.errors import EvaluationError, MrlError
from mrl_pg.evaluate import Progress
from mrl_pg.measure import Run, Truth, measured, own_distances, without_own
from mrl_pg.psycopg.material import embedded
from mrl_pg.psycopg.recorded import find_recorded, recorded_queries
from mrl_pg.psycopg.run import compiled, execute
from mrl_pg.psycopg.sample import embedding_column, read_sample, with_margin
from mrl_pg.psycopg.search import Result, describe, forget, search
from mrl_pg.queries import QueriesLike, as_queries
from mrl_pg.registry import TableName, Target, settle, split_name
from mrl_pg.search import SearchPlan, search_plan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import FloatArray
from mrl_pg.watch import Before, Watched, sample_queries

DEFAULT_REPLAYED = 100
DEFAULT_FLOOR = 0.95
# Fewer recorded queries than these are replayed on demand only: one that somebody tried says nothing of the table.
MIN_RECORDED = 20
DEFAULT_BUDGET = 60.0


def watch(
    conn: Connection[Any],
    target: TableName,
    queries: QueriesLike | None = None,
    *,
    recorded: bool | None = None,
    embedder: TextFunction | None = None,
    sample: int = DEFAULT_REPLAYED,
    k: int = 10,
    prefix: str | None = None,
    candidates: int | None = None,
    ef_search: int | None = None,
    recall: float | None = None,
    model: str | None = None,
    floor: float = DEFAULT_FLOOR,
    budget: float = DEFAULT_BUDGET,
    store: bool = True,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Watched:
    """Returns the recall of searches of a table against exact searches, and stores it in mrl.recall_history.

    Each query is answered twice in one snapshot: by comparing every row, and by the search as an application sends it.
    Whether the recall is under the floor is for the caller to see (``enough``).

    :param conn: a connection outside a transaction.
    :param queries: embeddings (q, full_dims), queries of :mod:`mrl_pg.queries`, or the file of such. If left out
        those that searches without a filter have recorded, or where there are fewer than 20 rows of the table, each
        searched for without itself: that is optimistic, and reads the table once more.
    :param recorded: with True recorded queries and no others, with False rows though there are recorded ones.
    :param embedder: from :mod:`mrl_pg.embed`, or any function from texts to vectors, for queries that are texts.
    :param sample: replay so many queries, in random order; all where there are no more.
    :param prefix: prefix column to use; the oldest with a valid index if None.
    :param candidates: as in ``search``, and so ``ef_search`` and ``recall``.
    :param model: the model that made the queries; refused where the table knows another.
    :param floor: recall that is wanted, stored beside the figures.
    :param budget: seconds for the searches; the queries that are left then are left out.
    :param store: keep the figures.
    :param seed: of the sample and the interval: the same queries on every run make runs comparable.
    :param on_progress: called after each query.
    :raises EvaluationError: for queries, sample, floor, budget or k that do not fit, or where the budget does not
        suffice for one query.
    :raises DimensionError: where queries are not as long as the embeddings.
    :raises SearchError: for a search that cannot be answered.
    :raises MrlError: where this role may not store the figures.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "a replay reads a snapshot for each query, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if sample < 1 or not budget > 0 or not 0 <= floor <= 1:
        raise EvaluationError(
            f"sample must be at least 1, budget above 0 and floor between 0 and 1, not {sample}, {budget:g} and "
            f"{floor:g}. Leave them out for {DEFAULT_REPLAYED}, {DEFAULT_BUDGET:g} s and {DEFAULT_FLOOR:g}."
        )
    plan = search_plan(k=k, candidates=candidates, ef_search=ef_search, recall=recall)
    if queries is not None and recorded:
        raise EvaluationError("queries and recorded=True were given. Give one of them.")
    given = None if queries is None else sample_queries(as_queries(queries), sample, seed)
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        (chosen,), plan = settle(known, prefix, plan)
        if store:
            _check_may_store(conn)
        if recorded:
            given = recorded_queries(conn, target, embedding=chosen.embedding, sample=sample, seed=seed)
        elif queries is None and recorded is None:
            found = find_recorded(conn, known, chosen.embedding, sample=sample, seed=seed)
            given = found if found and len(found.ids) >= min(sample, MIN_RECORDED) else None
    asked = embedded(known, chosen.embedding, given, embedder, model)
    if asked is None:
        embeddings, own = _rows_as_queries(conn, known, chosen, sample, seed)
        plan = replace(plan, k=k + 1, candidates=max(plan.candidates, k + 1))
    else:
        embeddings, own = asked.embeddings, np.full(len(asked.ids), np.inf, dtype=np.float32)
    began = time.monotonic()
    nearest, run = _replay(conn, target, known, embeddings, chosen, plan, budget, on_progress)
    seconds = time.monotonic() - began
    own = own[: len(nearest)]
    nearest = without_own(nearest, own, chosen.distance)[:, :k]
    if (fewest := int(np.isfinite(nearest).sum(axis=1).min())) < k:
        raise EvaluationError(f"an exact search of {known} finds {fewest} rows, too few for k = {k}. Lower k.")
    figures = measured(
        chosen,
        plan,
        [run],
        float(run.seconds.sum()),
        Truth(nearest, own, chosen.distance),
        filter=None,
        selectivity=1.0,
        seed=seed,
    )
    result = Watched(asked.source if asked else "rows", k, floor, len(embeddings), seconds, figures)
    with conn.transaction():
        name = statements.quoted(*split_name(target))
        for row in execute(conn, statements.last_recall(name, result.figures())):
            result = replace(result, before=Before(*row))
        if store:
            ((stored,),) = execute(conn, statements.store_recall(name, result.figures()))
            result = replace(result, stored=stored)
    return result


def _check_may_store(conn: Connection[Any]) -> None:
    """Returns nothing; raises where the figures could not be stored, before anything is measured."""
    ((may, role),) = execute(conn, statements.MAY_STORE_RECALL)
    if not may:
        raise MrlError(
            f"{role} may not store what is measured. As the owner of schema mrl run: "
            f"GRANT INSERT ON mrl.recall_history TO {role}; or leave it out with store=False (--no-store)."
        )


def _rows_as_queries(
    conn: Connection[Any], known: Target, prefix: Prefix, sample: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Returns rows of the table as queries (q, full_dims), and how far (q,) each is from itself."""
    with conn.transaction(), Cursor(conn) as cursor:
        cursor.execute(compiled(statements.SNAPSHOT))
        column = embedding_column(conn, known, prefix.embedding)
        ((count, _),) = execute(conn, statements.count_embeddings(known, prefix.embedding))
        found = read_sample(conn, known, column, with_margin(sample), seed=seed, count=count)
    # What is zero is near to nothing.
    usable = np.flatnonzero(found.embeddings.any(axis=1))
    if not len(usable):
        raise EvaluationError(f"every {prefix.embedding} of {known} is zero. Give queries.")
    rows = np.random.default_rng(seed).permutation(usable)[:sample]
    queries = found.embeddings[rows].astype(np.float32)
    return queries, own_distances(found.embeddings, queries, prefix.distance, itself=rows)


def _replay(
    conn: Connection[Any],
    target: TableName,
    known: Target,
    queries: FloatArray,
    prefix: Prefix,
    plan: SearchPlan,
    budget: float,
    on_progress: Callable[[Progress], None] | None,
) -> tuple[FloatArray, Run]:
    """Returns the distances (n, k) of exact searches, and what searches found, for as many queries as there is time."""
    q = len(queries)
    nearest = np.full((q, plan.k), np.inf, dtype=np.float32)
    run = Run(nearest.copy(), np.zeros(q), np.zeros(q))
    end = time.monotonic() + budget
    done = 0
    for n, query in enumerate(queries):
        left = end - time.monotonic()
        if left <= 0:
            break
        try:
            exact, found, run.seconds[n] = _compare(conn, target, known, query, prefix, plan, left)
        except psycopg.errors.QueryCanceled:
            if time.monotonic() < end:
                raise  # by somebody else
            break
        nearest[n, : len(exact)] = [hit.distance for hit in exact]
        run.found[n, : len(found)] = [hit.distance for hit in found]
        run.received[n] = found.received
        done = n + 1
        if on_progress:
            on_progress(Progress("replaying", done, q, "queries"))
    if not done:
        raise EvaluationError(
            f"{budget:g} s were over before one query was answered by comparing every row. "
            "Give more time with budget= (--budget)."
        )
    return nearest[:done], Run(run.found[:done], run.received[:done], run.seconds[:done])


def _compare(
    conn: Connection[Any],
    target: TableName,
    known: Target,
    query: FloatArray,
    prefix: Prefix,
    plan: SearchPlan,
    seconds: float,
) -> tuple[Result, Result, float]:
    """Returns what comparing every row finds, what the search finds of the same rows, and the seconds it took."""
    with conn.transaction(), Cursor(conn) as cursor:
        cursor.execute(compiled(statements.SNAPSHOT))
        milliseconds = str(ceil(seconds * 1_000))
        execute(conn, statements.SET_STATEMENT_TIMEOUT, {"milliseconds": milliseconds})
        exact = search(conn, target, query, columns=(), prefix=prefix.prefix, exact=True, k=plan.k)
        began = time.perf_counter()
        found = search(
            conn,
            target,
            query,
            columns=known.key,
            prefix=prefix.prefix,
            k=plan.k,
            candidates=plan.candidates,
            ef_search=plan.ef_search,
        )
        return exact, found, time.perf_counter() - began
