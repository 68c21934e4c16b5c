"""Running searches and timing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mrl_pg.metrics import PerQuery
from mrl_pg.vectors import FloatArray

# What a query finds: the keys of rows, or their distances.
Search: TypeAlias = Callable[[FloatArray], list[Any]]

# Past the five runs after which psycopg prepares a statement, and the five after which PostgreSQL may plan it for good.
WARM_UP_QUERIES = 10
_BLOCK_QUERIES = 50


class Run(NamedTuple):
    """What each query found, and the seconds each took."""

    found: list[list[Any]]
    seconds: PerQuery


def one_by_one(search: Search, queries: FloatArray, *, until: float | None = None, at_least: int = 0) -> Run:
    """Returns what the searches for some queries find and take, one after the other.

    :param until: when to stop, by time.perf_counter(), however many queries are left beyond ``at_least``.
    """
    found, seconds = [], []
    for n, query in enumerate(queries):
        begun = time.perf_counter()
        if until is not None and begun > until and n >= at_least:
            break
        found.append(search(query))
        seconds.append(time.perf_counter() - begun)
    return Run(found, np.array(seconds))


def in_turns(
    searches: Sequence[Search],
    queries: FloatArray,
    *,
    rounds: int = 1,
    is_enough: Callable[[Run], bool] = lambda run: False,
) -> list[Run]:
    """Returns a run of each search over all queries, so often one after the other.

    The searches take turns on blocks of queries, in one order and then in the other, so that what else the machine
    does meets all of them alike.

    :param is_enough: asked after each block whether that search may stop.
    """
    runs = [Run([], np.empty(0)) for _ in searches]
    for search in searches:
        one_by_one(search, queries[-WARM_UP_QUERIES:])
    going = list(range(len(searches)))
    for _ in range(rounds):
        for first in range(0, len(queries), _BLOCK_QUERIES):
            for n in going:
                block = one_by_one(searches[n], queries[first : first + _BLOCK_QUERIES])
                runs[n] = Run(runs[n].found + block.found, np.concatenate([runs[n].seconds, block.seconds]))
            going = [n for n in reversed(going) if not is_enough(runs[n])]
    return runs
