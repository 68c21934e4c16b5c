"""What others write to a table while it is measured."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection

from mrl_pg import statements
from mrl_pg.psycopg.run import execute
from mrl_pg.registry import Target


class Mark(NamedTuple):
    """A moment in the life of a table.

    :ivar since: the first transaction that was not over.
    :ivar rows: how many rows had an embedding.
    """

    since: str
    rows: int


def mark(conn: Connection[Any], rows: int) -> Mark:
    """Returns the moment of the snapshot that the connection sees, for a table with so many embeddings."""
    ((since,),) = execute(conn, statements.FIRST_UNFINISHED)
    return Mark(since, rows)


def changed_since(conn: Connection[Any], known: Target, embedding: str, begun: Mark) -> int:
    """Returns how many rows have at least been written or deleted since a moment.

    Rows that were written show by their xmin, and those that are gone, by an UPDATE too, are missing among the others.
    """
    ((rows, written),) = execute(conn, statements.count_written(known, embedding), {"since": begun.since})
    return int(max(written, begun.rows - (rows - written)))


def told(known: Target, changed: int, begun: Mark) -> str:
    """Returns what to know of figures that were measured meanwhile."""
    share = changed / begun.rows
    return (
        f"At least {changed:,} of {begun.rows:,} rows of {known} were written or deleted while it was measured, and "
        "what searches found was compared with the rows as they were: "
        f"each recall may be {share:.2g} too low. Measure again when it is quiet."
    )
