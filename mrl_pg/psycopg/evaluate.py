"""Measuring on a table what prefixes find: those that could be, and those that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus

from mrl_pg import statements
from mrl_pg.embed import TextFunction, as_embedder
from mrl_pg.embedding import check_model
from mrl_pg.errors import DimensionError, EvaluationError, MrlError
from mrl_pg.evaluate import CANDIDATES, Progress, sizes_of
from mrl_pg.evaluate import evaluate as evaluate_arrays
from mrl_pg.evaluation import Evaluation
from mrl_pg.psycopg.measure import Asked, OnProgress, measure_indexes, plans
from mrl_pg.psycopg.run import compiled, execute
from mrl_pg.psycopg.sample import Sample, embedding_column, read_sample
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.queries import Qrels, Queries, QueriesLike, as_queries, positions
from mrl_pg.registry import TableName, Target
from mrl_pg.search import read_filter
from mrl_pg.spec import Distance, check_distance
from mrl_pg.vectors import FloatArray
from mrl_pg.views import KINDS, Embeddings, Rows, view_dims

# What fits: 100,000 embeddings of 1536 dims take 614 MB.
DEFAULT_ROWS = 100_000
DEFAULT_SAMPLE = 500


@dataclass(frozen=True, slots=True)
class Given:
    """Queries that were given, embedded where they were texts."""

    ids: tuple[str, ...]
    embeddings: FloatArray
    qrels: Qrels


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
    :param seed: of the sample, the rotation and the intervals.
    :param on_progress: called with how far it is, from other threads too.
    :raises EvaluationError: for queries, qrels, k, candidates, a sample or a filter that do not fit.
    :raises DimensionError: where queries are not as long as the embeddings.
    :raises SpecError: for kinds, dims or a distance that cannot be.
    :raises MrlError: for a table without embeddings, or a connection in a transaction.
    :raises EmbedError: where the table holds embeddings of another model, and as the embedder does.
    :raises SearchError: for a table that is not there or has no primary key, or a setting out of bounds.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "an evaluation reads one snapshot, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if queries is not None and sample is not None:
        raise EvaluationError(f"queries and sample = {sample} were given. Give one of them.")
    if rows < 1 or clients < 1:
        raise EvaluationError(f"rows and clients must be at least 1, not {rows} and {clients}. Leave them out.")
    if filter and not indexes:
        raise EvaluationError("a filter is for searches through indexes. Leave it out, or measure through indexes.")
    asked = None if queries is None else as_queries(queries)
    # What can be wrong is looked at before a table is read, and no transaction is open while texts are embedded.
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        statements.table(known)  # raises where there is no primary key
        column = embedding_column(conn, known, embedding)
    given = embedded(known, embedding, asked, embedder, model)
    if distance is None:
        distance = _distance(known, embedding)
    check_distance(distance)
    if column.full_dims is not None:
        view_dims(kinds, dims, column.full_dims)
        if given and given.embeddings.shape[1] != column.full_dims:
            raise DimensionError(column.full_dims, given.embeddings.shape[1], "a query", model)
    grid = plans(k, candidates, ef_search, itself=given is None)
    judged = qrels if qrels is not None else given.qrels if given else {}
    shape, values = read_filter(filter)
    with conn.transaction(), Cursor(conn) as cursor:
        cursor.execute(compiled(statements.SNAPSHOT))
        ((count, kept),) = execute(conn, statements.count_embeddings(known, embedding, shape), values)
        _check_room(known, count, kept, k, candidates, itself=given is None)
        found = read_sample(
            conn,
            known,
            column,
            rows,
            seed=seed,
            count=count,
            ids=bool(judged),
            besides=sorted({row for grades in judged.values() for row in grades}),
            shape=shape,
            values=values,
            on_rows=None if on_progress is None else lambda done, total: on_progress(Progress("reading", done, total)),
        )
    if given is None:
        itself = _chosen(found, sample, seed)
        ids, asking = [found.ids[n] for n in itself] if judged else [], found.embeddings[itself]
    else:
        itself = np.full(len(given.ids), -1, dtype=np.int64)
        ids, asking = list(given.ids), _as_stored(given.embeddings, found.embeddings)
    result = evaluate_arrays(
        found.embeddings,
        asking,
        distance=distance,
        itself=itself,
        k=k,
        kinds=kinds,
        dims=dims,
        candidates=candidates,
        qrels=positions(judged, ids, found.ids) if judged else None,
        table_rows=count,
        seed=seed,
        on_progress=on_progress,
    )
    notes = list(result.notes)
    if given is None:
        notes.append(
            f"The queries are {len(asking):,} rows of the table, each searched for without itself. That is optimistic: "
            "real queries are less like the rows."
        )
    if not indexes:
        return replace(result, notes=tuple(notes))
    measured, others = measure_indexes(
        conn,
        Asked(target, known, embedding, distance, k, asking.astype(np.float32), itself, filter, kept / count),
        found,
        grid,
        whole=len(found.embeddings) == count,
        clients=clients,
        seed=seed,
        on_progress=on_progress,
    )
    return replace(result, notes=(*notes, *others), indexes=tuple(measured))


def embedded(
    known: Target, embedding: str, queries: Queries | None, embedder: TextFunction | None, model: str | None
) -> Given | None:
    """Returns the queries with their embeddings, after checking who made them; None where there are none."""
    if queries is None:
        return None
    if queries.embeddings is not None:
        check_model(known, embedding, model)
        return Given(queries.ids, queries.embeddings, queries.qrels)
    texts = queries.texts or ()
    if embedder is None:
        raise EvaluationError(f"the {len(texts):,} queries are texts. Give an embedder for them.")
    made_by = as_embedder(embedder, model=model)
    check_model(known, embedding, model or made_by.model)
    return Given(queries.ids, made_by(texts), queries.qrels)


def _distance(known: Target, embedding: str) -> Distance:
    """Returns the distance of the prefixes of an embedding; cosine where there are none."""
    return next((p.distance for p in known.prefixes if p.embedding == embedding), "cosine")


def _check_room(known: Target, count: int, kept: int, k: int, candidates: Sequence[int], *, itself: bool) -> None:
    """Returns nothing; raises where too few rows have an embedding, or are left by the filter.

    :param itself: whether queries are rows, which do not find themselves.
    """
    if not count:
        return  # What is read is empty then, and says so.
    sizes_of(k, candidates, count - itself)
    if kept - itself < k:
        raise EvaluationError(
            f"the filter keeps {kept:,} of the {count:,} rows of {known}, too few for k = {k}. Widen it, or lower k."
        )


def _chosen(found: Sample, sample: int | None, seed: int) -> Rows:
    """Returns which rows are the queries, chosen at random."""
    # What is zero is near to nothing.
    usable = np.flatnonzero(found.embeddings.any(axis=1))
    if sample is None:
        sample = min(DEFAULT_SAMPLE, max(1, len(usable) // 5))
    if not 1 <= sample <= len(usable):
        raise EvaluationError(
            f"sample must be between 1 and {len(usable):,}, the rows that were read and are not zero, not {sample:,}. "
            f"Leave it out for {DEFAULT_SAMPLE}, or a fifth of fewer rows."
        )
    return np.sort(np.random.default_rng(seed).choice(usable, sample, replace=False))


def _as_stored(queries: FloatArray, rows: Embeddings) -> Embeddings:
    """Returns queries as a search sends them: as precise as the rows."""
    with np.errstate(over="ignore"):  # reported by the evaluation
        return queries.astype(rows.dtype)
