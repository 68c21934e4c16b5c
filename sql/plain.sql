-- Plain installation with psql, where CREATE EXTENSION mrl_pg is not to be had (managed servers):
--     psql -f sql/plain.sql
\set ON_ERROR_STOP on
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector;
\ir mrl_pg--0.1.sql
COMMIT;
