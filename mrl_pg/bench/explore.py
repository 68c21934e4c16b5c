"""Finding the cheapest points, and measuring them again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection

from mrl_pg.bench.build import Doing
from mrl_pg.bench.clients import Task, clients
from mrl_pg.bench.methods import Built, K, search_at, statement, use_binary
from mrl_pg.bench.report import Chosen, compared
from mrl_pg.bench.truth import Nearest, recalls
from mrl_pg.metrics import PerQuery
from mrl_pg.points import Figures, Point, best, cheapest, figures, is_clear, next_points
from mrl_pg.turns import WARM_UP_QUERIES, Run, Search, in_turns, one_by_one
from mrl_pg.vectors import FloatArray

# Every point of every method that was measured.
Explored: TypeAlias = dict[Built, dict[Point, Figures]]
Pair: TypeAlias = tuple[Built, Point]

# An exact search of a large table takes seconds.
_EXACT_SECONDS, _EXACT_AT_LEAST = 10.0, 3
_ROUNDS = 2
_CLIENT_SECONDS, _CLIENT_WARM_UP = 2.0, 20


@contextmanager
def connected(dsn: str) -> Iterator[Connection[Any]]:
    """Yields a connection that searches as an application's does: in autocommit, prepared, vectors in binary."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        use_binary(conn)
        yield conn


def explore(
    dsn: str, built: Sequence[Built], queries: FloatArray, truth: Nearest, targets: Sequence[float], doing: Doing
) -> tuple[Explored, dict[Built, int]]:
    """Returns the figures of every point measured on the way to the cheapest, and how many used no index.

    Each method has its own way; in each step all that are still on theirs take turns with their next point.
    """
    measured: Explored = {one: {} for one in built}
    without_index = dict.fromkeys(built, 0)
    with ExitStack() as stack:
        conns = {one: stack.enter_context(connected(dsn)) for one in built}
        for one in built:
            if one.index is None:
                doing("Searching", one.method.name)
                measured[one] = _exact(conns[one], one, queries, truth)
        while points := next_points({one: one.method.grid for one in built}, targets, measured):
            done = sum(map(len, measured.values()))
            doing("Searching", f"{len(points)} methods in turns, {done} settings tried")
            searches = {one: search_at(conns[one], one, point) for one, point in points.items()}
            for one, search in searches.items():
                without_index[one] += not _uses_index(conns[one], one, search, queries)
            runs = in_turns(
                list(searches.values()), queries, is_enough=lambda run: is_clear(_recalls(truth, run), targets)
            )
            for one, run in zip(searches, runs, strict=True):
                measured[one][points[one]] = figures(points[one], _recalls(truth, run), run.seconds)
    return measured, without_index


def confirm(
    dsn: str, explored: Explored, queries: FloatArray, truth: Nearest, targets: Sequence[float], doing: Doing
) -> Explored:
    """Returns the same points, the cheapest of them with the figures of all queries.

    What looked cheapest may have been lucky, in its recall or its latency; then the next one is.
    """
    known = {one: dict(points) for one, points in explored.items()}
    confirmed: set[Pair] = set()
    while pairs := [pair for pair in _picked(known, targets) if pair not in confirmed]:
        doing("Searching", f"{len(pairs)} of the cheapest settings with all queries")
        for (one, point), run in _in_turns(dsn, pairs, queries, rounds=1).items():
            known[one][point] = figures(point, _recalls(truth, run), run.seconds)
        confirmed.update(pairs)
    return known


def choose(
    dsn: str,
    explored: Explored,
    queries: FloatArray,
    truth: Nearest,
    targets: Sequence[float],
    client_count: int,
    doing: Doing,
) -> list[Chosen]:
    """Returns the cheapest point of each method for each target, measured again, also by several clients at a time.

    This time all of them take turns. Exact search keeps the figures it has.
    """
    pairs = _picked(explored, targets)
    doing("Measuring", f"{len(pairs)} settings")
    again: dict[Pair, tuple[Figures, float]] = {}
    runs = _in_turns(dsn, pairs, queries, rounds=_ROUNDS)
    with clients(dsn, client_count) as rate:
        for (one, point), run in runs.items():
            doing("Measuring", f"{one.method.name}, {client_count} clients at a time")
            found = figures(point, recalls(truth, run.found[: len(queries)], K), run.seconds)
            task = Task(one, point, queries[:_CLIENT_WARM_UP], queries, seconds=_CLIENT_SECONDS, again=True)
            again[one, point] = found, rate(task)
    chosen = []
    for target in targets:
        for one, points in explored.items():
            before = _pick(points, target)
            found, clients_qps = again.get((one, before.point), (before, None))
            chosen.append(
                Chosen(
                    method=one.method.name,
                    target=target,
                    reached=found.recall >= target,
                    statement=statement(one, before.point),
                    figures=found,
                    clients_qps=clients_qps,
                )
            )
    return compared(chosen)


def _pick(points: Mapping[Point, Figures], target: float) -> Figures:
    """The cheapest point that reaches a target, the best where none does."""
    measured = list(points.values())
    return cheapest(measured, target) or best(measured)


def _picked(explored: Explored, targets: Sequence[float]) -> list[Pair]:
    """The points of all methods that have an index for all targets, each once."""
    indexed = {one: points for one, points in explored.items() if one.index is not None}
    return list(dict.fromkeys((one, _pick(points, t).point) for t in targets for one, points in indexed.items()))


def _in_turns(dsn: str, pairs: Sequence[Pair], queries: FloatArray, *, rounds: int) -> dict[Pair, Run]:
    """The run of each point; each has a connection, because a recipe's settings are made for it."""
    with ExitStack() as stack:
        searches = [search_at(stack.enter_context(connected(dsn)), one, point) for one, point in pairs]
        return dict(zip(pairs, in_turns(searches, queries, rounds=rounds), strict=True))


def _exact(conn: Connection[Any], one: Built, queries: FloatArray, truth: Nearest) -> dict[Point, Figures]:
    point = Point(one.method.grid.candidates[0], one.method.grid.ef_search[0])
    until = time.perf_counter() + _EXACT_SECONDS
    run = one_by_one(search_at(conn, one, point), queries, until=until, at_least=_EXACT_AT_LEAST)
    return {point: figures(point, _recalls(truth, run), run.seconds)}


def _recalls(truth: Nearest, run: Run) -> PerQuery:
    """The recall of each query of a run over the first of them."""
    return recalls(truth.part(0, len(run.found)), run.found, K)


def _uses_index(conn: Connection[Any], one: Built, search: Search, queries: FloatArray) -> bool:
    """Whether the first searches, with which this warms up, all use the index."""
    before = _scans(conn, one)
    run = one_by_one(search, queries[:WARM_UP_QUERIES])
    return _scans(conn, one) - before >= len(run.found)


def _scans(conn: Connection[Any], one: Built) -> int:
    conn.execute("SELECT pg_stat_force_next_flush()")
    ((scans,),) = conn.execute("SELECT pg_stat_get_numscans(%s::regclass)", (one.index,))
    return int(scans)
