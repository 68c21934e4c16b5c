"""What is read from the catalog, and how mrl-pg is found and removed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from mrl_pg.statements.parts import materialized, regclass

PROBE = sa.text("SELECT to_regclass('mrl.prefixes') IS NOT NULL")
VERSION = sa.text("SELECT mrl.version()")
IS_EXTENSION = sa.text("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'mrl_pg')")
# To be formatted with sql/uninstall.sql, which refuses where prefixes remain: this does nothing then.
UNINSTALL_IF_UNUSED = """
DO $mrl$
BEGIN
    IF to_regclass('mrl.prefixes') IS NOT NULL THEN
        IF EXISTS (SELECT FROM mrl.prefixes) THEN
            RETURN;
        ELSIF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'mrl_pg') THEN
            DROP EXTENSION mrl_pg;
        ELSE
            EXECUTE $script${script}$script$;
        END IF;
    END IF;
END
$mrl$;
"""

STATUS_COLUMNS = (
    "target",
    "embedding",
    "prefix",
    "kind",
    "dims",
    "distance",
    "model",
    "full_dims",
    "embedding_type",
    "maintained",
    "index",
    "index_bytes",
    "rows",
    "missing",
    "impossible",
    "layer_norm",
)

DESCRIBE = sa.text("""
SELECT mrl.version(),
       c.oid IS NOT NULL,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_index x
             CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS i (attnum, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = i.attnum
             WHERE x.indrelid = c.oid AND x.indisprimary AND i.n <= x.indnkeyatts ORDER BY i.n),
       (SELECT coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, -1))
                                  ORDER BY a.attnum), '[]')::text
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND t.typname NOT IN ('vector', 'halfvec', 'sparsevec')
          AND NOT EXISTS (SELECT FROM mrl.prefixes p WHERE p.target = c.oid AND p.position = a.attnum)),
       (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.position), '[]')::text
        FROM mrl.prefixes p WHERE p.target = c.oid),
       (SELECT coalesce(jsonb_agg(to_jsonb(o) || jsonb_build_object('prefix', p.prefix)), '[]')::text
        FROM mrl.operating_points o JOIN mrl.prefixes p ON p.id = o.prefix_id WHERE p.target = c.oid)
FROM (SELECT to_regclass(concat_ws('.', quote_ident(CAST(:schema AS text)), quote_ident(CAST(:name AS text))))::oid
      AS oid) AS c
""")

# The length of an embedding; no row where its column fixes none.
FULL_DIMS = sa.text("""
SELECT atttypmod FROM pg_catalog.pg_attribute
WHERE attrelid = CAST(:target AS regclass) AND attname = :embedding AND atttypmod > 0 AND NOT attisdropped
""").bindparams(sa.bindparam("target", type_=sa.Text), sa.bindparam("embedding", type_=sa.Text))

IS_PARTITIONED = sa.text(
    "SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = CAST(:target AS regclass)"
).bindparams(sa.bindparam("target", type_=sa.Text))

# Every prefix with the schema and name of its table.
PREFIXES = sa.text("""
SELECT n.nspname::text, c.relname::text, to_jsonb(p)::text
FROM mrl.prefixes p
JOIN pg_catalog.pg_class c ON c.oid = p.target
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname, p.position
""")

# Whole HNSW indexes over a prefix that are built with m and ef_construction, also those whose build has failed;
# whatever their names, which stay behind when a table is renamed.
PREFIX_INDEXES = sa.text("""
SELECT n.nspname::text, c.relname::text, i.indisvalid
FROM mrl.prefixes p
JOIN pg_catalog.pg_index i
  ON i.indrelid = p.target AND i.indkey[0] = p.position AND i.indnatts = 1 AND i.indpred IS NULL
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am am ON am.oid = c.relam AND am.amname = 'hnsw'
JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0] AND o.opcname = mrl.operator_class(p.distance, p.kind)
CROSS JOIN LATERAL (SELECT coalesce(jsonb_object_agg(option_name, option_value), '{}') AS options
                    FROM pg_catalog.pg_options_to_table(c.reloptions)) r
WHERE p.target = CAST(:target AS regclass) AND p.prefix = :prefix
  AND coalesce(CAST(r.options ->> 'm' AS int), 16) = :m
  AND coalesce(CAST(r.options ->> 'ef_construction' AS int), 64) = :ef_construction
ORDER BY i.indisvalid DESC, c.relname
""").bindparams(
    sa.bindparam("target", type_=sa.Text),
    sa.bindparam("prefix", type_=sa.Text),
    sa.bindparam("m", type_=sa.Integer),
    sa.bindparam("ef_construction", type_=sa.Integer),
)

# Who builds an index of a table, as far as this role may see.
INDEX_BUILDERS = sa.text(
    "SELECT pid FROM pg_catalog.pg_stat_progress_create_index WHERE relid = CAST(:target AS regclass)"
)

# A locker is a transaction that the build waits for.
INDEX_PROGRESS = sa.text("""
SELECT phase || coalesce(' (pid ' || nullif(current_locker_pid, 0) || ')', ''),
       CASE WHEN lockers_total > 0 THEN lockers_done WHEN blocks_total > 0 THEN blocks_done ELSE tuples_done END,
       CASE WHEN lockers_total > 0 THEN lockers_total WHEN blocks_total > 0 THEN blocks_total ELSE tuples_total END
FROM pg_catalog.pg_stat_progress_create_index
WHERE pid = :pid AND phase IS NOT NULL
""")


def status(table: str | None) -> sa.Select[Any]:
    """Returns the rows of mrl.status, of one table (quoted as in SQL) or of all."""
    view = sa.table("status", *(sa.column(name) for name in STATUS_COLUMNS), schema="mrl")
    columns = [sa.cast(c, sa.Text).label(c.name) if c.name in ("target", "index") else c for c in view.c]
    rows = sa.select(*columns).order_by(view.c.target, view.c.prefix)
    return rows if table is None else rows.where(view.c.target == regclass(table))


def set_lock_timeout(value: str) -> sa.Select[Any]:
    """Returns the lock_timeout there was, and sets another until the end of the transaction."""
    before = materialized(sa.select(sa.func.current_setting("lock_timeout").label("value")), "mrl_before")
    return sa.select(before.c.value, sa.func.set_config("lock_timeout", value, sa.true()))


# What a session finds tables by, and what it may see.
SESSION = sa.text("SELECT current_setting('search_path'), current_setting('role')")
SET_SESSION = sa.text("SELECT set_config('search_path', :search_path, false), set_config('role', :role, false)")

# Until the end of the transaction.
SET_STATEMENT_TIMEOUT = sa.text("SELECT set_config('statement_timeout', :milliseconds, true)")
