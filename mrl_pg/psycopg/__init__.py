"""Search, backfill and the rest on a psycopg Connection; search also on an AsyncConnection.

Every verb uses the connection as it is: its transaction, its autocommit, its search_path. Its row factory and its
adapters are left alone. Only ``backfill``, ``create_index``,
``evaluate`` and ``tune`` ask for a connection outside a transaction, because
they commit as they go.
"""

from mrl_pg.psycopg.backfill import backfill
from mrl_pg.psycopg.embed import embed, search_text
from mrl_pg.psycopg.evaluate import evaluate
from mrl_pg.psycopg.index import create_index
from mrl_pg.psycopg.install import install, uninstall, version
from mrl_pg.psycopg.prefixes import add_prefix, drop_prefix, status
from mrl_pg.psycopg.queries import generate_queries
from mrl_pg.psycopg.recorded import recorded_queries
from mrl_pg.psycopg.rotate import rotate
from mrl_pg.psycopg.search import (
    describe,
    search,
    search_async,
    search_many,
    search_many_async,
    search_sql,
)
from mrl_pg.psycopg.tune import tune
from mrl_pg.psycopg.watch import watch

__all__ = [
    "add_prefix",
    "backfill",
    "create_index",
    "describe",
    "drop_prefix",
    "embed",
    "evaluate",
    "generate_queries",
    "install",
    "recorded_queries",
    "rotate",
    "search",
    "search_async",
    "search_many",
    "search_many_async",
    "search_sql",
    "search_text",
    "status",
    "tune",
    "uninstall",
    "version",
    "watch",
]
