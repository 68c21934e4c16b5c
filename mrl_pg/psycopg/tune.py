"""Finding the cheapest settings for a recall on a table, and storing them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from shlex import quote
from typing import Any

import numpy as np
from psycopg import Connection

from mrl_pg import statements
from mrl_pg.embed import TextFunction
from mrl_pg.errors import EvaluationError, MrlError
from mrl_pg.evaluate import Progress
from mrl_pg.evaluate import evaluate as evaluate_arrays
from mrl_pg.measure import Truth, recalls
from mrl_pg.metrics import PerQuery
from mrl_pg.operating import OperatingPoint
from mrl_pg.points import Figures, Point, figures, is_clear, next_points
from mrl_pg.psycopg.material import DEFAULT_ROWS, Material, read_material
from mrl_pg.psycopg.measure import MAX_EXACT_SEARCHES, OnProgress, clients_of, find_truth
from mrl_pg.psycopg.prefixes import DEFAULT_LOCK_TIMEOUT
from mrl_pg.psycopg.run import check_installed, execute
from mrl_pg.psycopg.scaffold import Scaffold
from mrl_pg.psycopg.search import describe, forget, search
from mrl_pg.queries import QueriesLike
from mrl_pg.registry import TableName, split_name
from mrl_pg.search import check_recall
from mrl_pg.spec import Distance, Prefix
from mrl_pg.tune import (
    Promising,
    Tuning,
    choose_best,
    exact_is_enough,
    grid_of,
    halves,
    named_prefixes,
    promising,
    scanned_candidates,
    stored_points,
    to_confirm,
)
from mrl_pg.turns import Run, Search, in_turns, one_by_one
from mrl_pg.vectors import FloatArray

BUILT_KINDS = ("truncate", "rotate", "binary")

# An exact search of a large table takes seconds.
_EXACT_SECONDS, _EXACT_AT_LEAST = 5.0, 3


def tune(
    conn: Connection[Any],
    target: TableName,
    queries: QueriesLike | None = None,
    *,
    recall: float,
    k: int = 10,
    latency_ms: float | None = None,
    build: bool = False,
    kinds: Sequence[str] = BUILT_KINDS,
    dims: Sequence[int] | None = None,
    embedder: TextFunction | None = None,
    embedding: str = "embedding",
    sample: int | None = None,
    rows: int = DEFAULT_ROWS,
    distance: Distance | None = None,
    model: str | None = None,
    store: bool = True,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Tuning:
    """Returns the cheapest settings that reach a recall, with all that was measured, and stores the Pareto set.

    Half of the queries choose: they walk from setting to setting of every prefix that has an index. The other half
    confirm: all figures are theirs. What is stored serves ``search(..., recall=)``; it replaces what was stored for the
    same prefixes and k.

    :param conn: a connection outside a transaction.
    :param queries: embeddings (q, full_dims), queries of :mod:`mrl_pg.queries`, or the file of such.
    :param recall: mean recall@k to reach, above 0 and at most 1.
    :param k: rows a search returns.
    :param latency_ms: what 95 % of the searches may take, the way there and back included; any time if left out.
    :param build: first compare all kinds and dims by an exact scan, and build the most promising prefixes on the table.
        Each rewrites the rows once, in batches. All but the recommended one are dropped again, whatever happens.
    :param kinds: to choose from for a build: ``truncate``, ``rotate``, ``binary``.
    :param dims: lengths to choose from for a build; as :func:`mrl_pg.evaluate.evaluate` takes them.
    :param embedder: for queries that are texts.
    :param embedding: column of the embeddings, vector or halfvec.
    :param sample: take so many rows of the table as queries, each searched for without itself.
    :param rows: read all rows up to so many, else about so many at random.
    :param distance: that of the prefixes there are, or else ``cosine``, if left out.
    :param model: the model that made the queries.
    :param store: store the points.
    :param lock_timeout: seconds to wait for the table when a prefix is added or dropped.
    :param seed: of the sample, the halves and the rotation.
    :param on_progress: called with how far it is, from other threads too.
    :raises EvaluationError: for queries, k or a sample that do not fit, or nothing to measure.
    :raises SearchError: for a recall that cannot be, or a table that is not there.
    :raises MrlError: for want of a privilege, before anything is measured.
    """
    recall = check_recall(recall)
    if rows < 1 or (latency_ms is not None and latency_ms <= 0):
        raise EvaluationError(f"rows and latency_ms must be above 0, not {rows} and {latency_ms}. Leave them out.")
    if wrong := [kind for kind in kinds if kind not in BUILT_KINDS]:
        raise EvaluationError(f"kind {wrong[0]!r} cannot be built here. Use {', '.join(BUILT_KINDS)}.")
    material = read_material(
        conn,
        target,
        queries,
        embedder=embedder,
        embedding=embedding,
        sample=sample,
        rows=rows,
        k=k,
        kinds=kinds,
        dims=dims,
        candidates=scanned_candidates(k),
        distance=distance,
        qrels={},
        model=model,
        filter=None,
        seed=seed,
        on_progress=on_progress,
        before=lambda: _check_rights(conn, target, build=build, kinds=kinds, store=store),
    )
    notes = list(material.notes)
    if queries is None:
        notes.append(
            "Where rows have near duplicates, real queries find far less with the same settings: before you rely on "
            "the recall, measure it with real ones (--queries)."
        )
    if not material.whole and len(material.queries) > MAX_EXACT_SEARCHES:
        notes.append(
            f"The first {MAX_EXACT_SEARCHES} queries were used: for each of them the whole table had to be compared."
        )
        first = slice(MAX_EXACT_SEARCHES)
        material = replace(material, queries=material.queries[first], itself=material.itself[first])
    if len(material.queries) < 2:
        raise EvaluationError("one query cannot both choose and confirm. Give at least 2, better 200.")
    chosen, others = halves(len(material.queries), seed)
    scanned: list[Promising] = []
    with Scaffold(conn, target, embedding, material.distance, lock_timeout, on_progress) as scaffold:
        if build:
            scanned, more = _scan(material, chosen, recall, k, kinds, dims, seed, on_progress)
            notes += more
            for one in scanned:
                scaffold.add(one, model=model or _model(material), seed=seed)
            scaffold.fill()
        prefixes = _indexed(conn, material, recall, build=build)
        with clients_of(conn, 1) as (own,):
            measure = _Measure(own, material, prefixes, k, on_progress)
            p50, p95 = measure.exact(others)
            points = measure.points(chosen, others, recall)
        best = choose_best(points, recall, latency_ms)
        enough = exact_is_enough(p50, p95, best, latency_ms)
        keep = None if best is None or enough else best.prefix
        staying = [p.prefix for p in prefixes if p.prefix == keep or p.prefix not in scaffold.names]
        storing = stored_points(points, staying) if store else []
        if store:
            _store(conn, target, k, staying, storing)
        scaffold.keep(keep)
    forget(conn, target)
    if scaffold.names:
        notes.append(f"The build has rewritten the rows. Leave the rest to autovacuum, or run: VACUUM {material.known}")
    return Tuning(
        table=str(material.known),
        target_recall=recall,
        k=k,
        latency_ms=latency_ms,
        distance=material.distance,
        rows=material.count,
        sampled=queries is None,
        chosen_by=len(chosen),
        confirmed_by=len(others),
        points=tuple(points),
        best=best,
        exact_p50_ms=p50,
        exact_p95_ms=p95,
        exact_is_enough=enough,
        scanned=tuple(scanned),
        built=tuple(scaffold.names),
        dropped=tuple(name for name in scaffold.names if name != keep),
        stored=len(storing),
        notes=tuple(notes),
    )


def _check_rights(conn: Connection[Any], target: TableName, *, build: bool, kinds: Sequence[str], store: bool) -> None:
    """Returns nothing; raises where a right is missing that would be noticed after minutes only."""
    check_installed(conn)
    name = statements.quoted(*split_name(target))
    ((role, points, owner, bases),) = execute(conn, statements.MAY_TUNE, {"target": name})
    who = quote(role)
    if store and not points:
        raise MrlError(
            f"role {role} may not store operating points. Run as the owner of schema mrl: "
            f"GRANT INSERT, DELETE ON mrl.operating_points TO {who}; or leave them with --no-store"
        )
    if build and not owner:
        raise MrlError(f"role {role} does not own {name}, and may not add prefixes to it. Run it as the owner.")
    if build and "rotate" in kinds and not bases:
        raise MrlError(
            f"role {role} may not store the bases of rotations. Run as the owner of schema mrl: "
            f"GRANT INSERT, DELETE ON mrl.bases TO {who}; or build others with --kinds truncate,binary"
        )


def _scan(
    material: Material,
    chosen: Any,
    recall: float,
    k: int,
    kinds: Sequence[str],
    dims: Sequence[int] | None,
    seed: int,
    on_progress: OnProgress | None,
) -> tuple[list[Promising], list[str]]:
    """Returns the prefixes worth building, and what to know of the scan."""
    evaluation = evaluate_arrays(
        material.sample.embeddings,
        material.queries[chosen],
        distance=material.distance,
        itself=material.itself[chosen],
        k=k,
        kinds=kinds,
        dims=dims,
        candidates=scanned_candidates(k),
        table_rows=material.count,
        seed=seed,
        on_progress=on_progress,
    )
    there = named_prefixes(p for p in material.known.prefixes if p.embedding == material.embedding)
    return promising(evaluation, recall, there), list(evaluation.notes)


def _model(material: Material) -> str | None:
    """Returns the model that the table knows of the embeddings."""
    return next((p.model for p in material.known.prefixes if p.embedding == material.embedding and p.model), None)


def _indexed(conn: Connection[Any], material: Material, recall: float, *, build: bool) -> list[Prefix]:
    """Returns the prefixes that can be measured, oldest first."""
    with conn.transaction():
        forget(conn, material.target)
        known = describe(conn, material.target)
    wanted = (material.embedding, material.distance)
    found = [p for p in known.prefixes if p.index and (p.embedding, p.distance) == wanted]
    if not found:
        again = f"mrl-pg tune {quote(str(known))} --recall {recall:g}"
        raise EvaluationError(
            f"no kind and length reaches recall {recall:g} in an exact scan, and {known} has no prefix with an index. "
            f"Run with more dims: {again} --build --dims 512,1024"
            if build
            else f"{known} has no prefix of {wanted[0]} for {wanted[1]} with an index. Run: {again} --build"
        )
    return found


def _store(
    conn: Connection[Any], target: TableName, k: int, prefixes: Sequence[str], points: Sequence[OperatingPoint]
) -> None:
    """Returns nothing; replaces what is stored for the prefixes and k."""
    name = statements.quoted(*split_name(target))
    with conn.transaction():
        execute(conn, statements.FORGET_POINTS, {"target": name, "k": k, "prefixes": list(prefixes)})
        for one in points:
            execute(conn, statements.STORE_POINT, {"target": name, **asdict(one)})


class _Measure:
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

    def points(self, chosen: Any, others: Any, recall: float) -> list[OperatingPoint]:
        """Returns what the other queries confirm of the settings that the chosen ones found, the fastest first."""
        grid = grid_of(self._k, self._material.count, itself=self._truth.asked > self._k)
        seen: dict[str, dict[Point, Figures]] = {prefix: {} for prefix in self._prefixes}
        while points := next_points(dict.fromkeys(seen, grid), [recall], seen):
            self._show("choosing", sum(map(len, seen.values())))
            for (prefix, point), found in self._run([*points.items()], chosen, [recall]).items():
                seen[prefix][point] = found
        confirmed: dict[tuple[str, Point], Figures] = {}
        while pairs := to_confirm(seen, confirmed, recall):
            self._show("confirming", len(confirmed))
            confirmed |= self._run(pairs, others, None)
        measured = [self._operating_point(prefix, one, recall) for (prefix, _), one in confirmed.items()]
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
        def ask(query: FloatArray) -> list[float]:
            found = search(
                self._conn, self._material.target, query, prefix=prefix, columns=(), k=self._truth.asked, **options
            )
            return [hit.distance for hit in found]

        return ask

    def _operating_point(self, prefix: str, found: Figures, recall: float) -> OperatingPoint:
        return OperatingPoint(
            prefix=prefix,
            k=self._k,
            candidates=found.candidates,
            ef_search=found.ef_search,
            target_recall=recall,
            recall=found.recall,
            recall_low=found.low,
            recall_high=found.high,
            p50_ms=found.p50_ms,
            p95_ms=found.p95_ms,
            rows=self._material.count,
            queries=found.queries,
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
