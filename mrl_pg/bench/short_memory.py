"""The same points on a server with little memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mrl_pg import embedded
from mrl_pg.bench.build import Doing
from mrl_pg.bench.clients import Task, clients
from mrl_pg.bench.data import Data
from mrl_pg.bench.explore import connected
from mrl_pg.bench.methods import Built, K, search_at
from mrl_pg.bench.report import Chosen, ShortMemory, compared
from mrl_pg.bench.truth import Nearest, recalls
from mrl_pg.points import Point, figures
from mrl_pg.turns import one_by_one
from mrl_pg.vectors import FloatArray

_COLD_QUERIES = 20
_WARM_UP_ROWS, _WARM_UP_SECONDS = 600, 8.0
_CLIENT_WARM_UP = 20
_SECONDS, _AT_LEAST = 10.0, 20


def measure_short(
    directory: Path,
    settings: Mapping[str, str],
    built: Sequence[Built],
    chosen: Sequence[Chosen],
    data: Data,
    truth: Nearest,
    client_count: int,
    doing: Doing,
) -> list[ShortMemory]:
    """Returns the chosen points that reach their target, each measured alone on a server that has just started.

    Alone, because an application has one of the indexes in its memory and not all. The first queries are cold. Rows of
    the corpus then warm it up, and no query is asked twice: what the rerank of a few hundred queries reads would fit
    even in little memory.
    """
    by_name = {one.method.name: one for one in built if one.index is not None}
    wanted = [pick for pick in chosen if pick.reached and pick.method in by_name]
    warm_up = next(data.blocks())[:_WARM_UP_ROWS]
    measured: dict[tuple[str, Point], ShortMemory] = {}
    for pick in wanted:
        key = (pick.method, pick.figures.point)
        if key not in measured:
            doing("Restarting", f"{settings['shared_buffers']} of buffers, {pick.method}")
            with embedded.server(directory, settings=settings) as dsn:
                measured[key] = _measured(dsn, by_name[pick.method], pick, data.queries, warm_up, truth, client_count)
    return compared([replace(measured[pick.method, pick.figures.point], target=pick.target) for pick in wanted])


def _measured(
    dsn: str, built: Built, pick: Chosen, queries: FloatArray, warm_up: FloatArray, truth: Nearest, client_count: int
) -> ShortMemory:
    point = pick.figures.point
    # Cold ones, those of one client, and those of several.
    first, second = min(_COLD_QUERIES, len(queries) // 4), len(queries) // 2
    with connected(dsn) as conn, clients(dsn, client_count) as rate:
        search = search_at(conn, built, point)
        cold = one_by_one(search, queries[:first])
        one_by_one(search, warm_up, until=time.perf_counter() + _WARM_UP_SECONDS)
        until = time.perf_counter() + _SECONDS
        run = one_by_one(search, queries[first:second], until=until, at_least=_AT_LEAST)
        rest = Task(built, point, warm_up[-_CLIENT_WARM_UP:], queries[second:], seconds=_SECONDS, again=False)
        clients_qps = rate(rest)
    found = recalls(truth.part(first, first + len(run.found)), run.found, K)
    return ShortMemory(
        method=pick.method,
        target=pick.target,
        reached=True,
        statement=pick.statement,
        figures=figures(point, found, run.seconds),
        clients_qps=clients_qps,
        cold_queries=first,
        cold_ms=float(cold.seconds.mean() * 1e3),
        cold_recall=float(recalls(truth.part(0, first), cold.found, K).mean()),
    )
