"""The backfill on a psycopg Connection."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from mrl_pg import statements
from mrl_pg.backfill import DEFAULT_BATCH_SIZE, FIRST_BATCH_SIZE, BackfillProgress, Step, batches, next_size
from mrl_pg.errors import BackfillError, MrlError
from mrl_pg.psycopg.basis import basis_of
from mrl_pg.psycopg.run import PackedDumper, Rows, compiled, execute, run
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.registry import TableName, named_prefix
from mrl_pg.spec import Prefix
from mrl_pg.vectors import Packed

# A batch waits this long for rows that others hold, and is tried this often before the backfill gives up.
DEFAULT_LOCK_TIMEOUT = 1.0
MAX_ATTEMPTS = 10

# Others hold the rows, or won a race for them: the batch has changed nothing and can be tried again.
_TRY_AGAIN = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


def backfill(
    conn: Connection[Any],
    target: TableName,
    *,
    prefix: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_rows: int | None = None,
    sleep: float = 0.0,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    dry_run: bool = False,
    on_progress: Callable[[BackfillProgress], None] | None = None,
) -> BackfillProgress:
    """Returns how many rows were filled after giving every row that lacks its prefix one.

    Runs in batches in key order, each a short transaction, inside the database; only rotations are made here, of
    embeddings that are read for it. Stopped anywhere, it goes on when it is run again. Safe beside inserts, updates
    and deletes: rows are locked before they are read.

    :param conn: a connection outside a transaction.
    :param prefix: the prefix column; needed where the table has several.
    :param batch_size: most rows a transaction; it takes fewer where they would hold their locks over some 50 ms.
    :param max_rows: stop after so many rows.
    :param sleep: seconds between batches, for the sake of other traffic.
    :param lock_timeout: seconds a batch waits for rows that others hold before it is tried again.
    :param dry_run: count only.
    :param on_progress: called after each batch.
    :raises BackfillError: where the connection breaks or rows stay locked; ``last_key`` says where. Run it again.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "backfill commits every batch, but the connection is in a transaction. "
            "Commit or roll back first, or use a connection in autocommit."
        )
    if batch_size < 1:
        raise MrlError(f"batch_size must be at least 1, not {batch_size}. The default is {DEFAULT_BATCH_SIZE}.")
    if sleep < 0 or lock_timeout <= 0:
        raise MrlError(
            f"sleep must be at least 0 and lock_timeout above 0 seconds, not {sleep} and {lock_timeout}. "
            f"The defaults are 0 and {DEFAULT_LOCK_TIMEOUT:g}."
        )
    with conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        chosen = named_prefix(known, prefix)
        table, _ = statements.table(known)
        progress = BackfillProgress(chosen.prefix, execute(conn, statements.missing(table, chosen))[0][0])
    if dry_run:
        return progress

    def on_batch(progress: BackfillProgress) -> None:
        if on_progress:
            on_progress(progress)
        time.sleep(sleep)

    with conn.transaction():
        basis = run(conn, basis_of(chosen))
    size = min(FIRST_BATCH_SIZE, batch_size)
    steps = batches(known, chosen, progress, batch_size=lambda: size, max_rows=max_rows, on_batch=on_batch, basis=basis)
    try:
        step = next(steps)
        while True:
            done, began = progress.done, time.monotonic()
            rows = _run(conn, step, chosen, lock_timeout, progress)
            seconds = time.monotonic() - began
            step = steps.send(rows)
            if progress.done > done:
                size = next_size(size, seconds, batch_size)
    except StopIteration:
        return progress


def _run(
    conn: Connection[Any],
    step: Step,
    prefix: Prefix,
    lock_timeout: float,
    progress: BackfillProgress,
) -> Rows:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with conn.transaction(), Cursor(conn, row_factory=tuple_row) as cursor:
                # The next rows come by the index of the key, whatever stale statistics say of the prefix column:
                # a sort would read the whole table for every batch. And no batch waits for the disk: one that a
                # crash of the server takes back is filled by the next run. mrl.backfill tells the trigger of a
                # rotation that its prefixes are made.
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")  # whatever the connection's default
                cursor.execute(
                    "SELECT set_config('lock_timeout', %s, true), set_config('enable_sort', 'off', true), "
                    "set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), "
                    "set_config('synchronous_commit', 'off', true), set_config('mrl.backfill', %s, true)",
                    (f"{max(1, round(lock_timeout * 1000))}ms", prefix.basis or ""),
                )
                cursor.adapters.register_dumper(Packed, PackedDumper)
                rows = cursor.execute(compiled(step.statement), step.values, binary=step.then is not None).fetchall()
                if step.then is None:
                    return rows
                statement, values = step.then(rows)
                return cursor.execute(compiled(statement), values, binary=False).fetchall()
        except _TRY_AGAIN as error:
            if attempt == MAX_ATTEMPTS:
                raise BackfillError(
                    f"rows after key {progress.last_key!r} stayed locked in {MAX_ATTEMPTS} attempts "
                    f"({error.diag.message_primary}); {progress.filled:,} rows are filled. Run the backfill again.",
                    progress.last_key,
                ) from error
            # Jittered, so that two programs that meet do not meet again.
            time.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311
        except psycopg.errors.QueryCanceled as error:
            raise BackfillError(
                f"the batch after key {progress.last_key!r} was cancelled ({error.diag.message_primary}); "
                f"{progress.filled:,} rows are filled and stay so. Run it again, with a smaller --batch-size.",
                progress.last_key,
            ) from error
        except psycopg.OperationalError as error:
            raise BackfillError(
                f"the connection failed after key {progress.last_key!r} ({error}); {progress.filled:,} rows are filled "
                "and stay so. Run the backfill again.",
                progress.last_key,
            ) from error
    raise AssertionError("unreachable")
