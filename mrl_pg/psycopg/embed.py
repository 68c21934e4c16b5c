"""Embedding the rows of a table, and searching by a text, on a psycopg Connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from typing_extensions import Unpack

from mrl_pg import statements
from mrl_pg.embed import Embedder, TextFunction, as_embedder, embed_one, estimate_tokens
from mrl_pg.embedding import DEFAULT_BATCH_SIZE, EmbedProgress, Write, batches, check_model, read_task
from mrl_pg.errors import EmbedError, MrlError
from mrl_pg.psycopg.run import Packed, compiled, execute, execute_many
from mrl_pg.psycopg.search import Result, describe, forget, search
from mrl_pg.registry import TableName, searched_embedding, split_name
from mrl_pg.search import SearchOptions, Stage, search_plan
from mrl_pg.statements.embedding import VECTOR_COLUMN, AddHashColumn, Task, foreign, waiting
from mrl_pg.vectors import FloatArray, to_binary

# What adding the column of the hashes waits for other users of the table, who wait behind it.
_LOCK_TIMEOUT = "3s"


def embed(
    conn: Connection[Any],
    target: TableName,
    embedder: TextFunction,
    *,
    text_column: str,
    embedding: str = "embedding",
    model: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    limit: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[EmbedProgress], None] | None = None,
) -> EmbedProgress:
    """Returns how many rows were embedded: all that had a text but no embedding, or one of another text or model.

    Works in batches in key order, and no transaction is open while the model works. An embedding is written only where
    the text is still the one that was embedded. Stopped anywhere, it goes on when it is run again. Rows with an
    embedding that was made elsewhere are left alone.

    Adds the column ``embedding_hash uuid`` where it is missing: half the SHA-256 of the model and the text that each
    embedding was made from. That is instant.

    :param conn: a connection outside a transaction.
    :param embedder: from :mod:`mrl_pg.embed`, or any function from n texts to n vectors.
    :param text_column: column of what to embed.
    :param embedding: column of the embeddings, vector or halfvec.
    :param model: name of the model, where the embedder does not say or calls it otherwise than the table.
    :param batch_size: rows a transaction; the embedder makes its own requests of them.
    :param limit: embed at most so many rows.
    :param dry_run: count only: rows, tokens and cost.
    :param on_progress: called after each batch.
    :raises EmbedError: for what the embedder or its API refuses, where the connection breaks, or where the table holds
        embeddings of another model.
    :raises DimensionError: where the embeddings are not as long as the column is wide; nothing is written then.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "embed commits every batch, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MrlError(
            f"batch_size and limit must be at least 1, not {batch_size} and {limit}. "
            f"Leave them out for {DEFAULT_BATCH_SIZE:,} rows a transaction and for all rows."
        )
    embedder = as_embedder(embedder)
    task = _task(conn, target, text_column, embedding, model or embedder.model)
    if not dry_run and not task.hashed:
        task = _add_hash_column(conn, target, task)
    with conn.transaction():
        ((rows, size),) = execute(conn, waiting(task, limit))
        ((others,),) = execute(conn, foreign(task))
    progress = EmbedProgress(embedding, total=rows, foreign=others)
    if dry_run:
        progress.tokens = estimate_tokens(size)
        progress.cost = embedder.usage.cost(progress.tokens)
        return progress
    before = embedder.usage.tokens

    def on_batch(progress: EmbedProgress) -> None:
        progress.tokens = embedder.usage.tokens - before
        progress.cost = embedder.usage.cost(progress.tokens)
        if on_progress:
            on_progress(progress)

    steps = batches(task, progress, batch_size=batch_size, limit=limit, on_batch=on_batch)
    try:
        step = next(steps)
        while True:
            step = steps.send(_answer(conn, step, embedder))
    except StopIteration:
        return progress
    except psycopg.OperationalError as error:
        raise EmbedError(
            f"the database failed after key {progress.last_key!r} ({error}); {progress.embedded:,} rows are embedded "
            "and stay so. Run it again."
        ) from error
    except EmbedError as error:
        if progress.embedded:
            raise EmbedError(f"{progress.embedded:,} rows are embedded and stay so, but then: {error}") from error
        raise


def search_text(
    conn: Connection[Any],
    target: TableName,
    text: str,
    embedder: TextFunction,
    *,
    columns: Sequence[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    record: float = 0,
    **options: Unpack[SearchOptions],
) -> Result:
    """Returns the k rows nearest to a text, which is embedded first; parameters and errors as in ``search``.

    :param embedder: from :mod:`mrl_pg.embed`, or any function from texts to vectors.
    :raises EmbedError: for an empty text, for what the embedder refuses, or where it is another model than the table's.
    """
    stages = search_plan(**options).stages
    query = embed_query(conn, target, text, embedder, prefix=prefix, stages=stages)
    return search(conn, target, query, columns=columns, filter=filter, prefix=prefix, record=record, **options)


def embed_query(
    conn: Connection[Any],
    target: TableName,
    text: str,
    embedder: TextFunction,
    *,
    prefix: str | None = None,
    stages: Sequence[Stage] = (),
) -> FloatArray:
    """Returns the embedding (dims,) of a text, as a query for the embeddings of a prefix, or of those of stages.

    :raises EmbedError: for an empty text, for what the embedder refuses, or where it is another model than the table's.
    """
    embedder = as_embedder(embedder)
    # The connection comes second: where it opens a transaction, that does not wait for the model.
    vector = embed_one(text, embedder)
    known = describe(conn, target)
    check_model(known, searched_embedding(known, prefix, stages), embedder.model)
    return vector


def _task(conn: Connection[Any], target: TableName, text_column: str, embedding: str, model: str | None) -> Task:
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        name = statements.quoted(*split_name(target))
        columns = execute(conn, VECTOR_COLUMN.bindparams(target=name, embedding=embedding))
    return read_task(known, columns, text_column, embedding, model)


def _add_hash_column(conn: Connection[Any], target: TableName, task: Task) -> Task:
    try:
        with conn.transaction(), Cursor(conn, row_factory=tuple_row) as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            cursor.execute(compiled(AddHashColumn(task)), {})
    except psycopg.errors.LockNotAvailable as error:
        raise EmbedError(
            f"column {task.hash} could not be added in {_LOCK_TIMEOUT}: others hold {task.target}. Run it again."
        ) from error
    forget(conn, target)
    return replace(task, hashed=True)


def _answer(conn: Connection[Any], step: sa.Select[Any] | list[str] | Write, embedder: Embedder) -> Any:
    if isinstance(step, list):
        try:
            return embedder(step), ()
        except EmbedError as error:
            if not error.refused:
                raise
            return error.embeddings, error.refused
    with conn.transaction(), Cursor(conn, row_factory=tuple_row) as cursor:
        if isinstance(step, Write):
            # With a lock comes the row as it is by then, where other levels fail.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            packed = [{**row, "mrl_embedding": Packed(to_binary(row["mrl_embedding"]))} for row in step.values]
            return execute_many(conn, step.statement, packed)
        # The next rows come by the index of the key, whatever statistics say: a sort would read the whole table for
        # every batch.
        cursor.execute("SELECT set_config('enable_sort', 'off', true)")
        return execute(conn, step)
