"""Searching a table at one setting after another, for those that reach a recall."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import Connection

from mrl_pg.evaluate import Progress
from mrl_pg.measure import Truth, recalls
from mrl_pg.metrics import PerQuery
from mrl_pg.operating import OperatingPoint
from mrl_pg.points import Figures, Point, figures, is_clear, next_points
from mrl_pg.psycopg.material import Material
from mrl_pg.psycopg.measure import OnProgress, find_truth
from mrl_pg.psycopg.search import search
from mrl_pg.spec import Prefix
from mrl_pg.tune import grid_of, to_confirm
from mrl_pg.turns import Run, Search, in_turns, one_by_one
from mrl_pg.vectors import FloatArray

# An exact search of a large table takes seconds.
_EXACT_SECONDS, _EXACT_AT_LEAST = 5.0, 3


class Explorer:
    """Searches on one connection, which choose and confirm settings."""

    def __init__(
        self,
        conn: Connection[Any],
        material: Material,
        prefixes: Sequence[Prefix],
        k: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._conn, self._material, self._k = conn, material, k
        self._prefixes = [p.prefix for p in prefixes]
        self._on_progress = on_progress
        asked = material.asked(k)
        self._queries = asked.queries
        self._truth = find_truth(
            conn, asked, prefixes[0], material.sample, None, whole=material.whole, on_progress=on_progress
        )

    def exact(self, numbers: Any) -> tuple[float, float]:
        """Returns the median and the 95th percentile of exact searches, in ms."""
        search = self._search(self._prefixes[0], exact=True)
        search(self._queries[0])
        until = time.perf_counter() + _EXACT_SECONDS
        run = one_by_one(search, self._queries[numbers], until=until, at_least=_EXACT_AT_LEAST)
        p50, p95 = np.percentile(run.seconds, [50, 95]) * 1e3
        return float(p50), float(p95)

    def points(self, chosen: Any, others: Any, recalls: Sequence[float]) -> list[OperatingPoint]:
        """Returns what the other queries confirm of the settings that the chosen ones found, the fastest first.

        :param recalls: to find the cheapest settings for.
        """
        grid = grid_of(self._k, self._material.count, itself=self._truth.asked > self._k)
        seen: dict[str, dict[Point, Figures]] = {prefix: {} for prefix in self._prefixes}
        while points := next_points(dict.fromkeys(seen, grid), recalls, seen):
            self._show("choosing", sum(map(len, seen.values())))
            for (prefix, point), found in self._run([*points.items()], chosen, recalls).items():
                seen[prefix][point] = found
        confirmed: dict[tuple[str, Point], Figures] = {}
        while pairs := to_confirm(seen, confirmed, recalls):
            self._show("confirming", len(confirmed))
            confirmed |= self._run(pairs, others, None)
        measured = [self._operating_point(prefix, one, recalls) for (prefix, _), one in confirmed.items()]
        return sorted(measured, key=lambda one: one.p50_ms)

    def _run(
        self, pairs: Sequence[tuple[str, Point]], numbers: Any, targets: Sequence[float] | None
    ) -> dict[tuple[str, Point], Figures]:
        """Returns the figures of settings, which take turns.

        :param targets: stop early where the recall is clear of them; never if None.
        """
        truth = self._truth.part(numbers)
        searches = [
            self._search(prefix, candidates=point.candidates, ef_search=point.ef_search) for prefix, point in pairs
        ]

        def is_enough(run: Run) -> bool:
            return targets is not None and is_clear(_judged(truth, run), targets)

        runs = in_turns(searches, self._queries[numbers], is_enough=is_enough)
        return {pair: figures(pair[1], _judged(truth, run), run.seconds) for pair, run in zip(pairs, runs, strict=True)}

    def _search(self, prefix: str, **options: Any) -> Search:
        material = self._material
        columns = material.known.key  # with none the rows found would not be fetched

        def ask(query: FloatArray) -> list[float]:
            found = search(
                self._conn, material.target, query, prefix=prefix, columns=columns, k=self._truth.asked, **options
            )
            return [hit.distance for hit in found]

        return ask

    def _operating_point(self, prefix: str, found: Figures, recalls: Sequence[float]) -> OperatingPoint:
        reached = [one for one in recalls if found.recall >= one]
        return OperatingPoint(
            prefix=prefix,
            k=self._k,
            candidates=found.candidates,
            ef_search=found.ef_search,
            target_recall=max(reached, default=min(recalls)),
            recall=found.recall,
            recall_low=found.low,
            recall_high=found.high,
            p50_ms=found.p50_ms,
            p95_ms=found.p95_ms,
            rows=self._material.count,
            queries=found.queries,
            source=self._material.source,
        )

    def _show(self, what: str, done: int) -> None:
        if self._on_progress:
            self._on_progress(Progress(what, done, done + len(self._prefixes), "settings"))


def _judged(truth: Truth, run: Run) -> PerQuery:
    """Returns the recall of each query of a run over the first of them."""
    found = np.full((len(run.found), truth.asked), np.inf, dtype=np.float32)
    for n, far in enumerate(run.found):
        found[n, : len(far)] = far
    return recalls(truth, found)
