/*
 * mrl-pg 0.1: two-stage vector search on pgvector.
 *
 * This one file is the extension script (CREATE EXTENSION mrl_pg) and the plain installation (plain.sql,
 * `mrl-pg install`, op.mrl_install()). Released files are frozen; changes come as steps mrl_pg--A--B.sql.
 *
 * Three rules keep it restorable by pg_dump, which restores with an empty search_path:
 *   - scalar functions have parsed bodies (RETURN ...); plpgsql functions see pg_catalog only and name the rest with
 *     its schema, so nobody who may create objects in a schema gets their code run by others;
 *   - no NULLIF, IS DISTINCT FROM or CASE x WHEN on vectors: their operator cannot be printed with its schema;
 *   - the registry is the trigger on the user's table, so there are no rows of ours to lose but those of mrl.bases,
 *     mrl.operating_points, mrl.recorded_queries and mrl.recall_history.
 */

DO $$
DECLARE
    vector_schema name;
    installed text;
BEGIN
    SELECT n.nspname, e.extversion INTO vector_schema, installed
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
    IF vector_schema IS NULL THEN
        RAISE EXCEPTION 'pgvector is not installed in this database'
            USING ERRCODE = 'undefined_object', HINT = 'Run: CREATE EXTENSION vector;';
    END IF;
    IF pg_catalog.string_to_array(substring(installed FROM '^[0-9.]+'), '.')::int[] < ARRAY[0, 8] THEN
        RAISE EXCEPTION 'pgvector % is installed, mrl-pg needs 0.8 or later', installed
            USING ERRCODE = 'feature_not_supported', HINT = 'Run: ALTER EXTENSION vector UPDATE;';
    END IF;
    -- For this transaction only: what follows is created in mrl and finds pgvector wherever it lives.
    -- The last statement of the file gives the caller's search_path back.
    PERFORM pg_catalog.set_config('mrl.caller_search_path', pg_catalog.current_setting('search_path'), true);
    PERFORM pg_catalog.set_config('search_path', format('mrl, %I, pg_temp', vector_schema), true);
END
$$;

DO $$
BEGIN
    -- Without a transaction it is gone by now, and the functions below would pin the caller's.
    IF pg_catalog.current_setting('search_path') NOT LIKE 'mrl, %, pg_temp' THEN
        RAISE EXCEPTION 'mrl-pg must be installed in one transaction'
            USING ERRCODE = 'no_active_sql_transaction', HINT = 'Run: psql -f sql/plain.sql';
    END IF;
    CREATE SCHEMA mrl;
END
$$;

GRANT USAGE ON SCHEMA mrl TO PUBLIC;
COMMENT ON SCHEMA mrl IS 'mrl-pg: two-stage vector search on pgvector';

-- Version ------------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.1'::text;
COMMENT ON FUNCTION mrl.version() IS 'version of the mrl-pg SQL objects in this database';

-- pgvector -----------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.vector_schema() RETURNS name
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = 'vector'::regtype);
COMMENT ON FUNCTION mrl.vector_schema() IS 'schema that pgvector is in';

CREATE FUNCTION mrl.dims(embedding vector) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN vector_dims(embedding);
COMMENT ON FUNCTION mrl.dims(vector) IS 'length of an embedding';

-- Prefixes -----------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.unknown_distance(distance text) RETURNS halfvec
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'unknown distance %', coalesce(quote_literal(distance), 'NULL')
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Use cosine, l2 or inner_product.';
END
$$;
COMMENT ON FUNCTION mrl.unknown_distance(text) IS 'raises the error for a distance that mrl-pg does not know';

-- Cosine looks at directions only, so the prefix is normalised before fp16 loses its small values. l2 and
-- inner_product need the lengths. fp16 ends at 65,504: a prefix no longer than that has no larger coordinate.
CREATE FUNCTION mrl.prefix(embedding vector, dims integer, distance text DEFAULT 'cosine') RETURNS halfvec
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN vector_dims(embedding) < dims THEN NULL
    WHEN distance = 'cosine' THEN
        CASE WHEN vector_norm(subvector(embedding, 1, dims)) > 0
             THEN l2_normalize(subvector(embedding, 1, dims))::halfvec END
    WHEN distance IN ('l2', 'inner_product') THEN
        CASE WHEN vector_norm(subvector(embedding, 1, dims)) <= 65504
             THEN subvector(embedding, 1, dims)::halfvec END
    ELSE mrl.unknown_distance(distance)
END;
COMMENT ON FUNCTION mrl.prefix(vector, integer, text) IS
    'first dims of an embedding as halfvec, L2-normalised for cosine; NULL where there is none (zero, too short, beyond fp16)';

CREATE FUNCTION mrl.prefix(embedding halfvec, dims integer, distance text DEFAULT 'cosine') RETURNS halfvec
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN vector_dims(embedding) < dims THEN NULL
    WHEN distance = 'cosine' THEN
        CASE WHEN l2_norm(subvector(embedding, 1, dims)) > 0
             THEN l2_normalize(subvector(embedding, 1, dims)) END
    WHEN distance IN ('l2', 'inner_product') THEN subvector(embedding, 1, dims)
    ELSE mrl.unknown_distance(distance)
END;
COMMENT ON FUNCTION mrl.prefix(halfvec, integer, text) IS
    'first dims of an embedding as halfvec, L2-normalised for cosine; NULL where there is none (zero, too short)';

-- Sign bits keep the direction alone, so a zero prefix has none here either, whatever the distance.
CREATE FUNCTION mrl.bits(embedding vector, dims integer) RETURNS bit
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN vector_dims(embedding) >= dims AND vector_norm(subvector(embedding, 1, dims)) > 0
            THEN binary_quantize(subvector(embedding, 1, dims)) END;
COMMENT ON FUNCTION mrl.bits(vector, integer) IS
    'sign bits of the first dims of an embedding, 1 for positive; NULL where there are none (zero, too short)';

CREATE FUNCTION mrl.bits(embedding halfvec, dims integer) RETURNS bit
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN vector_dims(embedding) >= dims AND l2_norm(subvector(embedding, 1, dims)) > 0
            THEN binary_quantize(subvector(embedding, 1, dims)) END;
COMMENT ON FUNCTION mrl.bits(halfvec, integer) IS
    'sign bits of the first dims of an embedding, 1 for positive; NULL where there are none (zero, too short)';

-- A basis is learnt from a sample (mrl-pg rotate) and never changes: what was projected with one must meet queries
-- projected with the same. Triggers name it by id, which is unique everywhere and so may be cached without an expiry.
CREATE TABLE mrl.bases (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    target text NOT NULL,
    embedding text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    full_dims integer NOT NULL,
    dims integer NOT NULL,
    distance text NOT NULL,
    model text NOT NULL,
    sample integer NOT NULL,
    seed bigint NOT NULL,
    kept double precision NOT NULL CHECK (kept BETWEEN 0 AND 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    rows vector[] NOT NULL CHECK (cardinality(rows) = dims AND vector_dims(rows[1]) = full_dims),
    UNIQUE (target, embedding, version)
);
-- Floats do not compress, and an uncompressed value is read faster.
ALTER TABLE mrl.bases ALTER rows SET STORAGE EXTERNAL;
GRANT SELECT ON mrl.bases TO PUBLIC;
COMMENT ON TABLE mrl.bases IS 'learnt bases of rotations; their rows are never changed, nor deleted while a prefix uses them';
COMMENT ON COLUMN mrl.bases.id IS 'what triggers name it by';
COMMENT ON COLUMN mrl.bases.target IS 'table it was fitted to, as it was named then';
COMMENT ON COLUMN mrl.bases.embedding IS 'column it was fitted to, as it was named then';
COMMENT ON COLUMN mrl.bases.version IS 'counts the fits of one embedding; part of the name of the prefix column';
COMMENT ON COLUMN mrl.bases.full_dims IS 'length of the embedding';
COMMENT ON COLUMN mrl.bases.dims IS 'length of the prefix: number of directions';
COMMENT ON COLUMN mrl.bases.distance IS 'cosine: fitted to directions; l2 or inner_product: to the embeddings as they are';
COMMENT ON COLUMN mrl.bases.model IS 'model that made the embeddings, where it was told';
COMMENT ON COLUMN mrl.bases.sample IS 'rows it was fitted to';
COMMENT ON COLUMN mrl.bases.seed IS 'seed of the sample and of the fit';
COMMENT ON COLUMN mrl.bases.kept IS 'share of the squared norm of the sample that the prefix keeps';
COMMENT ON COLUMN mrl.bases.created_at IS 'when it was fitted';
COMMENT ON COLUMN mrl.bases.rows IS 'orthonormal directions, the one that keeps most first';

-- What mrl-pg tune has measured. A point belongs to a prefix by the id in the arguments of its trigger: that id follows
-- renames of table and column and is in every dump, as DDL. A name would follow no rename, and a regclass is dumped as a
-- bare number once its table is gone, to mean another table wherever it is restored. Points whose prefix is gone can
-- serve nobody, and go when the next are stored.
CREATE TABLE mrl.operating_points (
    prefix_id uuid NOT NULL,
    k integer NOT NULL CHECK (k > 0),
    candidates integer NOT NULL CHECK (candidates >= k),
    ef_search integer NOT NULL CHECK (ef_search BETWEEN 1 AND 1000),
    target_recall double precision NOT NULL CHECK (target_recall > 0 AND target_recall <= 1),
    recall double precision NOT NULL CHECK (recall BETWEEN 0 AND 1),
    recall_low double precision NOT NULL,
    recall_high double precision NOT NULL,
    p50_ms double precision NOT NULL CHECK (p50_ms > 0),
    p95_ms double precision NOT NULL,
    rows bigint NOT NULL,
    queries integer NOT NULL,
    source text NOT NULL CHECK (source IN ('queries', 'recorded', 'generated', 'rows')),
    measured_at timestamptz NOT NULL DEFAULT now(),
    versions text NOT NULL,
    PRIMARY KEY (prefix_id, k, candidates, ef_search)
);
GRANT SELECT ON mrl.operating_points TO PUBLIC;
COMMENT ON TABLE mrl.operating_points IS 'settings of searches with the recall and latency that were measured; mrl-pg tune writes them, a search by recall reads them';
COMMENT ON COLUMN mrl.operating_points.prefix_id IS 'prefix: mrl.prefixes.id';
COMMENT ON COLUMN mrl.operating_points.k IS 'rows a search returned';
COMMENT ON COLUMN mrl.operating_points.candidates IS 'rows stage one handed over';
COMMENT ON COLUMN mrl.operating_points.ef_search IS 'size of the HNSW candidate list';
COMMENT ON COLUMN mrl.operating_points.target_recall IS 'recall that was aimed at';
COMMENT ON COLUMN mrl.operating_points.recall IS 'mean recall@k, of queries that had no part in choosing the settings';
COMMENT ON COLUMN mrl.operating_points.recall_low IS 'lower end of its 95 % confidence interval';
COMMENT ON COLUMN mrl.operating_points.recall_high IS 'upper end';
COMMENT ON COLUMN mrl.operating_points.p50_ms IS 'milliseconds that half of the searches did not exceed';
COMMENT ON COLUMN mrl.operating_points.p95_ms IS 'the same of 95 %';
COMMENT ON COLUMN mrl.operating_points.rows IS 'rows with an embedding that the table had';
COMMENT ON COLUMN mrl.operating_points.queries IS 'queries that were measured';
COMMENT ON COLUMN mrl.operating_points.source IS 'queries: they were given; recorded: of mrl.recorded_queries; generated: a chat model wrote them; rows: of the table itself, which is optimistic';
COMMENT ON COLUMN mrl.operating_points.measured_at IS 'when';
COMMENT ON COLUMN mrl.operating_points.versions IS 'of what was measured: PostgreSQL, pgvector, mrl-pg';

DO $$
BEGIN
    -- Else a dump of the extension would leave the rows out. Refused in a plain installation, which needs it not.
    PERFORM pg_catalog.pg_extension_config_dump('mrl.bases', '');
    PERFORM pg_catalog.pg_extension_config_dump('mrl.operating_points', '');
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- The inner products are made of a copy in memory: as it stands in the table, a long embedding would be fetched from
-- TOAST once for each direction. For cosine only its direction is projected, so that nothing overflows.
CREATE FUNCTION mrl.rotate(embedding vector, basis uuid, distance text DEFAULT 'cosine') RETURNS halfvec
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT mrl.prefix(made.prefix, made.dims, rotate.distance)
    FROM (SELECT b.dims, ARRAY(SELECT -(axis <#> copy.vector) FROM unnest(b.rows) AS axis)::vector AS prefix
          FROM mrl.bases AS b
          CROSS JOIN (SELECT CASE WHEN rotate.distance = 'cosine' THEN l2_normalize(rotate.embedding)
                                  WHEN vector_norm(rotate.embedding) < 1e30
                                  THEN subvector(rotate.embedding, 1, vector_dims(rotate.embedding)) END AS vector OFFSET 0) AS copy
          WHERE b.id = rotate.basis AND b.full_dims = vector_dims(copy.vector) OFFSET 0) AS made);
COMMENT ON FUNCTION mrl.rotate(vector, uuid, text) IS
    'first coordinates of an embedding under a basis as halfvec, L2-normalised for cosine; NULL where there are none (zero, of another length, beyond fp16, no such basis)';

CREATE FUNCTION mrl.rotate(embedding halfvec, basis uuid, distance text DEFAULT 'cosine') RETURNS halfvec
LANGUAGE sql STABLE PARALLEL SAFE
RETURN mrl.rotate(embedding::vector, basis, distance);
COMMENT ON FUNCTION mrl.rotate(halfvec, uuid, text) IS
    'first coordinates of an embedding under a basis as halfvec, L2-normalised for cosine; NULL where there are none (zero, of another length, beyond fp16, no such basis)';

-- A constant as a vector, and what is left of a vector without its mean.
CREATE FUNCTION mrl.filled(value double precision, dims integer) RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(value, ARRAY[dims])::vector;
COMMENT ON FUNCTION mrl.filled(double precision, integer) IS 'vector whose dimensions are all the same';

CREATE FUNCTION mrl.deviation(embedding vector) RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN embedding - mrl.filled(-(embedding <#> mrl.filled(1, vector_dims(embedding))) / vector_dims(embedding), vector_dims(embedding));
COMMENT ON FUNCTION mrl.deviation(vector) IS 'a vector without the mean of its dimensions';

-- The sum behind a mean is of float32, so the deviation is taken twice, the second time of what the first has left.
-- What deviates by less than a millionth of the length may be rounding alone: such a vector counts as constant. Steps
-- are kept apart by OFFSET 0, so that each is taken once, from a copy (16000 is all of any vector) that is not fetched
-- from TOAST again. And no write may fail, but the product of vectors does where it underflows: hence two ways to
-- scale, each by 1 or more.
CREATE FUNCTION mrl.layer_norm(embedding vector) RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE WHEN made.scale >= 1 THEN made.deviation * mrl.filled(made.scale, made.dims)
                ELSE l2_normalize(made.deviation) * mrl.filled(made.scale * made.spread, made.dims) END
    FROM (SELECT measured.*, 1 / sqrt(measured.spread ^ 2 / measured.dims + 1e-5) AS scale
          FROM (SELECT twice.*, vector_norm(twice.deviation) AS spread
                FROM (SELECT mrl.deviation(once.deviation) AS deviation, once.dims, once.length
                      FROM (SELECT mrl.deviation(copy.vector) AS deviation, vector_dims(copy.vector) AS dims, vector_norm(copy.vector) AS length
                            FROM (SELECT subvector(layer_norm.embedding, 1, 16000) AS vector OFFSET 0) AS copy
                            WHERE vector_norm(copy.vector) BETWEEN 1e-30 AND 1e30 OFFSET 0) AS once OFFSET 0) AS twice OFFSET 0) AS measured
          WHERE measured.spread > 1e-6 * measured.length OFFSET 0) AS made);
COMMENT ON FUNCTION mrl.layer_norm(vector) IS
    'layer norm of an embedding, without weights: its deviations from their mean over sqrt(variance + 1e-5); NULL where there is none (constant but for rounding, length below 1e-30 or above 1e30)';

CREATE FUNCTION mrl.layer_norm(embedding halfvec) RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN mrl.layer_norm(embedding::vector);
COMMENT ON FUNCTION mrl.layer_norm(halfvec) IS
    'layer norm of an embedding, without weights: its deviations from their mean over sqrt(variance + 1e-5); NULL where there is none (constant)';

-- For drivers: every driver reads bytea, and numpy reads this. Per vector int16 dims, int16 zero, big-endian float32 or float16.
CREATE FUNCTION mrl.to_bytes(embedding vector) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN vector_send(embedding);
COMMENT ON FUNCTION mrl.to_bytes(vector) IS 'binary form of a vector';

CREATE FUNCTION mrl.to_bytes(embedding halfvec) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN halfvec_send(embedding);
COMMENT ON FUNCTION mrl.to_bytes(halfvec) IS 'binary form of a halfvec';

-- The trigger calls maintain_prefix only where this says so: a backfill or an application that writes the
-- right prefix itself costs no plpgsql.
CREATE FUNCTION mrl.is_stale(prefix halfvec, embedding vector, dims integer, distance text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN prefix IS NULL THEN embedding IS NOT NULL
            ELSE (prefix = mrl.prefix(embedding, dims, distance)) IS NOT TRUE END;
COMMENT ON FUNCTION mrl.is_stale(halfvec, vector, integer, text) IS
    'whether a stored prefix is not the prefix of its embedding (true also for a missing one)';

CREATE FUNCTION mrl.is_stale(prefix halfvec, embedding halfvec, dims integer, distance text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN prefix IS NULL THEN embedding IS NOT NULL
            ELSE (prefix = mrl.prefix(embedding, dims, distance)) IS NOT TRUE END;
COMMENT ON FUNCTION mrl.is_stale(halfvec, halfvec, integer, text) IS
    'whether a stored prefix is not the prefix of its embedding (true also for a missing one)';

CREATE FUNCTION mrl.is_stale(prefix bit, embedding vector, dims integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN prefix IS NULL THEN embedding IS NOT NULL
            ELSE (prefix = mrl.bits(embedding, dims)) IS NOT TRUE END;
COMMENT ON FUNCTION mrl.is_stale(bit, vector, integer) IS
    'whether stored sign bits are not those of their embedding (true also for missing ones)';

CREATE FUNCTION mrl.is_stale(prefix bit, embedding halfvec, dims integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN prefix IS NULL THEN embedding IS NOT NULL
            ELSE (prefix = mrl.bits(embedding, dims)) IS NOT TRUE END;
COMMENT ON FUNCTION mrl.is_stale(bit, halfvec, integer) IS
    'whether stored sign bits are not those of their embedding (true also for missing ones)';

-- A rotation is not made twice to see whether it has to be made: all but what its backfill has computed is stale.
CREATE FUNCTION mrl.is_rotated(prefix halfvec, basis text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN prefix IS NOT NULL AND current_setting('mrl.backfill', true) IS NOT DISTINCT FROM basis;
COMMENT ON FUNCTION mrl.is_rotated(halfvec, text) IS
    'whether a prefix comes from the backfill with a basis, which announces itself by the setting mrl.backfill of its transaction';

CREATE FUNCTION mrl.transform_expression(embedding text, layer_norm boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN layer_norm THEN format('mrl.layer_norm(%s)', embedding) ELSE embedding END;
COMMENT ON FUNCTION mrl.transform_expression(text, boolean) IS
    'SQL expression of what a prefix is cut from: an expression that is the embedding, or its layer norm';

-- The one place that says what the kinds are made of: trigger, counts and search run what it returns.
CREATE FUNCTION mrl.prefix_expression(embedding text, kind text, dims integer, distance text, basis uuid, layer_norm boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN kind IN ('truncate', 'half')
                 THEN format('mrl.prefix(%s, %s, %L)', mrl.transform_expression(embedding, layer_norm), dims, distance)
            WHEN kind = 'binary' THEN format('mrl.bits(%s, %s)', mrl.transform_expression(embedding, layer_norm), dims)
            WHEN kind = 'rotate' THEN format('mrl.rotate(%s, %L, %L)', embedding, basis, distance)
            ELSE 'NULL' END;
COMMENT ON FUNCTION mrl.prefix_expression(text, text, integer, text, uuid, boolean) IS
    'SQL expression that makes the prefix of a kind from an expression that is the embedding; NULL for an unknown kind';

CREATE FUNCTION mrl.prefix_type(kind text) RETURNS regtype
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN kind IN ('truncate', 'half', 'rotate') THEN 'halfvec'::regtype WHEN kind = 'binary' THEN 'bit'::regtype END;
COMMENT ON FUNCTION mrl.prefix_type(text) IS 'type of a prefix of a kind; NULL for a kind that mrl-pg does not know';

-- One function for every table. Which columns it serves stands in its trigger by number (tgattr), so renames
-- are followed; both columns are in UPDATE OF, so dropping one takes the trigger along (CASCADE) and writes go on.
-- The value travels as text in jsonb because that needs neither the name nor the schema of its type: a role
-- without USAGE on pgvector's schema keeps its INSERT. All in EXECUTE: as an expression of plpgsql's own,
-- jsonb_populate_record would keep the columns it met first in a transaction, and after ALTER TABLE in the same
-- transaction leave the prefix out (renamed) or crash the server (another type).
CREATE FUNCTION mrl.maintain_prefix() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    embedding_column name;
    prefix_column name;
BEGIN
    -- The names as they are now, not as they were when a long transaction began.
    SELECT (pg_identify_object_as_address('pg_class'::regclass, t.tgrelid, t.tgattr[0])).object_names[3],
           (pg_identify_object_as_address('pg_class'::regclass, t.tgrelid, t.tgattr[1])).object_names[3]
    INTO embedding_column, prefix_column
    FROM pg_trigger t WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'prefix of % was added after this transaction began', TG_RELID::regclass
            USING ERRCODE = 'serialization_failure', HINT = 'Retry the transaction.';
    END IF;
    EXECUTE format('SELECT r.* FROM jsonb_populate_record($1, jsonb_build_object($2, %s::text)) AS r',
                   mrl.prefix_expression(format('($1).%I', embedding_column), TG_ARGV[0], TG_ARGV[1]::int, TG_ARGV[2], nullif(TG_ARGV[4], '')::uuid,
                                         TG_ARGV[5] = 'layer_norm'))
        INTO NEW USING NEW, prefix_column;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION mrl.maintain_prefix() IS
    'trigger function that fills a prefix column; arguments: kind, dims, distance, model, basis, transform, id';

-- The registry -------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.operator(distance text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE distance WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' WHEN 'inner_product' THEN '<#>' END;
COMMENT ON FUNCTION mrl.operator(text) IS 'pgvector operator of a distance; NULL for one that mrl-pg does not know';

-- Bits are compared by the Hamming distance, which approximates the angle; the rerank by the distance itself.
CREATE FUNCTION mrl.prefix_operator(distance text, kind text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN kind = 'binary' THEN '<~>' ELSE mrl.operator(distance) END;
COMMENT ON FUNCTION mrl.prefix_operator(text, text) IS 'pgvector operator that compares prefixes of a kind';

CREATE FUNCTION mrl.operator_class(distance text, kind text DEFAULT 'truncate') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN mrl.prefix_type(kind) IS NULL OR mrl.operator(distance) IS NULL THEN NULL
            WHEN kind = 'binary' THEN 'bit_hamming_ops'
            ELSE CASE distance WHEN 'cosine' THEN 'halfvec_cosine_ops' WHEN 'l2' THEN 'halfvec_l2_ops' ELSE 'halfvec_ip_ops' END END;
COMMENT ON FUNCTION mrl.operator_class(text, text) IS
    'name of the pgvector operator class of a prefix index for a distance; NULL for a distance or kind that mrl-pg does not know';

-- Arguments of a trigger are stored end to end, each closed by a zero byte. A backslash is written as its octal
-- code first: doubled, as encode() has it, and followed by 000 it would pass for a zero byte.
CREATE FUNCTION mrl.trigger_arguments(tgargs bytea) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN string_to_array(replace(encode(tgargs, 'escape'), '\\', '\134'), '\000');
COMMENT ON FUNCTION mrl.trigger_arguments(bytea) IS
    'arguments of a trigger (pg_trigger.tgargs) as an array, each as encode(tgargs, ''escape'') writes it';

CREATE VIEW mrl.prefixes AS
SELECT t.tgrelid::regclass AS target,
       e.attname AS embedding,
       p.attname AS prefix,
       a.kind,
       a.dims,
       a.distance,
       a.model,
       CASE WHEN e.atttypmod > 0 THEN e.atttypmod END AS full_dims,
       et.typname::text AS embedding_type,
       x.indexrelid::regclass AS index,
       t.tgenabled IN ('O', 'A') AS maintained,
       p.attnum AS position,
       a.basis,
       a.transform = 'layer_norm' AS layer_norm,
       a.id
FROM pg_trigger t
JOIN pg_attribute e ON e.attrelid = t.tgrelid AND e.attnum = t.tgattr[0]
JOIN pg_type et ON et.oid = e.atttypid
JOIN pg_attribute p ON p.attrelid = t.tgrelid AND p.attnum = t.tgattr[1]
-- OFFSET 0: parse the arguments of our own triggers only, and once.
CROSS JOIN LATERAL (
    SELECT x[1] AS kind, substring(x[2] FROM '^[1-9][0-9]{0,4}$')::int AS dims, x[3] AS distance,
           convert_from(decode(x[4], 'escape'), getdatabaseencoding()) AS model,
           substring(x[5] FROM '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$')::uuid AS basis,
           x[6] AS transform,
           substring(x[7] FROM '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$')::uuid AS id
    FROM mrl.trigger_arguments(t.tgargs) AS x OFFSET 0) a
LEFT JOIN LATERAL (
    SELECT i.indexrelid
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am am ON am.oid = c.relam
    JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = t.tgrelid AND i.indkey[0] = p.attnum AND i.indnatts = 1
      AND i.indisvalid AND i.indpred IS NULL
      AND am.amname = 'hnsw' AND o.opcname = mrl.operator_class(a.distance, a.kind)
    ORDER BY i.indexrelid LIMIT 1) x ON true
WHERE t.tgfoid = 'mrl.maintain_prefix'::regproc AND t.tgparentid = 0
  -- Anyone may write a trigger with our function by hand. A strange one must neither break the view for all nor, by
  -- a cast to vector, make those who look at mrl.status run a function of its author.
  AND t.tgnargs = 7 AND a.id IS NOT NULL AND a.dims IS NOT NULL AND (a.kind = 'rotate') = (a.basis IS NOT NULL) AND mrl.operator_class(a.distance, a.kind) IS NOT NULL
  AND (a.transform = '' OR a.transform = 'layer_norm' AND a.kind <> 'rotate')
  AND e.atttypid IN ('vector'::regtype, 'halfvec'::regtype)
  AND p.atttypid = mrl.prefix_type(a.kind);
COMMENT ON VIEW mrl.prefixes IS 'every prefix in this database, read from the triggers that keep them';
COMMENT ON COLUMN mrl.prefixes.target IS 'table';
COMMENT ON COLUMN mrl.prefixes.embedding IS 'column with the full vector';
COMMENT ON COLUMN mrl.prefixes.prefix IS 'column with the short vector of stage one';
COMMENT ON COLUMN mrl.prefixes.kind IS 'how the prefix is made: truncate, binary, half or rotate';
COMMENT ON COLUMN mrl.prefixes.dims IS 'length of the prefix';
COMMENT ON COLUMN mrl.prefixes.distance IS 'cosine, l2 or inner_product';
COMMENT ON COLUMN mrl.prefixes.model IS 'model that made the embeddings, where it was told';
COMMENT ON COLUMN mrl.prefixes.full_dims IS 'length of the embedding; NULL where the column does not fix it';
COMMENT ON COLUMN mrl.prefixes.embedding_type IS 'vector or halfvec';
COMMENT ON COLUMN mrl.prefixes.index IS 'valid HNSW index over the whole prefix column; NULL where there is none';
COMMENT ON COLUMN mrl.prefixes.maintained IS 'false while the trigger is disabled or for replicas only';
COMMENT ON COLUMN mrl.prefixes.position IS 'attribute number of the prefix: the lowest with an index serves searches';
COMMENT ON COLUMN mrl.prefixes.basis IS 'basis of a rotation; NULL for the other kinds';
COMMENT ON COLUMN mrl.prefixes.layer_norm IS 'whether the prefix is cut from the layer norm of the embedding';
COMMENT ON COLUMN mrl.prefixes.id IS 'what mrl.operating_points knows it by; made when it was added, and never changed';
GRANT SELECT ON mrl.prefixes TO PUBLIC;

-- The oldest that knows one: mrl.add_prefix() lets no others in.
CREATE FUNCTION mrl.known_model(target regclass, embedding name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    RETURN (SELECT p.model FROM mrl.prefixes p
            WHERE p.target = target AND p.embedding = embedding AND p.model <> ''
            ORDER BY p.position LIMIT 1);
END
$$;
COMMENT ON FUNCTION mrl.known_model(regclass, name) IS 'model that made the embeddings of a column, as its prefixes know it; NULL where none does';

CREATE FUNCTION mrl.keep_basis() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    used_by text;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'a basis never changes'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Fit a new version beside it: mrl-pg rotate TABLE --dims ...';
    END IF;
    -- A prefix that another session is adding cannot be seen before it commits. TRUNCATE has waited for its lock on mrl.bases.
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('mrl.bases ' || OLD.id, 0));
    END IF;
    SELECT string_agg(format('%s.%I', p.target, p.prefix), ', ' ORDER BY p.target::text, p.position) INTO used_by
    FROM mrl.prefixes p WHERE p.kind = 'rotate' AND (TG_OP = 'TRUNCATE' OR p.basis = OLD.id);
    IF used_by IS NOT NULL THEN
        RAISE EXCEPTION 'basis is used by prefix %', used_by
            USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop the prefix first: SELECT mrl.drop_prefix(target, prefix);';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION mrl.keep_basis() IS 'trigger function that refuses to change a basis, or to delete one that a prefix uses';
CREATE TRIGGER keep_basis BEFORE DELETE OR UPDATE ON mrl.bases FOR EACH ROW EXECUTE FUNCTION mrl.keep_basis();
CREATE TRIGGER keep_bases BEFORE TRUNCATE ON mrl.bases FOR EACH STATEMENT EXECUTE FUNCTION mrl.keep_basis();

CREATE FUNCTION mrl.count_rows(target regclass, embedding name, prefix name, made text,
                               OUT rows bigint, OUT missing bigint, OUT impossible bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_schema oid := (SELECT relnamespace FROM pg_class WHERE oid = target);
    fillable boolean;
BEGIN
    -- Row-level security would count some rows only, and run policies that the caller never asked for.
    IF (has_schema_privilege(target_schema, 'USAGE') AND NOT pg_is_other_temp_schema(target_schema) AND NOT row_security_active(target)
        AND has_column_privilege(target, embedding, 'SELECT') AND has_column_privilege(target, prefix, 'SELECT')) IS NOT TRUE THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT count(%1$I), count(*) FILTER (WHERE %1$I IS NOT NULL AND %2$I IS NULL) FROM %3$s',
                   embedding, prefix, target) INTO rows, missing;
    -- Before a backfill every embedding would have to be read for this.
    IF missing <= 10000 THEN
        EXECUTE format('SELECT count(*) FROM %3$s WHERE %1$I IS NOT NULL AND %2$I IS NULL AND %4$s IS NULL',
                       embedding, prefix, target, made) INTO impossible;
    ELSE
        -- The first row that can have one ends this.
        EXECUTE format('SELECT EXISTS (SELECT FROM %3$s WHERE %1$I IS NOT NULL AND %2$I IS NULL AND %4$s IS NOT NULL)',
                       embedding, prefix, target, made) INTO fillable;
        impossible := CASE WHEN NOT fillable THEN missing END;
    END IF;
END
$$;
COMMENT ON FUNCTION mrl.count_rows(regclass, name, name, text) IS
    'rows with an embedding, those without their prefix, and those of them that cannot have one (made is the expression that makes it); NULL where the caller may not read all';

CREATE VIEW mrl.status AS
SELECT p.target, p.embedding, p.prefix, p.kind, p.dims, p.distance, p.model, p.full_dims, p.embedding_type,
       p.maintained, p.index,
       -- An index of a partitioned table is as large as its partitions.
       coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(p.index)), pg_relation_size(p.index))::bigint AS index_bytes,
       n.rows, n.missing, n.impossible, p.layer_norm
FROM mrl.prefixes p
CROSS JOIN LATERAL mrl.count_rows(p.target, p.embedding, p.prefix,
                                  mrl.prefix_expression(quote_ident(p.embedding), p.kind, p.dims, p.distance, p.basis, p.layer_norm)) n;
COMMENT ON VIEW mrl.status IS 'every prefix with its row counts (reads the tables: filter by target on large databases)';
COMMENT ON COLUMN mrl.status.target IS 'table';
COMMENT ON COLUMN mrl.status.embedding IS 'column with the full vector';
COMMENT ON COLUMN mrl.status.prefix IS 'column with the short vector of stage one';
COMMENT ON COLUMN mrl.status.kind IS 'how the prefix is made: truncate, binary, half or rotate';
COMMENT ON COLUMN mrl.status.dims IS 'length of the prefix';
COMMENT ON COLUMN mrl.status.distance IS 'cosine, l2 or inner_product';
COMMENT ON COLUMN mrl.status.model IS 'model that made the embeddings, where it was told';
COMMENT ON COLUMN mrl.status.full_dims IS 'length of the embedding; NULL where the column does not fix it';
COMMENT ON COLUMN mrl.status.embedding_type IS 'vector or halfvec';
COMMENT ON COLUMN mrl.status.maintained IS 'false while the trigger is disabled or for replicas only';
COMMENT ON COLUMN mrl.status.index IS 'valid HNSW index over the whole prefix column; NULL where there is none';
COMMENT ON COLUMN mrl.status.rows IS 'rows that have an embedding';
COMMENT ON COLUMN mrl.status.missing IS 'of these, rows without a prefix';
COMMENT ON COLUMN mrl.status.impossible IS
    'of the missing, rows no prefix can be made of (zero, too short, constant under a layer norm); NULL while more than 10,000 are missing and some can be filled';
COMMENT ON COLUMN mrl.status.index_bytes IS 'size of the index';
COMMENT ON COLUMN mrl.status.layer_norm IS 'whether the prefix is cut from the layer norm of the embedding';
GRANT SELECT ON mrl.status TO PUBLIC;

-- Adding and dropping prefixes ---------------------------------------------------------------------------

-- Bytes are those of UTF-8 whatever the encoding of the database, as in Python.
CREATE FUNCTION mrl.shorten(name text) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN length(convert_to(name, 'UTF8')) <= 63 THEN name
            ELSE (SELECT left(name, n) FROM generate_series(54, 1, -1) n WHERE length(convert_to(left(name, n), 'UTF8')) <= 54 LIMIT 1)
                 || '_' || left(md5(convert_to(name, 'UTF8')), 8) END;
COMMENT ON FUNCTION mrl.shorten(text) IS 'a name that fits 63 bytes: unchanged, or cut to 54 bytes and a hash';

-- The one place in SQL that names prefixes; prefix_name() in Python does the same for those that are declared.
CREATE FUNCTION mrl.prefix_name(embedding name, kind text, dims integer, basis_version integer, layer_norm boolean) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN mrl.shorten(embedding || '_' || CASE WHEN layer_norm THEN 'ln' ELSE '' END
                   || CASE kind WHEN 'binary' THEN 'bit' WHEN 'half' THEN 'half' WHEN 'rotate' THEN 'rot' ELSE '' END
                   || dims || coalesce('_v' || basis_version, ''));
COMMENT ON FUNCTION mrl.prefix_name(name, text, integer, integer, boolean) IS
    'name of a prefix column: embedding_256, embedding_ln256, embedding_bit1536, embedding_half1536, embedding_rot128_v1';

CREATE FUNCTION mrl.check_options(options jsonb, known text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'options must be a JSON object, not %', jsonb_typeof(options)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave options out for the defaults.';
    END IF;
    SELECT key INTO unknown FROM jsonb_object_keys(options) AS key WHERE key <> ALL (known) ORDER BY key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'unknown option %', quote_literal(unknown)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE WHEN known = '{}' THEN 'There are no options yet.'
                              ELSE format('Options are %s.', array_to_string(known, ', ')) END;
    END IF;
END
$$;
COMMENT ON FUNCTION mrl.check_options(jsonb, text[]) IS 'raises the error for options that a function does not know';

CREATE FUNCTION mrl.add_prefix(target regclass, embedding name, dims integer DEFAULT NULL, distance text DEFAULT 'cosine',
                               model text DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS name
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    kind text;
    layer_norm boolean;
    basis mrl.bases;
    prefix name;
    type text;
    max_dims integer;
    is_stale text;
    source record;
    present record;
BEGIN
    IF distance IS NULL OR mrl.operator(distance) IS NULL THEN
        PERFORM mrl.unknown_distance(distance);
    END IF;
    PERFORM mrl.check_options(options, ARRAY['kind', 'basis', 'layer_norm']);
    kind := coalesce(options ->> 'kind', 'truncate');
    IF mrl.prefix_type(kind) IS NULL THEN
        RAISE EXCEPTION 'unknown kind %', quote_literal(kind)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use truncate, binary, half or rotate.';
    END IF;
    IF jsonb_typeof(options -> 'layer_norm') <> 'boolean' THEN
        RAISE EXCEPTION 'layer_norm must be true or false, not %', options -> 'layer_norm'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out unless the documentation of the model asks for it.';
    END IF;
    layer_norm := coalesce((options ->> 'layer_norm')::boolean, false);
    IF kind = 'rotate' AND layer_norm THEN
        RAISE EXCEPTION 'kind rotate takes no layer_norm: a rotation keeps the distances of the full vectors, there is nothing to cut'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave layer_norm out.';
    END IF;
    IF (kind = 'rotate') <> (options ->> 'basis' IS NOT NULL) THEN
        RAISE EXCEPTION '%', CASE WHEN kind = 'rotate' THEN 'kind rotate needs a basis' ELSE format('kind %s has no basis', kind) END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('mrl-pg rotate %s --dims %s fits one and adds its prefix.', target, coalesce(dims, 256));
    END IF;
    IF kind = 'rotate' THEN
        -- Until we commit nobody deletes it: see mrl.keep_basis(). A lock on the row would take the right to update it.
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('mrl.bases ' || (options ->> 'basis'), 0));
        SELECT b.* INTO basis FROM mrl.bases b WHERE b.id::text = options ->> 'basis';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'basis % does not exist', options ->> 'basis'
                USING ERRCODE = 'undefined_object', HINT = format('Run: mrl-pg rotate %s --dims %s', target, coalesce(dims, 256));
        END IF;
        IF (basis.dims, basis.distance) IS DISTINCT FROM (dims, distance)
           OR basis.embedding <> embedding::text
           -- A table renamed since keeps the prefixes it has; no name tells that another basis was fitted to it.
           OR (to_regclass(basis.target) IS DISTINCT FROM target
               AND NOT EXISTS (SELECT FROM mrl.prefixes p WHERE p.target = target AND p.basis = basis.id)) THEN
            RAISE EXCEPTION 'basis % is of % dims of % of % for %, not of % dims of % of % for %', basis.id,
                    basis.dims, quote_ident(basis.embedding), basis.target, basis.distance,
                    coalesce(dims::text, 'NULL'), quote_ident(embedding), target, distance
                USING ERRCODE = 'invalid_parameter_value', HINT = format('Run: mrl-pg rotate %s --dims %s', target, coalesce(dims, 256));
        END IF;
    END IF;
    SELECT t.typname, a.atttypmod INTO source
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = target AND a.attname = embedding AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column % of % does not exist', quote_ident(embedding), target
            USING ERRCODE = 'undefined_column', HINT = 'Name the column that holds the full embeddings.';
    END IF;
    IF source.typname NOT IN ('vector', 'halfvec') THEN
        RAISE EXCEPTION 'column % of % is %, not vector or halfvec', quote_ident(embedding), target, source.typname
            USING ERRCODE = 'datatype_mismatch', HINT = 'Name the column that holds the full embeddings.';
    END IF;
    IF dims IS NULL AND kind IN ('binary', 'half') THEN
        IF source.atttypmod < 1 THEN
            RAISE EXCEPTION 'column % of % fixes no length, so dims must be given', quote_ident(embedding), target
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give dims as the length of the embeddings.';
        END IF;
        dims := source.atttypmod;
    END IF;
    max_dims := CASE WHEN kind = 'binary' THEN 16000 ELSE 4000 END;
    IF dims IS NULL OR dims NOT BETWEEN 1 AND max_dims THEN
        RAISE EXCEPTION 'dims must be between 1 and %, not %', max_dims, coalesce(dims::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = CASE WHEN kind = 'binary' THEN 'A vector has at most 16,000 dimensions.'
                              ELSE 'HNSW takes at most 4,000 halfvec dimensions.' END;
    END IF;
    IF kind = 'binary' AND source.atttypmod > 0 AND dims > source.atttypmod THEN
        RAISE EXCEPTION 'dims must be at most the % dimensions of %, not %', source.atttypmod, quote_ident(embedding), dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A binary prefix has the signs of some dimensions, or of all.';
    END IF;
    IF kind = 'half' AND source.atttypmod > 0 AND dims <> source.atttypmod THEN
        RAISE EXCEPTION 'dims must be the % dimensions of %, not %', source.atttypmod, quote_ident(embedding), dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Kind half keeps the whole embedding: leave dims out (NULL).';
    END IF;
    IF kind IN ('truncate', 'rotate') AND source.atttypmod > 0 AND dims >= source.atttypmod THEN
        RAISE EXCEPTION 'dims must be below the % dimensions of %, not %', source.atttypmod, quote_ident(embedding), dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A prefix is shorter than its embedding.';
    END IF;

    IF kind = 'rotate' AND source.atttypmod > 0 AND source.atttypmod <> basis.full_dims THEN
        RAISE EXCEPTION 'basis % is for % dimensions, % has %', basis.id, basis.full_dims, quote_ident(embedding), source.atttypmod
            USING ERRCODE = 'invalid_parameter_value', HINT = format('Run: mrl-pg rotate %s --dims %s', target, dims);
    END IF;

    prefix := mrl.prefix_name(embedding, kind, dims, basis.version, layer_norm);
    type := format('%s(%s)', mrl.prefix_type(kind), dims);
    SELECT p.model INTO present FROM mrl.prefixes p
    WHERE p.target = target AND p.embedding = embedding AND regexp_replace(p.model, '^.*/', '') <> regexp_replace(model, '^.*/', '')
      AND p.model <> '' AND model <> '' AND p.prefix <> prefix LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% of % holds embeddings of %, and those of % do not compare with them', quote_ident(embedding), target, present.model, model
            USING ERRCODE = 'invalid_parameter_value', HINT = format('Use %s, or a column of its own for %s.', present.model, model);
    END IF;
    SELECT p.embedding, p.kind, p.dims, p.distance, p.model, p.basis, p.layer_norm INTO present
    FROM mrl.prefixes p WHERE p.target = target AND p.prefix = prefix;
    IF FOUND THEN
        IF (present.embedding, present.kind, present.dims, present.distance, present.model, present.layer_norm)
           = (embedding, kind, dims, distance, coalesce(nullif(model, ''), present.model), layer_norm) AND (present.basis = basis.id) IS NOT FALSE THEN
            RETURN prefix;
        END IF;
        RAISE EXCEPTION 'prefix % of % exists as % dims of % for % (model %)', quote_ident(prefix), target,
                present.dims, quote_ident(present.embedding), present.distance, quote_literal(present.model)
            USING ERRCODE = 'duplicate_object',
                  HINT = format('To change it, run: SELECT mrl.drop_prefix(%L, %L);', target, prefix);
    END IF;
    SELECT format_type(a.atttypid, a.atttypmod) AS type INTO present
    FROM pg_attribute a
    WHERE a.attrelid = target AND a.attname = prefix AND NOT a.attisdropped
      AND (a.atttypid, a.atttypmod) <> (mrl.prefix_type(kind)::oid, dims);
    IF FOUND THEN
        RAISE EXCEPTION 'column % of % exists as %, not %', quote_ident(prefix), target, present.type, type
            USING ERRCODE = 'duplicate_column', HINT = 'Rename or drop it first.';
    END IF;
    -- So that it is known still when the prefix that was told it is dropped.
    model := coalesce(nullif(model, ''), mrl.known_model(target, embedding), basis.model, '');
    is_stale := format(CASE WHEN kind = 'binary' THEN 'mrl.is_stale(NEW.%1$I, %6$s, %3$s)'
                            WHEN kind = 'rotate' THEN '(NEW.%1$I IS NOT NULL OR NEW.%2$I IS NOT NULL) AND NOT mrl.is_rotated(NEW.%1$I, %5$L)'
                            ELSE 'mrl.is_stale(NEW.%1$I, %6$s, %3$s, %4$L)' END,
                       prefix, embedding, dims, distance, basis.id, mrl.transform_expression(format('NEW.%I', embedding), layer_norm));
    IF layer_norm THEN
        -- mrl.is_stale() says so too, but an insert would take the layer norm for it.
        is_stale := format('CASE WHEN NEW.%I IS NULL THEN NEW.%I IS NOT NULL ELSE %s END', prefix, embedding, is_stale);
    END IF;
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS %I %s', target, prefix, type);
    EXECUTE format(
        'CREATE TRIGGER %1$I BEFORE INSERT OR UPDATE OF %2$I, %3$I ON %4$s FOR EACH ROW WHEN (%5$s) '
        'EXECUTE FUNCTION mrl.maintain_prefix(%6$L, %7$L, %8$L, %9$L, %10$L, %11$L, %12$L)',
        -- Triggers fire in the order of their names: ours after those that may set the embedding.
        mrl.shorten('zz_mrl_' || prefix), embedding, prefix, target, is_stale, kind, dims, distance, model,
        coalesce(basis.id::text, ''), CASE WHEN layer_norm THEN 'layer_norm' ELSE '' END, gen_random_uuid());
    RETURN prefix;
END
$$;
COMMENT ON FUNCTION mrl.add_prefix(regclass, name, integer, text, text, jsonb) IS
    'adds a prefix column and the trigger that keeps it; instant, existing rows wait for the backfill; returns the column';

-- The version counts on from those of prefixes that the table has, whatever it was called when they were fitted, and
-- is of no column that the table has: it may have been restored without its bases.
CREATE FUNCTION mrl.add_basis(target regclass, embedding name, distance text, rows vector[], sample integer, seed bigint,
                              kept double precision, model text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    target_name text := (SELECT format('%I.%I', n.nspname, c.relname)
                         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
    version integer;
    id uuid;
BEGIN
    IF distance IS NULL OR mrl.operator(distance) IS NULL THEN
        PERFORM mrl.unknown_distance(distance);
    END IF;
    -- Two at once would count to the same version. Later statements see what the one we waited for has committed.
    PERFORM pg_advisory_xact_lock(hashtextextended('mrl.add_basis ' || target::oid, 0));
    SELECT 1 + coalesce(max(b.version), 0) INTO version FROM mrl.bases b
    WHERE (b.target, b.embedding) = (target_name, embedding::text)
       OR b.id IN (SELECT p.basis FROM mrl.prefixes p WHERE p.target = target AND p.embedding = embedding);
    WHILE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND NOT a.attisdropped
                  AND a.attname = mrl.prefix_name(embedding, 'rotate', cardinality(rows), version, false)) LOOP
        version := version + 1;
    END LOOP;
    INSERT INTO mrl.bases (target, embedding, version, full_dims, dims, distance, model, sample, seed, kept, rows)
    VALUES (target_name, embedding, version, mrl.dims(rows[1]), cardinality(rows), distance,
            coalesce(nullif(model, ''), mrl.known_model(target, embedding), ''), sample, seed, kept, rows)
    RETURNING bases.id INTO id;
    RETURN id;
END
$$;
COMMENT ON FUNCTION mrl.add_basis(regclass, name, text, vector[], integer, bigint, double precision, text) IS
    'stores a learnt basis as the next version for an embedding column; returns its id, which add_prefix takes as options => {"kind": "rotate", "basis": id}';

-- Which prefix serves: the one named, else the oldest with an index.
CREATE FUNCTION mrl.find_prefix(target regclass, wanted name) RETURNS mrl.prefixes
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    spec mrl.prefixes;
BEGIN
    SELECT p.* INTO spec FROM mrl.prefixes p
    WHERE p.target = target AND (wanted IS NULL OR p.prefix = wanted)
    ORDER BY p.index IS NULL, p.position LIMIT 1;
    IF FOUND THEN
        RETURN spec;
    END IF;
    IF EXISTS (SELECT FROM mrl.prefixes p WHERE p.target = target) THEN
        RAISE EXCEPTION '% has no prefix %', target, quote_ident(wanted)
            USING ERRCODE = 'undefined_object',
                  HINT = format('It has: %s.', (SELECT string_agg(quote_ident(p.prefix), ', ' ORDER BY p.position)
                                                FROM mrl.prefixes p WHERE p.target = target));
    END IF;
    RAISE EXCEPTION '% has no prefix', target
        USING ERRCODE = 'undefined_object', HINT = format('Run: SELECT mrl.add_prefix(%L, ''embedding'', 256);', target);
END
$$;
COMMENT ON FUNCTION mrl.find_prefix(regclass, name) IS
    'a prefix of a table from mrl.prefixes: the one named, or for NULL the oldest with an index';

CREATE FUNCTION mrl.drop_prefix(target regclass, prefix name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    trigger_name name;
BEGIN
    IF prefix IS NULL THEN
        RAISE EXCEPTION 'prefix must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the column: SELECT target, prefix FROM mrl.prefixes;';
    END IF;
    PERFORM mrl.find_prefix(target, prefix);
    SELECT t.tgname INTO STRICT trigger_name
    FROM pg_trigger t JOIN pg_attribute p ON p.attrelid = t.tgrelid AND p.attnum = t.tgattr[1]
    WHERE t.tgrelid = target AND t.tgfoid = 'mrl.maintain_prefix'::regproc AND p.attname = prefix;
    EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, target);
    EXECUTE format('ALTER TABLE %s DROP COLUMN %I', target, prefix);
END
$$;
COMMENT ON FUNCTION mrl.drop_prefix(regclass, name) IS 'drops a prefix: trigger, column and with it the index; instant';

CREATE FUNCTION mrl.create_prefix_index(target regclass, prefix name, concurrently boolean DEFAULT true,
                                        options jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    spec mrl.prefixes;
    m integer;
    ef_construction integer;
    opclass text;
    statement text;
BEGIN
    PERFORM mrl.check_options(options, ARRAY['m', 'ef_construction']);
    m := coalesce((options ->> 'm')::int, 16);
    ef_construction := coalesce((options ->> 'ef_construction')::int, 64);
    IF prefix IS NULL THEN
        RAISE EXCEPTION 'prefix must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Name the column: SELECT target, prefix FROM mrl.prefixes;';
    END IF;
    spec := mrl.find_prefix(target, prefix);
    IF "concurrently" AND (SELECT relkind = 'p' FROM pg_class WHERE oid = target) THEN
        RAISE EXCEPTION 'PostgreSQL cannot build an index on partitioned table % concurrently', target
            USING ERRCODE = 'feature_not_supported',
                  HINT = format('Writes wait while this runs: SELECT mrl.create_prefix_index(%L, %L, false);', target, prefix);
    END IF;
    opclass := mrl.operator_class(spec.distance, spec.kind);
    statement := format('CREATE INDEX %s%I ON %s USING hnsw (%I %s)%s',
        CASE WHEN "concurrently" THEN 'CONCURRENTLY ' ELSE '' END,
        mrl.shorten((SELECT relname FROM pg_class WHERE oid = target) || '_' || prefix || '_' || opclass
                    || CASE WHEN m <> 16 THEN '_m' || m ELSE '' END
                    || CASE WHEN ef_construction <> 64 THEN '_ef' || ef_construction ELSE '' END || '_idx'),
        target, prefix,
        (SELECT format('%I.%I', n.nspname, o.opcname) FROM pg_opclass o
         JOIN pg_namespace n ON n.oid = o.opcnamespace JOIN pg_am a ON a.oid = o.opcmethod
         WHERE a.amname = 'hnsw' AND o.opcname = opclass AND n.nspname = mrl.vector_schema()),
        CASE WHEN m <> 16 OR ef_construction <> 64
             THEN format(' WITH (m = %s, ef_construction = %s)', m, ef_construction) ELSE '' END);
    IF "concurrently" THEN
        RAISE NOTICE 'to be run outside a transaction' USING HINT = 'In psql, end the call with \gexec instead of a semicolon.';
    ELSE
        EXECUTE statement;
    END IF;
    RETURN statement;
END
$$;
COMMENT ON FUNCTION mrl.create_prefix_index(regclass, name, boolean, jsonb) IS
    'statement that builds the HNSW index of a prefix: to be run outside a transaction, or run already with concurrently => false';

-- Search -------------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.filter_values(filter jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(CASE jsonb_typeof(value)
            WHEN 'array' THEN (SELECT coalesce(array_agg(element), '{}') FROM jsonb_array_elements_text(value) element)::text
            WHEN 'object' THEN value::text
            ELSE value #>> '{}' END ORDER BY key)
        FROM jsonb_each(filter));
COMMENT ON FUNCTION mrl.filter_values(jsonb) IS 'values of a filter as text, in the order of its keys';

-- "=" of a type outside pg_catalog (citext, say) is that of its default btree operator class.
CREATE FUNCTION mrl.equality(type oid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN (SELECT t.typnamespace = 'pg_catalog'::regnamespace FROM pg_type t WHERE t.oid = type) THEN '='
ELSE coalesce((
    SELECT format('OPERATOR(%I.=)', n.nspname)
    FROM pg_type t
    JOIN pg_opclass c ON c.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid) AND c.opcdefault
    JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
    JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
                  AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
    JOIN pg_operator o ON o.oid = a.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace AND n.nspname <> 'pg_catalog'
    WHERE t.oid = type), '=') END;
COMMENT ON FUNCTION mrl.equality(oid) IS 'the equality operator of a type as SQL writes it';

-- Bound, the conditions read their values from the text[] in $2; otherwise the values are quoted literals.
CREATE FUNCTION mrl.filter_conditions(target regclass, filter jsonb, bound boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    filter_values text[];
    conditions text := '';
    item record;
    value text;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION 'filter must be a JSON object, not %', jsonb_typeof(filter)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example: filter => ''{"lang": "en"}''.';
    END IF;
    IF filter = '{}' THEN
        RETURN '';
    END IF;
    filter_values := mrl.filter_values(filter);
    FOR item IN
        SELECT row_number() OVER (ORDER BY f.key) AS n, f.key, f.value, a.attname, t.typarray, a.atttypid,
               'jsonb'::regtype IN (t.oid, t.typbasetype) AS is_jsonb
        FROM jsonb_each(filter) f
        LEFT JOIN (pg_attribute a JOIN pg_type t ON t.oid = a.atttypid)
               ON a.attrelid = target AND a.attname = f.key AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY f.key
    LOOP
        IF item.attname IS NULL THEN
            RAISE EXCEPTION 'column % of % does not exist', quote_ident(item.key), target
                USING ERRCODE = 'undefined_column',
                      HINT = 'Filter by one of: ' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                                                      WHERE attrelid = target AND attnum > 0 AND NOT attisdropped) || '.';
        END IF;
        IF jsonb_typeof(item.value) = 'array' AND item.typarray = 0 THEN
            RAISE EXCEPTION 'filter on % is an array, but % has no arrays', quote_ident(item.key), format_type(item.atttypid, -1)
                USING ERRCODE = 'datatype_mismatch',
                      HINT = format('Give one value as a string, as in ''{%s: "{a,b}"}''.', to_json(item.key));
        END IF;
        -- As text they would be compared with something nobody meant, and silently find nothing.
        IF NOT item.is_jsonb AND EXISTS (SELECT FROM jsonb_path_query(item.value, '$[*]') AS element
                                         WHERE jsonb_typeof(element) IN ('object', 'array')) THEN
            RAISE EXCEPTION 'filter on % holds an object or a nested array', quote_ident(item.key)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A value means equality, an array any of its elements, null IS NULL.';
        END IF;
        value := CASE WHEN bound THEN format('($2)[%s]', item.n) ELSE quote_literal(filter_values[item.n]) END;
        conditions := conditions || ' AND ' || CASE jsonb_typeof(item.value)
            WHEN 'null' THEN format('%I IS NULL', item.attname)
            WHEN 'array' THEN format('(%1$I %5$s ANY (%2$s::%3$s)%4$s)', item.attname, value, format_type(item.typarray, -1),
                                     CASE WHEN item.value @> 'null' THEN format(' OR %I IS NULL', item.attname) ELSE '' END,
                                     mrl.equality(item.atttypid))
            ELSE format('%I %s %s::%s', item.attname, mrl.equality(item.atttypid), value, format_type(item.atttypid, -1)) END;
    END LOOP;
    RETURN conditions;
END
$$;
COMMENT ON FUNCTION mrl.filter_conditions(regclass, jsonb, boolean) IS 'conditions of a filter as SQL: equality, any of, IS NULL';

CREATE FUNCTION mrl.query_prefix(spec mrl.prefixes, query vector) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made text;
BEGIN
    IF mrl.dims(query) <> spec.full_dims THEN
        RAISE EXCEPTION 'query has % dimensions, % of % has %', mrl.dims(query), quote_ident(spec.embedding), spec.target, spec.full_dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of the table, at full size.';
    END IF;
    EXECUTE 'SELECT ' || mrl.prefix_expression('$1', spec.kind, spec.dims, spec.distance, spec.basis, spec.layer_norm) || '::text' INTO made USING query;
    IF made IS NOT NULL THEN
        RETURN format('%L::%s(%s)', made, mrl.prefix_type(spec.kind), spec.dims);
    END IF;
    IF spec.kind = 'rotate' AND NOT EXISTS (SELECT FROM mrl.bases b WHERE b.id = spec.basis) THEN
        RAISE EXCEPTION 'basis % of prefix % is not in mrl.bases', spec.basis, quote_ident(spec.prefix)
            USING ERRCODE = 'undefined_object',
                  HINT = format('Restore mrl.bases with the table, or run: mrl-pg rotate %s --dims %s', spec.target, spec.dims);
    END IF;
    RAISE EXCEPTION 'query has no prefix of % dimensions for %', spec.dims, spec.distance
        USING ERRCODE = 'invalid_parameter_value', HINT = 'It is too short, zero there, or too long for fp16: check how it was made.';
END
$$;
COMMENT ON FUNCTION mrl.query_prefix(mrl.prefixes, vector) IS
    'prefix of a query as a literal with its type; raises the error where there is none';

CREATE FUNCTION mrl.check_stages(stages jsonb, k integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    counts bigint[];
    before bigint;
    count bigint;
BEGIN
    IF jsonb_typeof(stages) <> 'array' OR stages = '[]' OR EXISTS (
        SELECT FROM jsonb_array_elements(CASE jsonb_typeof(stages) WHEN 'array' THEN stages ELSE '[]' END) AS stage
        WHERE jsonb_typeof(stage) <> 'object' OR jsonb_typeof(stage -> 'prefix') IS DISTINCT FROM 'string'
           OR jsonb_typeof(stage -> 'candidates') IS DISTINCT FROM 'number' OR stage ->> 'candidates' !~ '^[0-9]{1,9}$') THEN
        RAISE EXCEPTION 'stages must be prefixes with their candidates, not %', stages
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'For example: options => ''{"stages": [{"prefix": "embedding_64", "candidates": 1000}, {"prefix": "embedding_512", "candidates": 100}]}''.';
    END IF;
    SELECT array_agg((stage ->> 'candidates')::bigint ORDER BY n) INTO counts
    FROM jsonb_array_elements(stages) WITH ORDINALITY AS s (stage, n);
    FOREACH count IN ARRAY counts || k::bigint LOOP
        IF count > before THEN
            RAISE EXCEPTION 'the stages hand over % rows for k = %: each must hand over at most as many as it gets, and the last at least k',
                            array_to_string(counts, ', '), k
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give fewer to the later stages.';
        END IF;
        before := count;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mrl.check_stages(jsonb, integer) IS 'raises the error for the stages of a funnel that cannot be';

-- Each stage of a funnel after the first is a CTE that orders the rows of the one before. A row that has the prefix
-- of the first stage but not yet that of a later one is judged by the one it will have.
CREATE FUNCTION mrl.funnel(target regclass, keys text, embedding name, query vector, stages jsonb,
                           OUT ctes text, OUT carried text, OUT ranked text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
    spec mrl.prefixes;
BEGIN
    ctes := '';
    SELECT string_agg(DISTINCT quote_ident(stage ->> 'prefix'), ', ') INTO carried
    FROM jsonb_array_elements(stages - 0) AS stage;
    FOR item IN SELECT n, stage ->> 'prefix' AS prefix, stage ->> 'candidates' AS candidates
                FROM jsonb_array_elements(stages) WITH ORDINALITY AS s (stage, n) WHERE n > 1 ORDER BY n LOOP
        spec := mrl.find_prefix(target, item.prefix);
        IF spec.embedding <> embedding THEN
            RAISE EXCEPTION '% of % is a prefix of %, not of %', quote_ident(spec.prefix), target, quote_ident(spec.embedding), quote_ident(embedding)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Take all stages from one embedding.';
        END IF;
        ranked := format('coalesce(%I, %s) OPERATOR(%I.%s) %s', spec.prefix,
                         mrl.prefix_expression(quote_ident(embedding), spec.kind, spec.dims, spec.distance, spec.basis, spec.layer_norm),
                         mrl.vector_schema(), mrl.prefix_operator(spec.distance, spec.kind), mrl.query_prefix(spec, query));
        ctes := ctes || format(
'mrl_stage_%1$s AS MATERIALIZED (
  SELECT %2$s, %3$I, %4$s
  FROM %5$s
  ORDER BY %6$s, %2$s
  LIMIT %7$s),
',          item.n, keys, embedding, carried, CASE WHEN item.n = 2 THEN 'mrl_candidates' ELSE 'mrl_stage_' || item.n - 1 END,
            ranked, item.candidates);
    END LOOP;
END
$$;
COMMENT ON FUNCTION mrl.funnel(regclass, text, name, vector, jsonb) IS
    'the later stages of a search: their CTEs, the columns they need of the candidates, and what the last ranks by';

-- The cheapest by its median among the points whose mean recall reaches the target: the mean is what was asked for, and
-- is that of queries the point was not chosen by; the lower end of its interval would ask for more the fewer queries there
-- were. What was measured for more rows than k finds the nearest k of them at least as well. Prefixes of other
-- embeddings answer another question. As choose_point() in Python.
CREATE FUNCTION mrl.find_operating_point(target regclass, wanted name, k integer, recall double precision,
                                         OUT prefix name, OUT candidates integer, OUT ef_search integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    spec mrl.prefixes := mrl.find_prefix(target, wanted);
    measured text;
BEGIN
    SELECT p.prefix, o.candidates, o.ef_search INTO prefix, candidates, ef_search
    FROM mrl.prefixes p JOIN mrl.operating_points o ON o.prefix_id = p.id
    WHERE p.target = target AND p.index IS NOT NULL AND (p.embedding, p.distance) = (spec.embedding, spec.distance)
      AND (wanted IS NULL OR p.prefix = wanted) AND o.k >= k AND o.recall >= recall
    ORDER BY o.p50_ms, p.position, o.candidates, o.ef_search LIMIT 1;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%s for k = %s by %I with %s', m.recall, m.k, m.prefix,
                             CASE m.source WHEN 'rows' THEN 'rows as queries' WHEN 'queries' THEN 'queries' ELSE m.source || ' queries' END),
                      ', ' ORDER BY m.position, m.k) INTO measured
    FROM (SELECT DISTINCT ON (p.position, o.k) round(o.recall::numeric, 4) AS recall, o.k, p.prefix, p.position, o.source
          FROM mrl.prefixes p JOIN mrl.operating_points o ON o.prefix_id = p.id
          WHERE p.target = target AND p.index IS NOT NULL AND (p.embedding, p.distance) = (spec.embedding, spec.distance)
            AND (wanted IS NULL OR p.prefix = wanted)
          ORDER BY p.position, o.k, o.recall DESC, o.source) m;
    RAISE EXCEPTION 'no operating point of % reaches recall % for k = %; measured: %', target, recall, k, coalesce('at most ' || measured, 'nothing')
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('Run: mrl-pg tune %s --recall %s --k %s', target, recall, k);
END
$$;
COMMENT ON FUNCTION mrl.find_operating_point(regclass, name, integer, double precision) IS
    'the cheapest stored setting that reaches a recall, of the prefix named or of any with an index; raises the error where none does';

CREATE FUNCTION mrl.check_recall(options jsonb, candidates integer) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other text := CASE WHEN candidates IS NOT NULL THEN 'candidates' WHEN options ? 'ef_search' THEN 'ef_search' WHEN options ? 'stages' THEN 'stages'
                       WHEN (options ->> 'exact')::boolean THEN 'exact' WHEN NOT (options ->> 'rerank')::boolean THEN 'rerank = false' END;
BEGIN
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'recall = % and % were given', options ->> 'recall', other
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A recall chooses candidates and ef_search itself: give one or the other.';
    END IF;
    IF jsonb_typeof(options -> 'recall') <> 'number' OR NOT (options ->> 'recall')::numeric BETWEEN 1e-9 AND 1 THEN
        RAISE EXCEPTION 'recall must be above 0 and at most 1, not %', options -> 'recall'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The usual one is 0.98.';
    END IF;
    RETURN options ->> 'recall';
END
$$;
COMMENT ON FUNCTION mrl.check_recall(jsonb, integer) IS 'the recall of the options of a search; raises the error where it cannot be';

-- The one place in SQL that writes the search statement; mrl_pg/statements/search.py writes the same for Python.
-- Bound, it reads the query from $1 and the filter's values from $2; otherwise both are quoted literals.
CREATE FUNCTION mrl.search_statement(target regclass, query vector, k integer, candidates integer, filter jsonb,
                                     prefix name, options jsonb, bound boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    exact boolean;
    rerank boolean;
    stages jsonb;
    n bigint;
    ef_search integer;
    max_scan_tuples integer;
    spec mrl.prefixes;
    vector_schema name := mrl.vector_schema();
    source text;
    keys text;          -- id
    keys_of_hits text;  -- mrl_hits.id
    keys_match text;    -- mrl_row.id = mrl_hits.id
    conditions text;
    query_value text;
    prefix_value text;
    prefix_operator text;
    operator text;
    ctes text := '';    -- the later stages of a funnel
    carried text;       -- what they need of the candidates
    ranked text;        -- what the last of them ranks by
    hits text;
    known_model text;
BEGIN
    IF options <> '{}' THEN
        PERFORM mrl.check_options(options, ARRAY['ef_search', 'max_scan_tuples', 'exact', 'rerank', 'stages', 'model', 'recall', 'record']);
        stages := options -> 'stages';
        IF options ? 'record' AND (jsonb_typeof(options -> 'record') <> 'number' OR NOT (options ->> 'record')::numeric BETWEEN 0 AND 1) THEN
            RAISE EXCEPTION 'record must be between 0 and 1, not %', options -> 'record'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the share of searches to record: 0.01 is one in a hundred.';
        END IF;
    END IF;
    IF options ? 'recall' THEN
        SELECT f.prefix, f.candidates, f.ef_search INTO prefix, candidates, ef_search
        FROM mrl.find_operating_point(target, prefix, k, mrl.check_recall(options, candidates)) f;
    END IF;
    exact := coalesce((options ->> 'exact')::boolean, false);
    rerank := coalesce((options ->> 'rerank')::boolean, true);
    IF stages IS NOT NULL THEN
        IF exact OR candidates IS NOT NULL OR prefix IS NOT NULL THEN
            RAISE EXCEPTION '% and stages were given',
                            CASE WHEN exact THEN 'exact' WHEN prefix IS NULL THEN 'candidates' ELSE 'prefix' END
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Each stage names its own prefix and candidates; an exact search has none.';
        END IF;
        PERFORM mrl.check_stages(stages, k);
        prefix := stages -> 0 ->> 'prefix';
        candidates := (stages -> 0 ->> 'candidates')::int;
    END IF;
    IF exact AND NOT rerank THEN
        RAISE EXCEPTION 'an exact search is no search without a rerank'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave rerank out.';
    END IF;
    n := coalesce(candidates, CASE WHEN rerank THEN greatest(100, 10 * k::bigint) ELSE k END);
    ef_search := coalesce(ef_search, (options ->> 'ef_search')::int, least(greatest(n, 40), 1000));
    max_scan_tuples := coalesce((options ->> 'max_scan_tuples')::int, least(greatest(20000, least(200 * n, 1000000), 2 * n), 2147483647));
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION 'k must be at least 1, not %', coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'k is the number of rows to return.';
    END IF;
    IF n < k THEN
        RAISE EXCEPTION 'candidates must be at least k = %, not %', k, n
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave candidates out for the larger of 100 and 10 * k.';
    END IF;
    IF ef_search NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'ef_search must be between 1 and 1000, not %', ef_search
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It may be below candidates: the scan goes on in steps of ef_search.';
    END IF;
    IF max_scan_tuples < 1 THEN
        RAISE EXCEPTION 'max_scan_tuples must be at least 1, not %', max_scan_tuples
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out for the default.';
    END IF;
    IF query IS NULL THEN
        RAISE EXCEPTION 'query must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give the full embedding, for example ''[0.1, 0.2, ...]''.';
    END IF;

    SELECT format('%I.%I', s.nspname, c.relname) INTO STRICT source
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.oid = target;
    spec := mrl.find_prefix(target, prefix);
    IF NOT exact AND spec.index IS NULL THEN
        RAISE EXCEPTION 'prefix % of % has no valid index', quote_ident(spec.prefix), target
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Run: SELECT mrl.create_prefix_index(%L, %L) \gexec', target, spec.prefix);
    END IF;
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY i.n), string_agg(format('mrl_hits.%I', a.attname), ', ' ORDER BY i.n),
           string_agg(format('mrl_row.%1$I %2$s mrl_hits.%1$I', a.attname, mrl.equality(a.atttypid)), ' AND ' ORDER BY i.n)
    INTO keys, keys_of_hits, keys_match
    FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS i (attnum, n)
    JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = i.attnum
    WHERE x.indrelid = target AND x.indisprimary AND i.n <= x.indnkeyatts;
    IF keys IS NULL THEN
        RAISE EXCEPTION '% has no primary key', target
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('Run: ALTER TABLE %s ADD PRIMARY KEY (...);', target);
    END IF;
    IF options ->> 'model' IS NOT NULL THEN
        known_model := coalesce(nullif(spec.model, ''), mrl.known_model(target, spec.embedding));
    END IF;
    IF regexp_replace(options ->> 'model', '^.*/', '') <> regexp_replace(known_model, '^.*/', '') THEN
        RAISE EXCEPTION '% of % holds embeddings of %, and a query of % does not compare with them',
                        quote_ident(spec.embedding), target, known_model, options ->> 'model'
            USING ERRCODE = 'invalid_parameter_value', HINT = format('Embed the query with %s.', known_model);
    END IF;
    prefix_value := mrl.query_prefix(spec, query);

    conditions := mrl.filter_conditions(target, filter, bound);
    query_value := format('%s::%I.%s%s', CASE WHEN bound THEN '$1' ELSE quote_literal(query) END,
                          vector_schema, spec.embedding_type, '(' || spec.full_dims || ')');
    operator := format('OPERATOR(%I.%s)', vector_schema, mrl.operator(spec.distance));
    prefix_operator := format('OPERATOR(%I.%s)', vector_schema, mrl.prefix_operator(spec.distance, spec.kind));
    IF exact THEN
        -- "+ 0" is no expression of any index, so every row is compared.
        hits := format(
'mrl_hits AS MATERIALIZED (
  SELECT %1$s, (%2$I %3$s %4$s) + 0 AS mrl_distance
  FROM %5$s
  WHERE %2$I IS NOT NULL%6$s
  ORDER BY mrl_distance, %1$s LIMIT %7$s)',
            keys, spec.embedding, operator, query_value, source, conditions, k);
    ELSE
        IF stages IS NOT NULL THEN
            SELECT f.ctes, f.carried, f.ranked INTO ctes, carried, ranked
            FROM mrl.funnel(target, keys, spec.embedding, query, stages) f;
        END IF;
        IF rerank THEN
            ranked := format('%I %s %s', spec.embedding, operator, query_value);
        ELSIF carried IS NULL THEN
            ranked := format('%I %s %s', spec.prefix, prefix_operator, prefix_value);
        END IF;
        hits := format(
'mrl_before AS MATERIALIZED (
  SELECT current_setting(''hnsw.ef_search'', true) AS ef_search,
         current_setting(''hnsw.iterative_scan'', true) AS iterative_scan,
         current_setting(''hnsw.max_scan_tuples'', true) AS max_scan_tuples,
         current_setting(''hnsw.scan_mem_multiplier'', true) AS scan_mem_multiplier),
mrl_settings AS MATERIALIZED (
  SELECT set_config(''hnsw.ef_search'', %1$L, true) AS ef_search,
         set_config(''hnsw.iterative_scan'', ''relaxed_order'', true) AS iterative_scan,
         set_config(''hnsw.max_scan_tuples'', %2$L, true) AS max_scan_tuples,
         set_config(''hnsw.scan_mem_multiplier'', ''1000'', true) AS scan_mem_multiplier
  FROM mrl_before),
mrl_candidates AS MATERIALIZED (
  SELECT %3$s, %4$s
  FROM %5$s
  WHERE %7$I IS NOT NULL%6$s
  ORDER BY %7$I %8$s (SELECT CASE WHEN mrl_settings.ef_search IS NOT NULL THEN %9$s END FROM mrl_settings)
  LIMIT %10$s),
mrl_restored AS MATERIALIZED (
  SELECT counted.received,
         set_config(''hnsw.ef_search'', mrl_before.ef_search, true) AS ef_search,
         set_config(''hnsw.iterative_scan'', mrl_before.iterative_scan, true) AS iterative_scan,
         set_config(''hnsw.max_scan_tuples'', mrl_before.max_scan_tuples, true) AS max_scan_tuples,
         set_config(''hnsw.scan_mem_multiplier'', mrl_before.scan_mem_multiplier, true) AS scan_mem_multiplier
  FROM (SELECT count(*) AS received FROM mrl_candidates) AS counted, mrl_before),
%13$smrl_hits AS MATERIALIZED (
  SELECT %3$s, %11$s AS mrl_distance
  FROM %14$s
  WHERE (SELECT received FROM mrl_restored) IS NOT NULL
  ORDER BY mrl_distance, %3$s LIMIT %12$s)',
            ef_search, max_scan_tuples, keys,
            -- The full embedding is carried as the place where it is stored; nobody reads it before the last stage.
            CASE WHEN carried IS NOT NULL THEN quote_ident(spec.embedding) || ', ' || carried
                 WHEN rerank THEN quote_ident(spec.embedding) ELSE quote_ident(spec.prefix) END,
            source, conditions, spec.prefix, prefix_operator, prefix_value, n, ranked, k, ctes,
            CASE WHEN carried IS NULL THEN 'mrl_candidates' ELSE 'mrl_stage_' || jsonb_array_length(stages) END);
    END IF;
    RETURN format(
'WITH %s
SELECT %s, mrl_hits.mrl_distance AS distance, %s AS received
FROM mrl_hits JOIN %s AS mrl_row ON %s%s
ORDER BY mrl_hits.mrl_distance, %s', hits,
        CASE WHEN bound THEN 'mrl_row' ELSE 'mrl_row.*' END,
        CASE WHEN exact THEN '(SELECT count(*) FROM mrl_hits WHERE mrl_distance <> ''NaN'')' ELSE '(SELECT received FROM mrl_restored)' END,
        source, keys_match,
        -- The cosine distance of a zero vector.
        CASE WHEN exact THEN E'\nWHERE mrl_hits.mrl_distance <> ''NaN''' ELSE '' END, keys_of_hits);
END
$$;
COMMENT ON FUNCTION mrl.search_statement(regclass, vector, integer, integer, jsonb, name, jsonb, boolean) IS
    'the search statement as text; mrl.search runs it with $1 and $2 bound, mrl.search_sql shows it with literals';

CREATE FUNCTION mrl.table_of(target anyelement) RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation oid := (SELECT nullif(typrelid, 0) FROM pg_type WHERE oid = pg_typeof(target));
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'target must be a row of a table, not %', pg_typeof(target)
            USING ERRCODE = 'datatype_mismatch', HINT = 'For example: SELECT (hit).id, distance FROM mrl.search(NULL::documents, ...);';
    END IF;
    RETURN relation;
END
$$;
COMMENT ON FUNCTION mrl.table_of(anyelement) IS 'table whose row type the argument has';

CREATE FUNCTION mrl.search(target anyelement, query vector, k integer DEFAULT 10, candidates integer DEFAULT NULL,
                           filter jsonb DEFAULT '{}', prefix name DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS TABLE (hit anyelement, distance double precision, received bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE mrl.search_statement(mrl.table_of(target), query, k, candidates, filter, prefix, options, true)
        USING query, mrl.filter_values(filter);
    -- Once the rows are there: what has failed is not recorded.
    IF options ? 'record' AND random() < (options ->> 'record')::double precision
       AND has_function_privilege('mrl.record_query'::regproc, 'EXECUTE') THEN
        PERFORM mrl.record_query(p.target, query, k, filter, p.embedding, options ->> 'model')
        FROM mrl.find_prefix(mrl.table_of(target), coalesce(options -> 'stages' -> 0 ->> 'prefix', prefix)) p;
    END IF;
END
$$;
COMMENT ON FUNCTION mrl.search(anyelement, vector, integer, integer, jsonb, name, jsonb) IS
    'the k nearest rows, nearest first: candidates by the prefix, reranked by the full embedding; received says how many candidates came';

CREATE FUNCTION mrl.search_sql(target anyelement, query vector, k integer DEFAULT 10, candidates integer DEFAULT NULL,
                               filter jsonb DEFAULT '{}', prefix name DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN mrl.search_statement(mrl.table_of(target), query, k, candidates, filter, prefix, options, false);
END
$$;
COMMENT ON FUNCTION mrl.search_sql(anyelement, vector, integer, integer, jsonb, name, jsonb) IS
    'the statement that mrl.search runs, with its values as literals';

-- Recorded queries ---------------------------------------------------------------------------------------

-- What was searched for, where the application records some of it. Rows are inserted and, past 10,000 of an embedding
-- column, deleted: in a ring of slots recorders would wait for one another's transactions. Queries can be private: nobody
-- may read them unasked, and INSERT alone is enough to record. No sequence and no regclass: a dump restores it as it is.
CREATE TABLE mrl.recorded_queries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    target text NOT NULL,
    embedding text NOT NULL,
    query vector NOT NULL,
    k integer NOT NULL CHECK (k > 0),
    filter jsonb,
    model text NOT NULL DEFAULT ''
);
CREATE INDEX recorded_queries_newest ON mrl.recorded_queries (target, embedding, recorded_at, id);
-- As in mrl.bases.
ALTER TABLE mrl.recorded_queries ALTER query SET STORAGE EXTERNAL;
DO $$
BEGIN
    -- Where ALTER DEFAULT PRIVILEGES lets everybody read tables; otherwise it would only show in dumps.
    IF EXISTS (SELECT FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
               WHERE c.oid = 'mrl.recorded_queries'::pg_catalog.regclass AND a.grantee = 0) THEN
        REVOKE ALL ON mrl.recorded_queries FROM PUBLIC;
    END IF;
END
$$;
COMMENT ON TABLE mrl.recorded_queries IS 'a sample of the queries that were searched for, about the newest 10,000 of each embedding column; delete them at will';
COMMENT ON COLUMN mrl.recorded_queries.id IS 'of the query';
COMMENT ON COLUMN mrl.recorded_queries.recorded_at IS 'when it was searched for';
COMMENT ON COLUMN mrl.recorded_queries.target IS 'table that was searched, as it was named then';
COMMENT ON COLUMN mrl.recorded_queries.embedding IS 'column that was searched, as it was named then';
COMMENT ON COLUMN mrl.recorded_queries.query IS 'full embedding of the query';
COMMENT ON COLUMN mrl.recorded_queries.k IS 'rows that were asked for';
COMMENT ON COLUMN mrl.recorded_queries.filter IS 'an object as mrl.search takes it, or a string where conditions were SQL expressions; NULL for none';
COMMENT ON COLUMN mrl.recorded_queries.model IS 'model that made the query, where it was told';

DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('mrl.recorded_queries', '');
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- a plain installation, as for mrl.bases
END
$$;

-- As the owner, or whoever records would need DELETE and SELECT. Others could use this function for a trigger of theirs,
-- and have casts of theirs run by the owner: it knows one table only.
CREATE FUNCTION mrl.keep_newest_queries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    last record;
BEGIN
    IF TG_RELID <> 'mrl.recorded_queries'::regclass THEN
        RAISE EXCEPTION 'mrl.keep_newest_queries() is for mrl.recorded_queries alone'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Drop the trigger.';
    END IF;
    -- Counting 10,000 costs more than an insert: once in 50 of them is enough.
    IF random() * 50 >= (SELECT count(*) FROM added) THEN
        RETURN NULL;
    END IF;
    FOR one IN SELECT DISTINCT a.target, a.embedding FROM added a LOOP
        SELECT q.recorded_at, q.id INTO last FROM mrl.recorded_queries q
        WHERE q.target = one.target AND q.embedding = one.embedding
        ORDER BY q.recorded_at DESC, q.id DESC OFFSET 10000 LIMIT 1;
        IF FOUND THEN
            BEGIN
                -- What others delete already is theirs to delete.
                DELETE FROM mrl.recorded_queries WHERE id = ANY (ARRAY(
                    SELECT q.id FROM mrl.recorded_queries q
                    WHERE q.target = one.target AND q.embedding = one.embedding AND (q.recorded_at, q.id) <= (last.recorded_at, last.id)
                    FOR UPDATE SKIP LOCKED));
            EXCEPTION WHEN serialization_failure THEN
                NULL;  -- under REPEATABLE READ they were deleted meanwhile
            END;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mrl.keep_newest_queries() IS 'trigger function that deletes all but the newest 10,000 recorded queries of an embedding column';
CREATE TRIGGER keep_newest AFTER INSERT ON mrl.recorded_queries REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION mrl.keep_newest_queries();

-- Nothing that goes wrong here may undo the search before it: the block is a subtransaction, and waits for no lock.
CREATE FUNCTION mrl.record_query(target regclass, query vector, k integer DEFAULT 10, filter jsonb DEFAULT NULL,
                                 embedding name DEFAULT 'embedding', model text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    lock_timeout text := current_setting('lock_timeout');
    recorded boolean;
BEGIN
    -- A standby is read-only. Under SERIALIZABLE a recorder that deletes could make others fail, and itself, at COMMIT.
    IF current_setting('transaction_read_only')::boolean OR current_setting('transaction_isolation') = 'serializable'
       OR NOT has_table_privilege('mrl.recorded_queries', 'INSERT') THEN
        RETURN false;
    END IF;
    PERFORM set_config('lock_timeout', '20ms', true);
    INSERT INTO mrl.recorded_queries (target, embedding, query, k, filter, model)
    SELECT format('%I.%I', n.nspname, c.relname), a.attname, query, k, nullif(filter, '{}'),
           coalesce(model, (SELECT p.model FROM mrl.prefixes p
                            WHERE p.target = target AND p.embedding = embedding AND p.model <> '' ORDER BY p.position LIMIT 1), '')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attrelid = target AND a.attname = embedding AND NOT a.attisdropped AND (a.atttypmod < 1 OR a.atttypmod = mrl.dims(query));
    recorded := FOUND;
    PERFORM set_config('lock_timeout', lock_timeout, true);
    RETURN recorded;
EXCEPTION WHEN OTHERS THEN  -- which a cancel and a statement_timeout are not
    RAISE DEBUG 'query not recorded: %', SQLERRM;
    RETURN false;
END
$$;
COMMENT ON FUNCTION mrl.record_query(regclass, vector, integer, jsonb, name, text) IS
    'stores the query of a search in mrl.recorded_queries; returns whether it did: never an error, and false in a read-only or serializable transaction, on a standby, without INSERT, or for a query that is not of this column';

-- Recall over time ---------------------------------------------------------------------------------------

-- What mrl-pg watch has measured, a row a run. No sequence and no regclass: a dump restores it as it is.
CREATE TABLE mrl.recall_history (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    measured_at timestamptz NOT NULL DEFAULT now(),
    target text NOT NULL,
    prefix text NOT NULL,
    source text NOT NULL CHECK (source IN ('queries', 'recorded', 'generated', 'rows')),
    k integer NOT NULL CHECK (k > 0),
    candidates integer NOT NULL,
    ef_search integer NOT NULL,
    queries integer NOT NULL CHECK (queries > 0),
    recall double precision NOT NULL CHECK (recall BETWEEN 0 AND 1),
    low double precision NOT NULL,
    high double precision NOT NULL,
    worst double precision NOT NULL,
    p50_ms double precision NOT NULL,
    floor double precision NOT NULL
);
GRANT SELECT ON mrl.recall_history TO PUBLIC;
COMMENT ON TABLE mrl.recall_history IS 'recall of searches against exact search, a row for each run of mrl-pg watch; delete old ones at will';
COMMENT ON COLUMN mrl.recall_history.id IS 'of the run';
COMMENT ON COLUMN mrl.recall_history.measured_at IS 'when the run ended';
COMMENT ON COLUMN mrl.recall_history.target IS 'table that was searched, as it was named then';
COMMENT ON COLUMN mrl.recall_history.prefix IS 'prefix column that served, as it was named then';
COMMENT ON COLUMN mrl.recall_history.source IS 'queries: they were given; recorded: of mrl.recorded_queries; generated: a chat model wrote them; rows: of the table itself, which is optimistic';
COMMENT ON COLUMN mrl.recall_history.k IS 'of recall@k';
COMMENT ON COLUMN mrl.recall_history.candidates IS 'rows that stage one handed over';
COMMENT ON COLUMN mrl.recall_history.ef_search IS 'size of the HNSW candidate list';
COMMENT ON COLUMN mrl.recall_history.queries IS 'how many were measured';
COMMENT ON COLUMN mrl.recall_history.recall IS 'share of the exact top k that was found, the mean over the queries';
COMMENT ON COLUMN mrl.recall_history.low IS 'lower end of its 95 % confidence interval';
COMMENT ON COLUMN mrl.recall_history.high IS 'upper end of its 95 % confidence interval';
COMMENT ON COLUMN mrl.recall_history.worst IS 'recall of the worst query';
COMMENT ON COLUMN mrl.recall_history.p50_ms IS 'half of the searches took at most so many milliseconds';
COMMENT ON COLUMN mrl.recall_history.floor IS 'recall that was asked for';

DO $$
BEGIN
    PERFORM pg_catalog.pg_extension_config_dump('mrl.recall_history', '');
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- a plain installation, as for mrl.bases
END
$$;

-- Whoever may write to a table needs its trigger, also where ALTER DEFAULT PRIVILEGES says otherwise.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA mrl TO PUBLIC;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('mrl.caller_search_path'), true); END $$;
