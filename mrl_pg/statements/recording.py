"""The statements that queries are recorded and read with."""

from __future__ import annotations

import sqlalchemy as sa

# Whether mrl.record_query can be called: a call of what is not there, or not allowed, would abort the transaction.
# Asks the catalog: to_regprocedure() fails where the schema may not be used.
MAY_RECORD = sa.text("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname = 'mrl' AND p.proname = 'record_query' AND p.pronargs = 6
                 AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE'))
""")

# Answers for each query whether it is recorded; apart, where this is a transaction of its own.
_RECORD = """
SELECT mrl.record_query(CAST(CAST(:target AS text) AS regclass), CAST(query AS vector), CAST(:k AS integer),
                        CAST(CAST(:filter AS text) AS jsonb), CAST(CAST(:embedding AS text) AS name),
                        CAST(:model AS text))
FROM unnest(CAST(:queries AS text[])) AS query"""
_QUERIES = sa.bindparam("queries", type_=sa.ARRAY(sa.Text))
RECORD = sa.text(_RECORD).bindparams(_QUERIES)
RECORD_APART = sa.text(f"{_RECORD} WHERE set_config('synchronous_commit', 'off', true) = 'off'").bindparams(_QUERIES)

_RECORDED = """
FROM mrl.recorded_queries q
WHERE q.target = (SELECT format('%I.%I', n.nspname, c.relname)
                  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = CAST(:target AS regclass))
  AND q.embedding = :embedding"""

# The queries of one embedding column, by a hash so that a sample stays about the same while others are recorded. Those
# of another length or model are of another time. Without a length of the column that of the newest counts.
RECORDED = sa.text(f"""
SELECT q.id::text, mrl.to_bytes(q.query)
{_RECORDED}
  AND (q.filter IS NULL OR CAST(:filtered AS boolean))
  AND (q.model = '' OR CAST(:model AS text) IS NULL
       OR regexp_replace(q.model, '^.*/', '') = regexp_replace(CAST(:model AS text), '^.*/', ''))
  AND mrl.dims(q.query) = coalesce(CAST(:full_dims AS integer), (SELECT mrl.dims(q.query) {_RECORDED}
                                                                 ORDER BY q.recorded_at DESC LIMIT 1))
ORDER BY hashtextextended(q.id::text, CAST(:seed AS bigint)), q.id
LIMIT CAST(:sample AS bigint)
""")

COUNT_RECORDED = sa.text(
    f"SELECT count(*), count(*) FILTER (WHERE q.filter IS NOT NULL), string_agg(DISTINCT q.model, ', ') {_RECORDED}"
)

# Also where the schema is older.
MAY_READ_RECORDED = sa.text("""
SELECT coalesce((SELECT has_table_privilege(c.oid, 'SELECT')
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = 'mrl' AND c.relname = 'recorded_queries'), false), quote_ident(current_user)
""")
