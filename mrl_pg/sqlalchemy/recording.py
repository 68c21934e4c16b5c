"""Recording queries after their search."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from mrl_pg import statements
from mrl_pg.recording import MAX_RECORDED_K, recorded_filter
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import VectorLike, query_vector, to_text


def record(
    connection: sa.Connection,
    table: tuple[str | None, str],
    queries: Sequence[VectorLike],
    prefix: Prefix,
    plan: SearchPlan,
    conditions: str | None,
) -> None:
    """Returns nothing; records queries that were searched for, where that can be.

    :param conditions: text of the filter; None without one.
    """
    if not connection.scalar(statements.MAY_RECORD):
        return
    values = {
        "target": statements.quoted(*table),
        "queries": [to_text(query_vector(query, prefix)) for query in queries],
        "k": min(plan.k, MAX_RECORDED_K),
        "filter": recorded_filter(conditions),
        "embedding": prefix.embedding,
        "model": plan.model or prefix.model,
    }
    # Read to the end: a server-side cursor (stream_results) would not begin before.
    connection.execute(statements.RECORD, values).all()
