"""From --dsn to a connection."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mrl_pg.errors import MrlError

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy import Engine

dsn_option = click.option(
    "--dsn",
    envvar="MRL_PG_DSN",
    show_envvar=True,
    default="",
    help="Where the database is: postgresql://user@host/database, key=value pairs of libpq, or embedded[:DIR] for a "
    "local server that is started for you. Left out, PGHOST, PGDATABASE and the like decide.",
)

# A password that was not encoded makes libpq read parts of it as something else, and name them in its message.
_PERHAPS_MISREAD = re.compile(r"\w+://[^/@:]*:[^@]*[@/?#].*@", re.DOTALL)
_UNREADABLE = (
    "the DSN cannot be read. Write postgresql://user@host/database or 'host=… user=… dbname=…', with @ : / ? # and % "
    "of a password percent-encoded in the former and spaces quoted in the latter."
)


@contextmanager
def connected(dsn: str) -> Iterator[Connection[tuple[Any, ...]]]:
    """Yields a connection in autocommit; no message of ours repeats a DSN, which may hold a password.

    :raises MrlError: for a DSN that cannot be read, or a server that cannot be reached.
    """
    import psycopg

    from mrl_pg.embedded import from_dsn

    # It warns of what Ctrl-C has interrupted, besides us.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with from_dsn(dsn) as conninfo:
        try:
            conn = psycopg.connect(conninfo, autocommit=True, fallback_application_name="mrl-pg")
        except psycopg.ProgrammingError:
            raise MrlError(_UNREADABLE) from None
        except psycopg.OperationalError as error:
            if _PERHAPS_MISREAD.match(dsn):
                raise MrlError(_UNREADABLE) from None
            reason = str(error).splitlines()[0].removeprefix("connection failed: ")
            raise MrlError(f"{reason}. Check --dsn, MRL_PG_DSN or the PG… variables, or try --dsn embedded.") from error
        with conn:
            yield conn


def engine_on(conn: Connection[Any]) -> Engine:
    """Returns an Engine whose only connection this is; not in autocommit any more."""
    import sqlalchemy as sa

    conn.autocommit = False
    return sa.create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=sa.StaticPool)
