"""Reading the queries that were recorded."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from mrl_pg import statements
from mrl_pg.basis import unpack
from mrl_pg.errors import EvaluationError, MrlError
from mrl_pg.psycopg.run import execute
from mrl_pg.psycopg.sample import embedding_column
from mrl_pg.psycopg.search import describe
from mrl_pg.queries import Queries
from mrl_pg.registry import TableName, Target, known_model, split_name


def recorded_queries(
    conn: Connection[Any],
    target: TableName,
    *,
    embedding: str = "embedding",
    sample: int | None = None,
    filtered: bool = False,
    seed: int = 0,
) -> Queries:
    """Returns queries that searches have recorded, to be given to ``evaluate``, ``tune`` or ``watch``.

    Those of another length than the column, or of another model than the table knows, are left out.

    :param embedding: column that was searched.
    :param sample: so many at random; all, up to some 10,000, if None.
    :param filtered: also those of searches under a filter, without it.
    :param seed: of the sample, which stays about the same while others are recorded.
    :raises EvaluationError: where there are none.
    :raises MrlError: where this role may not read them, or there is no such column.
    """
    if sample is not None and sample < 1:
        raise EvaluationError(f"sample must be at least 1, not {sample}. Leave it out for all recorded queries.")
    with conn.transaction():
        known = describe(conn, target)
        ((may, role),) = execute(conn, statements.MAY_READ_RECORDED)
        if not may:
            raise MrlError(
                f"{role} may not read recorded queries. As the owner of schema mrl run: "
                f"GRANT SELECT ON mrl.recorded_queries TO {role};"
            )
        found = find_recorded(conn, known, embedding, sample=sample, filtered=filtered, seed=seed)
        if found is None:
            values = {"target": _name(known), "embedding": embedding}
            ((count, under_filter, models),) = execute(conn, statements.COUNT_RECORDED, values)
            raise EvaluationError(
                f"there is no recorded query of {embedding} of {known} to use: {count:,} recorded"
                f"{f' for {models}' if models else ''}, {under_filter:,} of them under a filter; those of another "
                "model or length are left out. Record some: search without a filter with record=0.01, and commit."
            )
    return found


def find_recorded(
    conn: Connection[Any], known: Target, embedding: str, *, sample: int | None, filtered: bool = False, seed: int
) -> Queries | None:
    """Returns what :func:`recorded_queries` returns; None where there are none, or this role may not read them."""
    if not execute(conn, statements.MAY_READ_RECORDED)[0][0]:
        return None
    values = {
        "target": _name(known),
        "embedding": embedding,
        "filtered": filtered,
        "model": known_model(known, embedding),
        "full_dims": embedding_column(conn, known, embedding).full_dims,
        "seed": seed,
        "sample": sample,
    }
    rows = execute(conn, statements.RECORDED, values)
    if not rows:
        return None
    ids, packed = zip(*rows, strict=True)
    return Queries(ids, unpack(packed, (len(packed[0]) - 4) // 4, "vector"), source="recorded")


def _name(known: Target) -> str:
    return statements.quoted(*split_name((known.schema, known.name)))
