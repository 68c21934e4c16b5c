"""Connections of our own that see what the user's sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection

from mrl_pg import statements
from mrl_pg.psycopg.run import conninfo_of, execute


class Session(NamedTuple):
    """What it takes to make another connection like one, also when that is gone."""

    conninfo: str
    search_path: str
    role: str


def session_of(conn: Connection[Any]) -> Session:
    """Returns the session of a connection outside a transaction."""
    with conn.transaction():
        ((search_path, role),) = execute(conn, statements.SESSION)
    return Session(conninfo_of(conn), search_path, role)


@contextmanager
def clients_of(session: Session, clients: int) -> Iterator[list[Connection[Any]]]:
    """Yields so many connections of a session, in autocommit."""
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(session.conninfo, autocommit=True)) for _ in range(clients)]
        for own in connections:
            execute(own, statements.SET_SESSION, {"search_path": session.search_path, "role": session.role})
        yield connections
