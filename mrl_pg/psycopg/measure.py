"""Searching through the indexes of a table, timed, on connections of our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from shlex import quote
from threading import Event
from typing import Any

import numpy as np
from psycopg import Connection

from mrl_pg.evaluate import Progress
from mrl_pg.evaluation import Measured
from mrl_pg.measure import Run, Truth, exact_truth, measured, own_distances, without_own
from mrl_pg.psycopg.sample import Sample
from mrl_pg.psycopg.search import Result, search
from mrl_pg.psycopg.session import Session, clients_of
from mrl_pg.registry import TableName, Target
from mrl_pg.search import SearchPlan, search_plan
from mrl_pg.spec import Distance, Prefix
from mrl_pg.vectors import FloatArray
from mrl_pg.views import Rows

# Searches before those that are timed: by then psycopg has prepared the statement, and the server has planned it.
_WARM_UP = 10
# How many searches by the whole table are worth their time, where what was read of it cannot answer them.
MAX_EXACT_SEARCHES = 100

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is searched for, the same through every index.

    :ivar embedding: column of the embeddings.
    :ivar queries: float32 (q, full_dims), as precise as the column.
    :ivar itself: row of the sample (q,) which each query is; -1 for none.
    :ivar filter: to search under besides, as in ``search``.
    :ivar selectivity: share of the rows that it keeps.
    """

    target: TableName
    known: Target
    embedding: str
    distance: Distance
    k: int
    queries: FloatArray
    itself: Rows
    filter: Mapping[str, Any] | None
    selectivity: float


def plans(k: int, candidates: Sequence[int], ef_search: Sequence[int] | None, *, itself: bool) -> list[SearchPlan]:
    """Returns the grid of settings to measure.

    :param candidates: those from k on are used.
    :param ef_search: for each number of candidates; what a search chooses by itself if None.
    :param itself: whether queries are rows of the table, each of which finds itself besides.
    :raises SearchError: for a value out of bounds.
    """
    asked = k + itself
    sizes = sorted({n for n in candidates if n >= asked})
    return [search_plan(k=asked, candidates=n, ef_search=ef) for n in sizes for ef in ef_search or (None,)]


@dataclass(frozen=True, slots=True)
class Known:
    """What is measured through indexes, and the truth of it.

    :ivar prefixes: those that have an index; there is nothing to measure without.
    :ivar asked: what is searched for, without the filter and with it, each with its truth.
    :ivar notes: what to know of them.
    """

    prefixes: tuple[Prefix, ...]
    asked: tuple[tuple[Asked, Truth], ...]
    notes: tuple[str, ...]


def find_truths(
    session: Session, asked: Asked, sample: Sample, *, whole: bool, on_progress: OnProgress | None
) -> Known:
    """Returns what searches through the indexes are measured against.

    :param sample: what was read of the table.
    :param whole: whether that is all of it; else the database is asked for the truth, for fewer queries.
    """
    there = [p for p in asked.known.prefixes if p.embedding == asked.embedding]
    prefixes = [p for p in there if p.index and p.distance == asked.distance]
    notes = []
    if others := [p.prefix for p in there if p not in prefixes]:
        notes.append(
            f"Without a valid index for {asked.distance}, and so not measured through one: {', '.join(others)}. "
            f"Run: mrl-pg status {quote(str(asked.known))}"
        )
    if not prefixes:
        return Known((), (), tuple(notes))
    if not whole and len(asked.queries) > MAX_EXACT_SEARCHES:
        notes.append(
            f"Through indexes the first {MAX_EXACT_SEARCHES} queries were measured: for each of them the whole table "
            "had to be compared."
        )
        asked = replace(asked, queries=asked.queries[:MAX_EXACT_SEARCHES], itself=asked.itself[:MAX_EXACT_SEARCHES])
    found = []
    with clients_of(session, 1) as (conn,):
        for one in (replace(asked, filter=None, selectivity=1.0), asked) if asked.filter else (asked,):
            kept = np.flatnonzero(sample.kept) if one.filter and sample.kept is not None else None
            truth = find_truth(conn, one, prefixes[0], sample, kept, whole=whole, on_progress=on_progress)
            found.append((one, truth))
    return Known(tuple(prefixes), tuple(found), tuple(notes))


def measure_indexes(
    session: Session,
    known: Known,
    grid: Sequence[SearchPlan],
    *,
    clients: int,
    seed: int,
    on_progress: OnProgress | None,
) -> list[Measured]:
    """Returns the figures of each prefix that has an index, with each setting."""
    figures = []
    with clients_of(session, clients) as connections:
        for one, truth in known.asked if grid else ():
            figures += _measure(connections, one, known.prefixes, grid, truth, seed=seed, on_progress=on_progress)
    return figures


def find_truth(
    conn: Connection[Any],
    asked: Asked,
    prefix: Prefix,
    sample: Sample,
    kept: Rows | None,
    *,
    whole: bool,
    on_progress: OnProgress | None,
) -> Truth:
    """Returns the truth: by a scan of the sample where that is all of the table, else asked of the database.

    :param prefix: any with the distance; exact searches do not use it.
    :param kept: rows of the sample that the filter keeps; all if None.
    """
    if not whole:
        return _truth_of(conn, asked, prefix, sample, kept, on_progress)
    return exact_truth(
        sample.embeddings,
        asked.queries,
        asked.k,
        asked.distance,
        itself=asked.itself,
        kept=kept,
        on_progress=on_progress,
    )


def _truth_of(
    conn: Connection[Any],
    asked: Asked,
    prefix: Prefix,
    sample: Sample,
    kept: Rows | None,
    on_progress: OnProgress | None,
) -> Truth:
    """Returns the truth by exact searches in the database, each of which reads the whole table."""
    own = own_distances(sample.embeddings, asked.queries, asked.distance, itself=asked.itself, kept=kept)
    truth = Truth(np.full((len(own), asked.k), np.inf, dtype=np.float32), own, asked.distance)
    found = np.full((len(own), truth.asked), np.inf, dtype=np.float32)
    for n, query in enumerate(asked.queries):
        hits = search(
            conn,
            asked.target,
            query,
            columns=(),
            filter=asked.filter,
            prefix=prefix.prefix,
            exact=True,
            k=truth.asked,
        )
        found[n, : len(hits)] = [hit.distance for hit in hits]
        if on_progress:
            on_progress(Progress("exact", n + 1, len(own), "queries"))
    return replace(truth, nearest=without_own(found, own, asked.distance)[:, : asked.k])


def _measure(
    connections: Sequence[Connection[Any]],
    asked: Asked,
    prefixes: Sequence[Prefix],
    grid: Sequence[SearchPlan],
    truth: Truth,
    *,
    seed: int,
    on_progress: OnProgress | None,
) -> list[Measured]:
    """Returns the figures of each prefix with each setting, warm: every query has run before with the largest one.

    :param connections: one for each client; all search at a time.
    :param grid: settings, their k that of the truth.
    """
    q = len(asked.queries)
    largest = max(grid, key=lambda plan: (plan.candidates, plan.ef_search))
    total, done = len(prefixes) * (1 + len(grid)) * q, 0

    def run(clients: Sequence[Connection[Any]], prefix: Prefix, plan: SearchPlan) -> tuple[list[Run], float]:
        nonlocal done
        what, before = f"{prefix.prefix}, {plan.candidates} candidates", done
        done += q

        def on_search(n: int) -> None:
            if on_progress:
                on_progress(Progress(what, before + n, total, "queries"))

        return _run(clients, asked, prefix, plan, truth, on_search)

    figures = []
    for prefix in prefixes:
        run(connections[:1], prefix, largest)
        for plan in grid:
            runs, wall = run(connections, prefix, plan)
            figures.append(
                measured(prefix, plan, runs, wall, truth, filter=asked.filter, selectivity=asked.selectivity, seed=seed)
            )
    return figures


def ask(conn: Connection[Any], asked: Asked, n: int, prefix: Prefix, plan: SearchPlan, truth: Truth) -> Result:
    """Returns what a search for one of the queries finds."""
    return search(
        conn,
        asked.target,
        asked.queries[n],
        prefix=prefix.prefix,
        columns=asked.known.key,  # with none the rows found would not be fetched
        filter=asked.filter,
        k=truth.asked,
        candidates=plan.candidates,
        ef_search=plan.ef_search,
    )


def _run(
    connections: Sequence[Connection[Any]],
    asked: Asked,
    prefix: Prefix,
    plan: SearchPlan,
    truth: Truth,
    on_search: Callable[[int], None],
) -> tuple[list[Run], float]:
    """Returns what each client found, and the seconds from the first start to the last end."""
    q = len(asked.queries)
    stopped = Event()

    def warm(conn: Connection[Any]) -> None:
        for n in range(_WARM_UP):
            ask(conn, asked, n % q, prefix, plan, truth)

    def client(number: int) -> Run:
        run = Run(np.full((q, truth.asked), np.inf, dtype=np.float32), np.zeros(q), np.zeros(q))
        # Each starts elsewhere, or all would ask for the same pages at a time.
        order = np.roll(np.arange(q), -(number * q // len(connections))).tolist()
        for position, n in enumerate(order, 1):
            if stopped.is_set():
                break
            began = time.perf_counter()
            result = ask(connections[number], asked, n, prefix, plan, truth)
            run.seconds[n] = time.perf_counter() - began
            run.found[n, : len(result)] = [hit.distance for hit in result]
            run.received[n] = result.received
            if number == 0:
                on_search(position)
        return run

    with ThreadPoolExecutor(len(connections)) as pool:
        try:
            list(pool.map(warm, connections))
            began = time.perf_counter()
            runs = list(pool.map(client, range(len(connections))))
        except BaseException:
            # Ctrl-C too: the pool waits for its threads, and they for no more than the search they are at.
            stopped.set()
            raise
        return runs, time.perf_counter() - began
