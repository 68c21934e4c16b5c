"""The backfill: batches of rows in the order of their key, each a transaction of its own.

Rows with a prefix are passed over, so a backfill that was stopped anywhere goes on when it is run again: there is
nothing to remember. Rows that are inserted or updated meanwhile get their prefix from the trigger.

Most prefixes are made inside the database. A rotation is made here, much faster than SQL can: its batch is locked and
read, and written in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.basis import unpack
from mrl_pg.errors import MrlError
from mrl_pg.registry import Target
from mrl_pg.spec import Prefix
from mrl_pg.vectors import FloatArray, prefixes_of, storable, to_binary_array

DEFAULT_BATCH_SIZE = 2_000
# The first batch is small, because nobody knows yet what a row costs; then row locks are held about this long.
FIRST_BATCH_SIZE = 50
BATCH_SECONDS = 0.05
# How many keys of rows without a possible prefix are kept for the report.
MAX_IMPOSSIBLE_KEYS = 20

Rows: TypeAlias = Sequence[Sequence[Any]]
# A statement with its parameters.
Ready: TypeAlias = tuple[ClauseElement, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction of a backfill: a statement, and what follows from its rows, which are read in binary then."""

    statement: ClauseElement
    values: dict[str, Any]
    then: Callable[[Rows], Ready] | None = None


@dataclass
class BackfillProgress:
    """How far a backfill has come.

    :ivar total: rows that lacked their prefix at the start.
    :ivar filled: rows filled so far.
    :ivar impossible: rows that cannot have a prefix (zero, too short, beyond fp16).
    :ivar impossible_keys: the first of their keys.
    :ivar last_key: key of the last row looked at.
    """

    prefix: str
    total: int
    filled: int = 0
    impossible: int = 0
    impossible_keys: list[Any] = field(default_factory=list)
    last_key: Any = None

    @property
    def done(self) -> int:
        """Rows looked at."""
        return self.filled + self.impossible


def next_size(size: int, seconds: float, most: int) -> int:
    """Returns the rows of the next batch after one of ``size`` rows took ``seconds``: for some 50 ms, at most ``most``.

    Where an HNSW index is on the table each row is inserted into it, which takes a hundred times as long.
    """
    return max(1, min(most, 2 * size, int(size * BATCH_SECONDS / max(seconds, 1e-6))))


def batches(
    target: Target,
    prefix: Prefix,
    progress: BackfillProgress,
    *,
    batch_size: Callable[[], int],
    max_rows: int | None = None,
    on_batch: Callable[[BackfillProgress], None],
    basis: FloatArray | None = None,
) -> Generator[Step, Rows, None]:
    """Returns nothing; yields steps, takes the rows of their last statement and keeps ``progress``.

    Each step belongs into a transaction of its own; ``on_batch`` is called between two batches.

    :param batch_size: tells how many rows the next batch takes.
    :param basis: rows of the basis of a rotation.
    """
    if max_rows is not None and max_rows < 1:
        raise MrlError(f"max_rows must be at least 1, not {max_rows}. Leave it out for all rows.")
    table, key = statements.table(target)
    last: dict[str, Any] = {}
    write = None
    if basis is not None:
        write = _writer(target, prefix, basis, (yield Step(statements.HALFVEC_OID, {}))[0][0])
    while max_rows is None or progress.done < max_rows:
        size = batch_size() if max_rows is None else min(batch_size(), max_rows - progress.done)
        bound = yield Step(statements.backfill_bound(table, key, prefix, size, resume=bool(last)), last)
        if not bound:
            return
        until = {f"bound_{n}": part for n, part in enumerate(bound[0])}
        batch = statements.backfill_rows if write else statements.backfill_batch
        for *parts, impossible in (yield Step(batch(table, key, prefix, resume=bool(last)), last | until, write)):
            if impossible:
                progress.impossible += 1
                progress.impossible_keys.append(_key(parts))
            else:
                progress.filled += 1
        progress.impossible_keys = sorted(progress.impossible_keys)[:MAX_IMPOSSIBLE_KEYS]
        progress.last_key = _key(bound[0])
        last = {f"last_{n}": part for n, part in enumerate(bound[0])}
        on_batch(progress)


def _writer(target: Target, prefix: Prefix, basis: FloatArray, halfvec: int) -> Callable[[Rows], Ready]:
    """Returns the function that makes the prefixes of a batch, and the statement that writes them."""
    table, key = statements.table(target)
    statement = statements.backfill_write(target, table, key, prefix)
    size = 4 + basis.shape[1] * (2 if prefix.embedding_type == "halfvec" else 4)

    def write(rows: Rows) -> Ready:
        # Those that have a prefix first: the array of prefixes ends where they do.
        fitting = [row for row in rows if len(row[-1]) == size]
        embeddings = unpack([row[-1] for row in fitting], basis.shape[1], prefix.embedding_type)
        made = prefixes_of(embeddings, prefix, basis)
        possible = storable(made, prefix.distance)
        ordered = [row for row, fits in zip(fitting, possible, strict=True) if fits]
        ordered += [row for row, fits in zip(fitting, possible, strict=True) if not fits]
        ordered += [row for row in rows if len(row[-1]) != size]
        keys = {f"keys_{n}": [row[n] for row in ordered] for n in range(len(key))}
        return statement, keys | {"prefixes": to_binary_array(np.asarray(made[possible], np.float16), halfvec)}

    return write


def _key(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)
