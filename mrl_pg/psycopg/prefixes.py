"""Adding, dropping and counting prefixes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

from mrl_pg import statements
from mrl_pg.errors import MrlError
from mrl_pg.psycopg.run import check_installed, execute
from mrl_pg.psycopg.search import forget
from mrl_pg.registry import TableName, split_name
from mrl_pg.spec import Distance, Kind, check_dims, check_distance

# The table is locked for an instant; but while we wait for that, everyone else waits behind us.
DEFAULT_LOCK_TIMEOUT = 2.0


def add_prefix(
    conn: Connection[Any],
    target: TableName,
    embedding: str = "embedding",
    *,
    dims: int | None = None,
    distance: Distance = "cosine",
    model: str | None = None,
    kind: Kind = "truncate",
    layer_norm: bool = False,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> str:
    """Returns the prefix column after adding it and its trigger; instant, existing rows wait for the backfill.

    A column of that name and type is taken over; a prefix that is there already with the same spec is left alone.

    :param target: table as named in the catalog.
    :param embedding: column of the full embedding, vector or halfvec.
    :param dims: length of the prefix; left out, kinds binary and half take all.
    :param kind: ``truncate``, the first dims as halfvec, ``binary``, their sign bits, or ``half``, the whole embedding
        as halfvec.
    :param layer_norm: take the prefix from the layer norm of the embedding, for models that were trained behind one.
    :param lock_timeout: seconds to wait for the table: whoever comes later waits behind us.
    :raises MrlError: where the table could not be had in that time; nothing has changed then.
    :raises SpecError: for dims, a distance or a kind that cannot be.
    :raises NotInstalledError: where the schema mrl is missing.
    """
    check_dims(dims, kind)
    check_distance(distance)
    check_installed(conn)
    name = statements.quoted(*split_name(target))
    with waiting_no_longer(conn, target, lock_timeout):
        add = statements.add_prefix(name, embedding, dims, distance, model, kind=kind, layer_norm=layer_norm)
        column: str = execute(conn, add)[0][0]
    forget(conn, target)
    return column


def drop_prefix(
    conn: Connection[Any], target: TableName, prefix: str, *, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
) -> None:
    """Returns nothing; drops a prefix: its trigger, column and index. Instant.

    :param lock_timeout: seconds to wait for the table: whoever comes later waits behind us.
    :raises MrlError: where the table could not be had in that time; nothing has changed then.
    :raises NotInstalledError: where the schema mrl is missing.
    """
    check_installed(conn)
    with waiting_no_longer(conn, target, lock_timeout):
        execute(conn, statements.drop_prefix(statements.quoted(*split_name(target)), prefix))
    forget(conn, target)


def status(conn: Connection[Any], target: TableName | None = None) -> list[dict[str, Any]]:
    """Returns a mapping for each prefix, of one table or of all: the columns of the view mrl.status.

    Rows are counted, so this reads the tables (not the embeddings).

    :raises NotInstalledError: where the schema mrl is missing.
    """
    check_installed(conn)
    name = None if target is None else statements.quoted(*split_name(target))
    rows = execute(conn, statements.status(name))
    return [dict(zip(statements.STATUS_COLUMNS, row, strict=True)) for row in rows]


@contextmanager
def waiting_no_longer(conn: Connection[Any], target: TableName, seconds: float) -> Iterator[None]:
    """A transaction that waits for locks no longer than so many seconds, and gives the setting back."""
    try:
        with conn.transaction():
            before = execute(conn, statements.set_lock_timeout(f"{max(1, round(seconds * 1000))}ms"))[0][0]
            yield
            execute(conn, statements.set_lock_timeout(before))
    except psycopg.errors.LockNotAvailable as error:
        schema, name = split_name(target)
        raise MrlError(
            f"{f'{schema}.{name}' if schema else name} was in use for {seconds:g} s, and nobody should wait behind us "
            "for longer; nothing has changed. Run it again, at a quieter time or with a longer --lock-timeout."
        ) from error
