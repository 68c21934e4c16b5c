"""What an evaluation is made of: rows of a table, and queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus

from mrl_pg import statements
from mrl_pg.embed import TextFunction, as_embedder
from mrl_pg.embedding import check_model
from mrl_pg.errors import DimensionError, EvaluationError, MrlError
from mrl_pg.evaluate import Progress, sizes_of
from mrl_pg.operating import Source
from mrl_pg.psycopg.changes import Mark, mark
from mrl_pg.psycopg.measure import Asked, OnProgress
from mrl_pg.psycopg.run import compiled, execute
from mrl_pg.psycopg.sample import Sample, embedding_column, read_sample
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.queries import Qrels, Queries, QueriesLike, as_queries
from mrl_pg.registry import TableName, Target
from mrl_pg.search import read_filter
from mrl_pg.spec import Distance, check_distance
from mrl_pg.vectors import FloatArray
from mrl_pg.views import Embeddings, Rows, view_dims

# What fits: 100,000 embeddings of 1536 dims take 614 MB.
DEFAULT_ROWS = 100_000
DEFAULT_SAMPLE = 500

_SAID = {
    "recorded": "The queries are {:,} recorded ones.",
    "generated": "The queries are {:,} generated ones, which a chat model wrote: those of users may find more or less.",
}


@dataclass(frozen=True, slots=True)
class Material:
    """Rows of a table as they were at one moment, and what is searched for in them.

    :ivar count: how many rows have an embedding.
    :ivar kept: how many of them a filter keeps.
    :ivar queries: embeddings (q, full_dims), as precise as the rows.
    :ivar itself: row of the sample (q,) which each query is; -1 for none.
    :ivar ids: of the queries, where rows are judged.
    :ivar judged: qrels by the ids of queries and rows; empty without.
    :ivar source: of the queries.
    :ivar begun: when the rows were read.
    :ivar notes: what to know of the queries, a sentence or two each.
    """

    target: TableName
    known: Target
    embedding: str
    distance: Distance
    sample: Sample
    count: int
    kept: int
    queries: Embeddings
    itself: Rows
    ids: list[str]
    judged: Mapping[str, Mapping[str, float]]
    source: Source
    begun: Mark
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the sample is all of the table."""
        return len(self.sample.embeddings) == self.count

    def asked(self, k: int, filter: Mapping[str, Any] | None = None) -> Asked:
        """Returns what is searched for through indexes."""
        return Asked(
            self.target,
            self.known,
            self.embedding,
            self.distance,
            k,
            self.queries.astype(np.float32),
            self.itself,
            filter,
            self.kept / self.count,
        )


@dataclass(frozen=True, slots=True)
class Given:
    """Queries that were given, embedded where they were texts."""

    ids: tuple[str, ...]
    embeddings: FloatArray
    qrels: Qrels
    source: Source


def read_material(
    conn: Connection[Any],
    target: TableName,
    queries: QueriesLike | None,
    *,
    embedder: TextFunction | None,
    embedding: str,
    sample: int | None,
    rows: int,
    k: int,
    kinds: Sequence[str],
    dims: Sequence[int] | None,
    candidates: Sequence[int],
    distance: Distance | None,
    qrels: Mapping[str, Mapping[str, float]] | None,
    model: str | None,
    filter: Mapping[str, Any] | None,
    seed: int,
    on_progress: OnProgress | None,
    before: Callable[[], None] | None = None,
) -> Material:
    """Returns rows of a table in one snapshot, and the queries; parameters as :func:`mrl_pg.psycopg.evaluate` has them.

    What can be wrong with them is looked at before the table is read.

    :param before: called once the table is known, to look at what else can be wrong.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "an evaluation reads one snapshot, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if queries is not None and sample is not None:
        raise EvaluationError(f"queries and sample = {sample} were given. Give one of them.")
    asked = None if queries is None else as_queries(queries)
    # No transaction is open while texts are embedded.
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        statements.table(known)  # raises where there is no primary key
        column = embedding_column(conn, known, embedding)
        if before:
            before()
    given = embedded(known, embedding, asked, embedder, model)
    if distance is None:
        distance = _distance(known, embedding)
    check_distance(distance)
    if column.full_dims is not None:
        view_dims(kinds, dims, column.full_dims)
        if given and given.embeddings.shape[1] != column.full_dims:
            raise DimensionError(column.full_dims, given.embeddings.shape[1], "a query", model)
    judged = qrels if qrels is not None else given.qrels if given else {}
    shape, values = read_filter(filter)
    with conn.transaction(), Cursor(conn) as cursor:
        cursor.execute(compiled(statements.SNAPSHOT))
        ((count, kept),) = execute(conn, statements.count_embeddings(known, embedding, shape), values)
        begun = mark(conn, count)
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
        if len(found.embeddings) and not found.embeddings.any():
            raise EvaluationError(
                f"every {embedding} of {known} that was read is a zero vector, which nothing is near to. Check how "
                "they were made, and store others."
            )
        itself = _chosen(found, sample, seed)
        names, asking = [found.ids[n] for n in itself] if judged else [], found.embeddings[itself]
        notes = [
            f"The queries are {len(asking):,} rows of the table, each searched for without itself. That is optimistic: "
            "real queries are less like the rows."
        ]
    else:
        itself = np.full(len(given.ids), -1, dtype=np.int64)
        names, asking = list(given.ids), _as_stored(given.embeddings, found.embeddings)
        notes = [_SAID[given.source].format(len(names))] if given.source in _SAID else []
    source = given.source if given else "rows"
    return Material(
        target,
        known,
        embedding,
        distance,
        found,
        count,
        kept,
        asking,
        itself,
        names,
        judged,
        source,
        begun,
        tuple(notes),
    )


def embedded(
    known: Target, embedding: str, queries: Queries | None, embedder: TextFunction | None, model: str | None
) -> Given | None:
    """Returns the queries with their embeddings, after checking who made them; None where there are none."""
    if queries is None:
        return None
    if queries.embeddings is not None:
        check_model(known, embedding, model)
        return Given(queries.ids, queries.embeddings, queries.qrels, queries.source)
    texts = queries.texts or ()
    if embedder is None:
        raise EvaluationError(f"the {len(texts):,} queries are texts. Give an embedder for them.")
    made_by = as_embedder(embedder, model=model)
    check_model(known, embedding, model or made_by.model)
    return Given(queries.ids, made_by(texts), queries.qrels, queries.source)


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
