"""The statements that operating points are stored with; DESCRIBE reads them."""

from __future__ import annotations

import sqlalchemy as sa

_PREFIXES = sa.bindparam("prefixes", type_=sa.ARRAY(sa.Text))

# What was measured before for the same prefixes and k, and all whose prefix is gone.
FORGET_POINTS = sa.text("""
DELETE FROM mrl.operating_points o
WHERE NOT EXISTS (SELECT FROM mrl.prefixes p WHERE p.id = o.prefix_id)
   OR (o.k = :k AND o.prefix_id IN (SELECT p.id FROM mrl.prefixes p
                                    WHERE p.target = CAST(:target AS regclass) AND p.prefix = ANY (:prefixes)))
RETURNING 1
""").bindparams(_PREFIXES)

STORE_POINT = sa.text("""
INSERT INTO mrl.operating_points (prefix_id, k, candidates, ef_search, target_recall, recall, recall_low, recall_high,
                                  p50_ms, p95_ms, rows, queries, source, versions)
SELECT p.id, :k, :candidates, :ef_search, :target_recall, :recall, :recall_low, :recall_high, :p50_ms, :p95_ms, :rows,
       :queries, :source,
       format('PostgreSQL %s, pgvector %s, mrl-pg %s', split_part(current_setting('server_version'), ' ', 1),
              (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'), mrl.version())
FROM mrl.prefixes p WHERE p.target = CAST(:target AS regclass) AND p.prefix = :prefix
RETURNING 1
""")

# Whether this role may store points; for a build, whether the table is its own and it may store and delete bases.
MAY_TUNE = sa.text("""
SELECT current_user::text,
       has_table_privilege('mrl.operating_points', 'INSERT') AND has_table_privilege('mrl.operating_points', 'DELETE'),
       (SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = CAST(:target AS regclass)),
       has_table_privilege('mrl.bases', 'INSERT') AND has_table_privilege('mrl.bases', 'DELETE'),
       (SELECT CASE WHEN NOT has_schema_privilege(relnamespace, 'CREATE') THEN relnamespace::regnamespace::text END
        FROM pg_catalog.pg_class WHERE oid = CAST(:target AS regclass)),
       quote_ident(current_user)
""")

PREFIX_ID = sa.text("""
SELECT id::text, basis::text FROM mrl.prefixes WHERE target = CAST(:target AS regclass) AND prefix = :prefix
""")

# The prefixes of some ids, by the names they have now.
PREFIXES_OF_IDS = sa.text("""
SELECT id::text, prefix::text FROM mrl.prefixes
WHERE target = CAST(:target AS regclass) AND id = ANY (CAST(:ids AS uuid[]))
""").bindparams(sa.bindparam("ids", type_=sa.ARRAY(sa.Text)))

DELETE_BASIS = sa.text("DELETE FROM mrl.bases WHERE id = CAST(:id AS uuid) RETURNING 1")
