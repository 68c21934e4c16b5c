"""The backfill: batches of rows in the order of their key, each a transaction of its own.

Rows with a prefix are passed over, so a backfill that was stopped anywhere goes on when it is run again: there is
nothing to remember. Rows that are inserted or updated meanwhile get their prefix from the trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.errors import MrlError
from mrl_pg.registry import Target
from mrl_pg.spec import Prefix

DEFAULT_BATCH_SIZE = 2_000
# The first batch is small, because nobody knows yet what a row costs; then row locks are held about this long.
FIRST_BATCH_SIZE = 50
BATCH_SECONDS = 0.05
# How many keys of rows without a possible prefix are kept for the report.
MAX_IMPOSSIBLE_KEYS = 20

Rows: TypeAlias = Sequence[Sequence[Any]]


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
) -> Generator[tuple[ClauseElement, dict[str, Any]], Rows, None]:
    """Returns nothing; yields statements with their parameters, takes their rows and keeps ``progress``.

    Each statement belongs into a transaction of its own; ``on_batch`` is called between two batches.

    :param batch_size: tells how many rows the next batch takes.
    """
    if max_rows is not None and max_rows < 1:
        raise MrlError(f"max_rows must be at least 1, not {max_rows}. Leave it out for all rows.")
    table, key = statements.table(target)
    last: dict[str, Any] = {}
    while max_rows is None or progress.done < max_rows:
        size = batch_size() if max_rows is None else min(batch_size(), max_rows - progress.done)
        bound = yield statements.backfill_bound(table, key, prefix, size, resume=bool(last)), last
        if not bound:
            return
        until = {f"bound_{n}": part for n, part in enumerate(bound[0])}
        for *parts, impossible in (
            yield statements.backfill_batch(table, key, prefix, resume=bool(last)), last | until
        ):
            if impossible:
                progress.impossible += 1
                progress.impossible_keys.append(_key(parts))
            else:
                progress.filled += 1
        progress.impossible_keys = sorted(progress.impossible_keys)[:MAX_IMPOSSIBLE_KEYS]
        progress.last_key = _key(bound[0])
        last = {f"last_{n}": part for n, part in enumerate(bound[0])}
        on_batch(progress)


def _key(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)
