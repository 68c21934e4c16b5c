"""Building the HNSW index of a prefix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from shlex import quote
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy.sql import ClauseElement

from mrl_pg import statements
from mrl_pg.errors import MrlError
from mrl_pg.psycopg.prefixes import status
from mrl_pg.psycopg.run import Rows, conninfo_of, execute
from mrl_pg.psycopg.search import describe, forget
from mrl_pg.registry import TableName, Target, named_prefix, split_name
from mrl_pg.spec import DEFAULT_EF_CONSTRUCTION, DEFAULT_M, Prefix, check_graph, index_name

OnProgress: TypeAlias = Callable[[str, int, int], None]

ALREADY_BUILT = "already built"

_POLL_SECONDS = 0.3
# What a build that was stopped may spend on removing what it leaves; the next one does it otherwise.
_CLEANUP_TIMEOUT = "3s"

_SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, false)"


def create_index(
    conn: Connection[Any],
    target: TableName,
    *,
    prefix: str | None = None,
    m: int = DEFAULT_M,
    ef_construction: int = DEFAULT_EF_CONSTRUCTION,
    concurrently: bool = True,
    allow_missing: bool = False,
    on_progress: OnProgress | None = None,
) -> str:
    """Returns the name of the HNSW index of a prefix after building it; at once where it is there already.

    What a failed build has left (an INVALID index) is dropped first. Two builds at a time become one: the second
    waits for the first. Stopped by Ctrl-C or an error, a build takes its remains away; where it cannot, the next does.

    :param conn: a connection outside a transaction; with ``concurrently=False`` it may be in one.
    :param prefix: the prefix column; needed where the table has several.
    :param m: links per node of the graph, 2 to 100.
    :param ef_construction: candidates looked at per insert into the graph, 2 * m to 1000.
    :param concurrently: let writes go on meanwhile.
    :param allow_missing: build while rows lack their prefix; each of them is slower to backfill afterwards.
    :param on_progress: called with the phase and how much of it is done (blocks, or transactions waited for) from
        a thread of its own; ``ALREADY_BUILT`` where there was nothing to do.
    :raises SpecError: for m or ef_construction out of bounds.
    :raises SearchError: where there is no such table or prefix.
    :raises MrlError: while rows lack a prefix that they could have, or inside a transaction.
    """
    check_graph(m, ef_construction)
    with _autocommit(conn) if concurrently else conn.transaction():
        forget(conn, target)
        known = describe(conn, target)
        chosen = named_prefix(known, prefix)
        table = statements.quoted(*split_name(target))
        graph = {"m": m, "ef_construction": ef_construction}
        indexes = statements.PREFIX_INDEXES.bindparams(target=table, prefix=chosen.prefix, **graph)
        build = statements.create_prefix_index(table, chosen.prefix, concurrently=concurrently, **graph)
        remains = statements.drop_prefix_index(
            table, chosen.prefix, concurrently=concurrently, **graph, only_invalid=True
        )
        name = _valid(conn, indexes)
        if name is None:
            if not allow_missing:
                _refuse_missing(conn, target, known, chosen)
            if execute(conn, remains):
                _repair(conn, known, remains)
                name = _valid(conn, indexes)  # of another build, for which the repair has waited
        if name is not None:
            if on_progress:
                on_progress(ALREADY_BUILT, 1, 1)
            return name
        with _watched(conn, on_progress):
            if concurrently:
                _build_concurrently(conn, known, build, indexes, remains)
            else:
                execute(conn, build)
        forget(conn, target)
        return _valid(conn, indexes) or index_name(known.name, chosen.prefix, chosen.distance, chosen.kind, **graph)


def concurrent_statement(conn: Connection[Any], build: ClauseElement) -> str:
    """Returns the CREATE INDEX CONCURRENTLY that a call of mrl.create_prefix_index answers with."""
    with conn.transaction():
        # It tells users of psql to run it outside a transaction.
        _run(conn, "SELECT set_config('client_min_messages', 'warning', true)")
        return str(execute(conn, build)[0][0])


def _valid(conn: Connection[Any], indexes: ClauseElement) -> str | None:
    """Returns the name of the valid index among those of a definition."""
    return next((name for _, name, valid in execute(conn, indexes) if valid), None)


def _refuse_missing(conn: Connection[Any], target: TableName, known: Target, prefix: Prefix) -> None:
    counted = next(row for row in status(conn, target) if row["prefix"] == prefix.prefix)
    lacking = (counted["missing"] or 0) - (counted["impossible"] or 0)
    if lacking:
        raise MrlError(
            f"{lacking:,} of {counted['rows']:,} rows of {known} lack {prefix.prefix}, and filling it is slower with "
            f"the index there. Run: mrl-pg backfill {quote(str(known))} --prefix {quote(prefix.prefix)}"
        )


def _repair(conn: Connection[Any], known: Target, remains: ClauseElement) -> None:
    """Drops what failed builds have left."""
    table = sql.Identifier(known.schema, known.name) if known.schema else sql.Identifier(known.name)
    with conn.transaction():
        # Held by whoever builds an index of this table: once it is ours, INVALID means failed and not unfinished.
        _run(conn, sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(table))
        drops = execute(conn, remains)
    for (drop,) in drops:
        _run(conn, drop)


def _build_concurrently(
    conn: Connection[Any], known: Target, build: ClauseElement, indexes: ClauseElement, remains: ClauseElement
) -> None:
    try:
        _run(conn, concurrent_statement(conn, build))
    except psycopg.errors.DuplicateTable:
        if _valid(conn, indexes) is None:
            raise
        # Another build of the same was quicker.
    except BaseException:
        # Ctrl-C too, by which time psycopg has cancelled the statement.
        with suppress(psycopg.Error):
            before = _run(conn, "SELECT current_setting('lock_timeout')")[0][0]
            _run(conn, _SET_LOCK_TIMEOUT, _CLEANUP_TIMEOUT)
            try:
                _repair(conn, known, remains)
            finally:
                _run(conn, _SET_LOCK_TIMEOUT, before)
        raise


def _run(conn: Connection[Any], statement: str | sql.Composed, *values: str) -> Rows:
    with Cursor(conn, row_factory=tuple_row) as cursor:
        # As str, which psycopg encodes for the connection; the database wrote what is no literal here.
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def _autocommit(conn: Connection[Any]) -> Iterator[None]:
    """Lets the connection run what must not run in a transaction."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise MrlError(
            "an index is built concurrently outside a transaction, but the connection is in one. "
            "Commit or roll back first, or pass concurrently=False."
        )
    before = conn.autocommit
    conn.autocommit = True
    try:
        yield
    finally:
        if not conn.closed:
            conn.autocommit = before


@contextmanager
def _watched(conn: Connection[Any], on_progress: OnProgress | None) -> Iterator[None]:
    """Reports how the build on this connection gets on, as seen from another one."""
    if on_progress is None:
        yield
        return
    conninfo = conninfo_of(conn)
    pid = conn.info.backend_pid
    done = threading.Event()

    def watch() -> None:
        # A build that cannot be watched is built all the same.
        with suppress(psycopg.Error), psycopg.connect(conninfo, autocommit=True) as own:
            while not done.is_set():
                for row in execute(own, statements.INDEX_PROGRESS.bindparams(pid=pid)):
                    on_progress(*row)
                done.wait(_POLL_SECONDS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(timeout=1)
