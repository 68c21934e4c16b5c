"""Embedding the rows of a table: batches in the order of their key, each written in a transaction of its own.

Beside an embedding stands the hash of the model and the text it was made from (``embedding_hash uuid``). A row waits
for its embedding while that is NULL or the hash of its text is another, so there is nothing to remember: what was
stopped anywhere goes on when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.errors import DimensionError, EmbedError
from mrl_pg.registry import Target, same_model
from mrl_pg.statements.embedding import Task, batch, hash_name, write
from mrl_pg.vectors import FP16_MAX, FloatArray

DEFAULT_BATCH_SIZE = 1_024
# How many keys of rows that are passed over are kept for the report.
MAX_SKIPPED_KEYS = 20

Rows: TypeAlias = Sequence[Sequence[Any]]


@dataclass
class EmbedProgress:
    """How far the embedding of a table has come.

    :ivar total: rows that waited for an embedding at the start, at most ``limit``.
    :ivar embedded: rows that have got theirs so far.
    :ivar skipped: rows passed over, because their text is empty or the model does not take it (too long); they stay as
        they are.
    :ivar skipped_keys: the first of their keys.
    :ivar missed: rows whose embedding was not written, because their text changed meanwhile, somebody held them or
        they are gone; the next run takes those that still wait.
    :ivar foreign: rows with an embedding but no hash: made elsewhere, so a change of their text goes unnoticed.
    :ivar tokens: tokens used; for a dry run those expected, rather too many than too few.
    :ivar cost: their price in US dollars; None where it is not known.
    :ivar last_key: key of the last row looked at.
    """

    embedding: str
    total: int = 0
    embedded: int = 0
    skipped: int = 0
    skipped_keys: list[Any] = field(default_factory=list)
    missed: int = 0
    foreign: int = 0
    tokens: int = 0
    cost: float | None = None
    last_key: Any = None

    @property
    def tried(self) -> int:
        """Rows whose text the model has embedded."""
        return self.embedded + self.missed

    @property
    def done(self) -> int:
        """Rows looked at."""
        return self.tried + self.skipped


@dataclass(frozen=True, slots=True)
class Write:
    """A statement to run for each of several sets of values in one transaction; wanted is how many rows changed."""

    statement: ClauseElement
    values: list[dict[str, Any]]


# Out go queries, whose rows are wanted; texts, for which (embeddings, positions of those that the model does not take)
# are wanted; and what to write.
Steps: TypeAlias = Generator[sa.Select[Any] | list[str] | Write, Any, None]


def read_task(target: Target, columns: Rows, text: str, embedding: str, model: str | None) -> Task:
    """Returns the task from the rows of ``VECTOR_COLUMN``.

    :raises EmbedError: where the columns do not suit, or the table knows another model.
    :raises SearchError: where the column of the texts or the primary key does not exist.
    """
    statements.table(target)  # raises where there is no primary key
    target.column_type(text)
    if not columns:
        raise EmbedError(
            f"column {embedding!r} of {target} does not exist or is no vector or halfvec. "
            "Name the column of the embeddings with embedding= (--embedding)."
        )
    types = dict(target.columns)
    hash_column = hash_name(embedding)
    if types.get(hash_column, "uuid") != "uuid":
        raise EmbedError(
            f"column {hash_column!r} of {target} is {types[hash_column]}, and the hashes of the texts need it as uuid. "
            "Rename it."
        )
    check_model(target, embedding, model)
    ((embedding_type, full_dims),) = columns
    return Task(target, text, embedding, full_dims, embedding_type, model, hash_column in types)


def check_model(target: Target, embedding: str, model: str | None) -> None:
    """Returns nothing; raises EmbedError where the table knows another model for an embedding column."""
    for known in (p.model for p in target.prefixes if p.embedding == embedding):
        if known and model and not same_model(known, model):
            raise EmbedError(
                f"{embedding} of {target} holds embeddings of {known}, and those of {model} do not compare with them. "
                f"Use {known}, or a column of its own for {model}."
            )


def batches(
    task: Task,
    progress: EmbedProgress,
    *,
    batch_size: int,
    limit: int | None,
    on_batch: Callable[[EmbedProgress], None],
) -> Steps:
    """Returns nothing; yields what is wanted (see ``Steps``) and keeps ``progress``.

    ``on_batch`` is called between two batches.

    :raises DimensionError: where the embeddings are not as long as the column is wide.
    """
    last: Sequence[Any] = ()
    # Rows that are passed over do not count, or a limit would never get past them.
    while limit is None or progress.tried < limit:
        size = batch_size if limit is None else min(batch_size, limit - progress.tried)
        rows: Rows = yield batch(task, size, last)
        if not rows:
            return
        sent = [n for n, row in enumerate(rows) if row[-2].strip()]
        if sent:
            embeddings, refused = yield [rows[n][-2] for n in sent]
            sent = [n for position, n in enumerate(sent) if position not in refused]
        if sent:
            task = _fitting(task, embeddings)
            values = [
                {f"mrl_key_{i}": part for i, part in enumerate(rows[n][:-2])}
                | {"mrl_hash": rows[n][-1], "mrl_embedding": embedding}
                for n, embedding in zip(sent, _stored(task, embeddings), strict=True)
            ]
            written = yield Write(write(task), values)
            progress.embedded += written
            progress.missed += len(sent) - written
        skipped = sorted(set(range(len(rows))) - set(sent))
        progress.skipped += len(skipped)
        progress.skipped_keys = [*progress.skipped_keys, *(_shown(rows[n]) for n in skipped)][:MAX_SKIPPED_KEYS]
        progress.last_key = _shown(rows[-1])
        last = rows[-1][:-2]
        on_batch(progress)


def _fitting(task: Task, embeddings: FloatArray) -> Task:
    """Returns the task; a column that takes any length takes from then on that of its first embeddings."""
    dims = embeddings.shape[1]
    if task.full_dims not in (None, dims):
        raise DimensionError(task.full_dims, dims, f"an embedding of {task.model}" if task.model else "an embedding")
    return replace(task, full_dims=dims)


def _stored(task: Task, embeddings: FloatArray) -> npt.NDArray[np.floating[Any]]:
    """Returns the embeddings as the column keeps them: float32, or float16 for halfvec."""
    if task.embedding_type == "vector":
        return embeddings
    if (largest := float(np.abs(embeddings).max())) > FP16_MAX:
        raise EmbedError(
            f"an embedding reaches {largest:,.0f}, beyond {FP16_MAX:,.0f}, the largest halfvec number. "
            "Scale the embeddings down, or make the column vector."
        )
    return embeddings.astype(np.float16)


def _shown(row: Sequence[Any]) -> Any:
    """Returns the key of a row of a batch: a scalar, or a tuple where it is composite."""
    *parts, _, _ = row
    return parts[0] if len(parts) == 1 else tuple(parts)
