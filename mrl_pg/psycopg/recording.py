"""Recording queries after their search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import BaseConnection
from psycopg.pq import TransactionStatus

from mrl_pg import statements
from mrl_pg.psycopg.run import Steps, compiled
from mrl_pg.recording import MAX_RECORDED_K, recorded_filter
from mrl_pg.registry import TableName, split_name
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import VectorLike, query_vector, to_text

_MAY_RECORD, _RECORD, _RECORD_APART = map(compiled, (statements.MAY_RECORD, statements.RECORD, statements.RECORD_APART))


def recording(
    conn: BaseConnection[Any],
    target: TableName,
    queries: Sequence[VectorLike],
    prefix: Prefix,
    plan: SearchPlan,
    filter: Mapping[str, Any] | None,
) -> Steps:
    """Returns nothing; records queries that were searched for, where that can be.

    The search has its rows, and keeps them whatever happens here, unless the caller's transaction goes with it: a
    cancel or a timeout of the statement.
    """
    values = {
        "target": statements.quoted(*split_name(target)),
        "queries": [to_text(query_vector(query, prefix)) for query in queries],
        "k": min(plan.k, MAX_RECORDED_K),
        "filter": recorded_filter(filter),
        "embedding": prefix.embedding,
        "model": plan.model or prefix.model,
    }
    try:
        if (yield _MAY_RECORD, {})[0][0]:
            # In autocommit: what is recorded is no reason to wait for a disk or a standby.
            own = conn.info.transaction_status == TransactionStatus.IDLE
            yield (_RECORD_APART if own else _RECORD), values
    except psycopg.Error:
        if conn.info.transaction_status != TransactionStatus.IDLE:
            raise
