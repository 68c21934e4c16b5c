"""Finding the cheapest settings for a recall on a table, and storing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from shlex import quote
from typing import Any

from psycopg import Connection

from mrl_pg import statements
from mrl_pg.embed import TextFunction
from mrl_pg.errors import EvaluationError, MrlError
from mrl_pg.evaluate import evaluate as evaluate_arrays
from mrl_pg.operating import OperatingPoint
from mrl_pg.psycopg.changes import changed_since, mark, told
from mrl_pg.psycopg.explore import Explorer
from mrl_pg.psycopg.material import DEFAULT_ROWS, Material, read_material
from mrl_pg.psycopg.measure import MAX_EXACT_SEARCHES, OnProgress
from mrl_pg.psycopg.prefixes import DEFAULT_LOCK_TIMEOUT
from mrl_pg.psycopg.run import check_installed, execute
from mrl_pg.psycopg.scaffold import Scaffold
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.psycopg.session import clients_of, session_of
from mrl_pg.queries import QueriesLike
from mrl_pg.registry import TableName, known_model, split_name
from mrl_pg.search import check_recall
from mrl_pg.spec import Distance, Prefix
from mrl_pg.tune import (
    Promising,
    Tuning,
    choose_best,
    exact_is_enough,
    halves,
    named_prefixes,
    promising,
    scanned_candidates,
    stored_points,
)

# Of the rows: what a stored recall may be too low by.
MAX_CHANGED = 0.002
BUILT_KINDS = ("truncate", "rotate", "binary")


def tune(
    conn: Connection[Any],
    target: TableName,
    queries: QueriesLike | None = None,
    *,
    recall: float,
    also: Sequence[float] = (),
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
    same prefixes and k. Nothing is stored where others have changed more than 0.2 % of the rows meanwhile.

    :param conn: a connection outside a transaction.
    :param queries: embeddings (q, full_dims), queries of :mod:`mrl_pg.queries`, or the file of such.
    :param recall: mean recall@k to reach, above 0 and at most 1.
    :param also: other recalls to find and store settings for; the recommendation is for ``recall``.
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
    recalls = [*map(check_recall, (recall, *also))]
    recall = recalls[0]
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
    if material.source == "rows":
        notes.append(
            "Where rows have near duplicates, real queries find far less with the same settings: before you rely on "
            "the recall, measure it with real ones (--queries, --recorded)."
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
                scaffold.add(one, model=model or known_model(material.known, embedding), seed=seed)
            scaffold.fill()
        prefixes = _indexed(conn, material, recall, build=build)
        with clients_of(session_of(conn), 1) as (own,):
            # The build has written every row; what others deleted meanwhile is missing from the count all the same.
            begun = mark(own, material.count) if scaffold.names else material.begun
            explorer = Explorer(own, material, prefixes, k, on_progress)
            p50, p95 = explorer.exact(others)
            points = explorer.points(chosen, others, recalls)
            changed = changed_since(own, material.known, embedding, begun)
        if changed:
            notes.append(told(material.known, changed, begun))
        if store and changed > MAX_CHANGED * begun.rows:
            store = False
            notes.append("So nothing was stored, and what was stored before stays.")
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
        name = statements.quoted(material.known.schema, material.known.name)
        notes.append(f"The build has rewritten the rows. Leave the rest to autovacuum, or run: VACUUM {name}")
    return Tuning(
        table=str(material.known),
        target_recall=recall,
        k=k,
        latency_ms=latency_ms,
        distance=material.distance,
        rows=material.count,
        source=material.source,
        chosen_by=len(chosen),
        confirmed_by=len(others),
        points=tuple(points),
        best=best,
        also=tuple((one, choose_best(points, one, latency_ms)) for one in recalls[1:]),
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
    ((role, points, owner, bases, schema, who),) = execute(conn, statements.MAY_TUNE, {"target": name})
    if store and not points:
        raise MrlError(
            f"role {role} may not store operating points. Run as the owner of schema mrl: "
            f"GRANT INSERT, DELETE ON mrl.operating_points TO {who}; or leave them with --no-store"
        )
    if build and not owner:
        raise MrlError(f"role {role} does not own {name}, and may not add prefixes to it. Run it as the owner.")
    if build and schema is not None:
        raise MrlError(
            f"role {role} may not create an index in schema {schema}. Run as its owner: "
            f"GRANT CREATE ON SCHEMA {schema} TO {who};"
        )
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
