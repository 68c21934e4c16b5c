"""Recording queries after their search, and reading those that were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from mrl_pg import statements
from mrl_pg.psycopg.run import Steps, compiled
from mrl_pg.recording import recorded_filter
from mrl_pg.registry import TableName, split_name
from mrl_pg.search import SearchPlan
from mrl_pg.spec import Prefix
from mrl_pg.vectors import VectorLike, query_vector, to_text

_MAY_RECORD, _RECORD = compiled(statements.MAY_RECORD), compiled(statements.RECORD)


def recording(
    target: TableName,
    queries: Sequence[VectorLike],
    prefix: Prefix,
    plan: SearchPlan,
    filter: Mapping[str, Any] | None,
) -> Steps:
    """Returns nothing; records queries that were searched for, where that can be.

    The search has its rows, and keeps them whatever happens here.
    """
    values = {
        "target": statements.quoted(*split_name(target)),
        "queries": [to_text(query_vector(query, prefix)) for query in queries],
        "k": plan.k,
        "filter": recorded_filter(filter),
        "embedding": prefix.embedding,
        "model": plan.model or prefix.model,
    }
    try:
        if (yield _MAY_RECORD, {})[0][0]:
            yield _RECORD, values
    except psycopg.Error:
        return
