"""Every statement we send, as SQLAlchemy Core: the only SQL generator of the Python side.

Names given by users become identifiers of SQLAlchemy, values become parameters. What the planner must match
(dims, limits) is a literal, checked to be a whole number before it gets here.
"""

from mrl_pg.statements.backfill import (
    HALFVEC_OID,
    backfill_batch,
    backfill_bound,
    backfill_rows,
    backfill_write,
    missing,
    touch,
)
from mrl_pg.statements.basis import BASIS, FIT, add_basis
from mrl_pg.statements.catalog import (
    DESCRIBE,
    FULL_DIMS,
    INDEX_BUILDERS,
    INDEX_PROGRESS,
    IS_EXTENSION,
    PREFIX_INDEXES,
    PREFIXES,
    PROBE,
    SESSION,
    SET_SESSION,
    SET_STATEMENT_TIMEOUT,
    STATUS_COLUMNS,
    UNINSTALL_IF_UNUSED,
    VERSION,
    set_lock_timeout,
    status,
)
from mrl_pg.statements.history import MAY_STORE_RECALL, last_recall, store_recall
from mrl_pg.statements.parts import Key, literal, prefix_type, quoted, table
from mrl_pg.statements.points import (
    DELETE_BASIS,
    FORGET_POINTS,
    MAY_TUNE,
    PREFIX_ID,
    PREFIXES_OF_IDS,
    STORE_POINT,
)
from mrl_pg.statements.prefixes import add_prefix, create_prefix_index, drop_prefix, drop_prefix_index
from mrl_pg.statements.recording import (
    COUNT_RECORDED,
    MAY_READ_RECORDED,
    MAY_RECORD,
    RECORD,
    RECORD_APART,
    RECORDED,
)
from mrl_pg.statements.sampling import SNAPSHOT, Share, count_embeddings, embeddings, texts
from mrl_pg.statements.search import SETTINGS, filter_conditions, hits, joined, search, search_many

__all__ = [
    "BASIS",
    "COUNT_RECORDED",
    "DELETE_BASIS",
    "DESCRIBE",
    "FIT",
    "FORGET_POINTS",
    "FULL_DIMS",
    "HALFVEC_OID",
    "INDEX_BUILDERS",
    "INDEX_PROGRESS",
    "IS_EXTENSION",
    "MAY_READ_RECORDED",
    "MAY_RECORD",
    "MAY_STORE_RECALL",
    "MAY_TUNE",
    "PREFIXES",
    "PREFIXES_OF_IDS",
    "PREFIX_ID",
    "PREFIX_INDEXES",
    "PROBE",
    "RECORD",
    "RECORDED",
    "RECORD_APART",
    "SESSION",
    "SETTINGS",
    "SET_SESSION",
    "SET_STATEMENT_TIMEOUT",
    "SNAPSHOT",
    "STATUS_COLUMNS",
    "STORE_POINT",
    "UNINSTALL_IF_UNUSED",
    "VERSION",
    "Key",
    "Share",
    "add_basis",
    "add_prefix",
    "backfill_batch",
    "backfill_bound",
    "backfill_rows",
    "backfill_write",
    "count_embeddings",
    "create_prefix_index",
    "drop_prefix",
    "drop_prefix_index",
    "embeddings",
    "filter_conditions",
    "hits",
    "joined",
    "last_recall",
    "literal",
    "missing",
    "prefix_type",
    "quoted",
    "search",
    "search_many",
    "set_lock_timeout",
    "status",
    "store_recall",
    "table",
    "texts",
    "touch",
]
