"""Measuring on a table what prefixes find: those that could be, and those that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from psycopg import Connection

from mrl_pg.embed import TextFunction
from mrl_pg.errors import EvaluationError
from mrl_pg.evaluate import CANDIDATES
from mrl_pg.evaluate import evaluate as evaluate_arrays
from mrl_pg.evaluation import Cold, Evaluation
from mrl_pg.psycopg.changes import changed_since, told
from mrl_pg.psycopg.cold import measure_cold
from mrl_pg.psycopg.material import DEFAULT_ROWS, read_material
from mrl_pg.psycopg.measure import Known, OnProgress, find_truths, measure_indexes, plans
from mrl_pg.psycopg.session import clients_of, session_of
from mrl_pg.queries import QueriesLike, positions
from mrl_pg.registry import TableName
from mrl_pg.spec import Distance
from mrl_pg.views import KINDS


def evaluate(
    conn: Connection[Any],
    target: TableName,
    queries: QueriesLike | None = None,
    *,
    embedder: TextFunction | None = None,
    embedding: str = "embedding",
    sample: int | None = None,
    rows: int = DEFAULT_ROWS,
    k: int = 10,
    kinds: Sequence[str] = KINDS,
    dims: Sequence[int] | None = None,
    candidates: Sequence[int] = CANDIDATES,
    distance: Distance | None = None,
    qrels: Mapping[str, Mapping[str, float]] | None = None,
    model: str | None = None,
    indexes: bool = True,
    ef_search: Sequence[int] | None = None,
    clients: int = 1,
    filter: Mapping[str, Any] | None = None,
    cold: str | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Returns what prefixes find of the exact top k of a table, and what searches through its indexes find and take.

    The embeddings are read in one snapshot, whatever others write meanwhile, and scanned with numpy; nothing is built
    or written. Then the prefixes that have a valid index are searched through it, on connections like this one.

    :param conn: a connection outside a transaction.
    :param queries: embeddings (q, full_dims), queries of :mod:`mrl_pg.queries`, or the file of such.
    :param embedder: from :mod:`mrl_pg.embed`, or any function from texts to vectors, for queries that are texts.
    :param embedding: column of the embeddings, vector or halfvec.
    :param sample: take so many rows of the table as queries, each searched for without itself. Where there are no
        queries: 500, or a fifth of fewer rows.
    :param rows: read all rows up to so many, else about so many at random.
    :param kinds: as :func:`mrl_pg.evaluate.evaluate` takes them, and so ``dims``.
    :param candidates: sizes of stage one; those from k to the number of rows are used.
    :param distance: that of the prefixes there are, or else ``cosine``, if left out.
    :param qrels: relevant rows, {id of a query: {id of a row: grade}}; those of the file if left out. The id of a row
        is its key as text, that of a composite key ``(1,en)``. All judged rows are read, also beside a sample.
    :param model: the model that made the queries; refused where the table knows another.
    :param indexes: search through the indexes there are.
    :param ef_search: sizes of the HNSW candidate list to measure with each number of candidates; what a search chooses
        by itself if left out.
    :param clients: how many connections search at a time.
    :param filter: measure searches under a filter besides, as in ``search``.
    :param cold: a shell command that empties caches, such as ``sudo systemctl restart postgresql``. It is run once for
        each prefix with an index, before anything is measured; then the first 100 queries are searched for, without
        the filter. Where it restarts the server, ``conn`` is lost.
    :param seed: of the sample, the rotation and the intervals.
    :param on_progress: called with how far it is, from other threads too.
    :raises EvaluationError: for queries, qrels, k, candidates, a sample or a filter that do not fit; where the command
        fails, or the server does not come back from it within 60 s.
    :raises DimensionError: where queries are not as long as the embeddings.
    :raises SpecError: for kinds, dims or a distance that cannot be.
    :raises MrlError: for a table without embeddings, or a connection in a transaction.
    :raises EmbedError: where the table holds embeddings of another model, and as the embedder does.
    :raises SearchError: for a table that is not there or has no primary key, or a setting out of bounds.
    """
    if rows < 1 or clients < 1:
        raise EvaluationError(f"rows and clients must be at least 1, not {rows} and {clients}. Leave them out.")
    if filter and not indexes:
        raise EvaluationError("a filter is for searches through indexes. Leave it out, or measure through indexes.")
    if cold is not None and not (indexes and cold.strip()):
        raise EvaluationError(
            f"cold = {cold!r} is a command before searches through indexes. Leave it out, or measure through indexes."
        )
    grid = plans(k, candidates, ef_search, itself=queries is None)
    found = read_material(
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
        candidates=candidates,
        distance=distance,
        qrels=qrels,
        model=model,
        filter=filter,
        seed=seed,
        on_progress=on_progress,
    )
    session = session_of(conn)
    known: Known | None = None
    colds: list[Cold] = []
    if indexes:
        known = find_truths(session, found.asked(k, filter), found.sample, whole=found.whole, on_progress=on_progress)
        if cold is not None:
            # Before what takes long: a command that does not work shows now.
            colds = measure_cold(session, known, grid, cold, seed=seed, on_progress=on_progress)
    result = evaluate_arrays(
        found.sample.embeddings,
        found.queries,
        distance=found.distance,
        itself=found.itself,
        k=k,
        kinds=kinds,
        dims=dims,
        candidates=candidates,
        qrels=positions(found.judged, found.ids, found.sample.ids) if found.judged else None,
        table_rows=found.count,
        seed=seed,
        on_progress=on_progress,
    )
    notes = [*result.notes, *found.notes]
    if known is None:
        return replace(result, notes=tuple(notes))
    measured = measure_indexes(session, known, grid, clients=clients, seed=seed, on_progress=on_progress)
    if measured:
        with clients_of(session, 1) as (own,):
            changed = changed_since(own, found.known, embedding, found.begun)
        if changed:
            notes.append(told(found.known, changed, found.begun))
    if cold is not None and not colds:
        notes.append("There is no index to search through, so the command that empties caches was not run.")
    return replace(result, notes=(*notes, *known.notes), indexes=tuple(measured), cold=tuple(colds))
