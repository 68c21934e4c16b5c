"""Prefixes that are built to be measured, and taken away again."""

from __future__ import annotations

import time
from contextlib import suppress
from shlex import quote
from types import TracebackType
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from typing_extensions import Self

from mrl_pg import statements
from mrl_pg.errors import MrlError
from mrl_pg.evaluate import Progress
from mrl_pg.psycopg.backfill import backfill
from mrl_pg.psycopg.index import create_index
from mrl_pg.psycopg.measure import OnProgress
from mrl_pg.psycopg.prefixes import add_prefix, drop_prefix
from mrl_pg.psycopg.rotate import rotate
from mrl_pg.psycopg.run import conninfo_of, execute
from mrl_pg.registry import TableName, split_name
from mrl_pg.spec import Distance
from mrl_pg.tune import Promising

# How often the table is asked for, to drop what was built, and how long it is left to others in between.
_ATTEMPTS, _PAUSE_SECONDS = 5, 1.0


class Scaffold:
    """Prefixes on a table; whichever way it is left, all but the one that is kept are dropped."""

    def __init__(
        self,
        conn: Connection[Any],
        target: TableName,
        embedding: str,
        distance: Distance,
        lock_timeout: float,
        on_progress: OnProgress | None,
    ) -> None:
        self._conn, self._target, self._embedding, self._distance = conn, target, embedding, distance
        self._lock_timeout, self._on_progress = lock_timeout, on_progress
        self._conninfo = conninfo_of(conn)
        self._name = statements.quoted(*split_name(target))
        # By id: a name that was rolled back may be somebody else's by the time it is dropped.
        self._made: dict[str, tuple[str, str | None]] = {}
        self._kept: str | None = None

    @property
    def names(self) -> list[str]:
        """The prefixes that were added."""
        return [name for name, _ in self._made.values()]

    def keep(self, prefix: str | None) -> None:
        """Returns nothing; that prefix stays."""
        self._kept = prefix

    def add(self, wanted: Promising, *, model: str | None, seed: int) -> None:
        """Returns nothing; adds a prefix, which no row has yet."""
        given: dict[str, Any] = {
            "dims": wanted.dims,
            "distance": self._distance,
            "model": model,
            "lock_timeout": self._lock_timeout,
        }
        self._show(f"adding {wanted.kind} {wanted.dims}", 0, 1)
        # Known to be ours before it is committed: stopped at any moment, it is either not there or dropped.
        with self._conn.transaction():
            if wanted.kind == "rotate":
                name = rotate(self._conn, self._target, self._embedding, seed=seed, **given)
            else:
                kind: Any = wanted.kind
                name = add_prefix(self._conn, self._target, self._embedding, kind=kind, **given)
            ((identity, basis),) = execute(self._conn, statements.PREFIX_ID, {"target": self._name, "prefix": name})
            self._made[identity] = name, basis

    def fill(self) -> None:
        """Returns nothing; fills all prefixes, and only then builds their indexes, which a backfill would slow down."""
        for name in self.names:
            backfill(
                self._conn,
                self._target,
                prefix=name,
                on_progress=lambda now, name=name: self._show(f"filling {name}", now.done, now.total, "rows"),  # type: ignore[misc]
            )
        for name in self.names:
            create_index(
                self._conn,
                self._target,
                prefix=name,
                on_progress=lambda what, done, total, name=name: self._show(f"{name}: {what}", done, total),  # type: ignore[misc]
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._made:
            return
        if self._conn.info.transaction_status == TransactionStatus.ACTIVE:
            # Ctrl-C came between sending a statement and waiting for it, and nothing can be sent here any more.
            with suppress(psycopg.Error):
                self._conn.cancel_safe()
            self._conn.close()
        if self._conn.closed:
            # Perhaps the server is there again.
            with suppress(psycopg.OperationalError), psycopg.connect(self._conninfo, autocommit=True) as conn:
                self._drop(conn)
                return
            raise MrlError(f"the connection is lost, and {self._left(self.names)}")
        self._drop(self._conn)

    def _drop(self, conn: Connection[Any]) -> None:
        with conn.transaction():
            there = execute(conn, statements.PREFIXES_OF_IDS, {"target": self._name, "ids": list(self._made)})
        names = {identity: name for identity, name in there if name != self._kept}
        for identity, name in names.items():
            self._show(f"dropping {name}", 0, 1)
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    with conn.transaction():
                        drop_prefix(conn, self._target, name, lock_timeout=self._lock_timeout)
                    break
                except MrlError as error:
                    if attempt == _ATTEMPTS:
                        raise MrlError(f"{self._target} stayed in use, and {self._left([*names.values()])}") from error
                    time.sleep(_PAUSE_SECONDS)
            _, basis = self._made[identity]
            if basis:
                with conn.transaction():
                    execute(conn, statements.DELETE_BASIS, {"id": basis})

    def _left(self, names: list[str]) -> str:
        commands = "; ".join(f"mrl-pg drop-prefix {quote(str(self._target))} {quote(name)}" for name in names)
        return f"what was built to be measured may be left behind. Run: {commands}"

    def _show(self, what: str, done: int, total: int, unit: str = "") -> None:
        if self._on_progress:
            self._on_progress(Progress(what, done, total, unit))
