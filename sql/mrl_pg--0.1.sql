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
 *   - the registry is the trigger on the user's table, so there are no rows of ours to lose.
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
    EXECUTE format('SELECT r.* FROM jsonb_populate_record($1, jsonb_build_object($2, mrl.prefix(($1).%I, $3, $4)::text)) AS r',
                   embedding_column)
        INTO NEW USING NEW, prefix_column, TG_ARGV[1]::int, TG_ARGV[2];
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION mrl.maintain_prefix() IS
    'trigger function that fills a prefix column; arguments: kind, dims, distance, model';

-- The registry -------------------------------------------------------------------------------------------

CREATE FUNCTION mrl.operator_class(distance text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE distance WHEN 'cosine' THEN 'halfvec_cosine_ops' WHEN 'l2' THEN 'halfvec_l2_ops'
                     WHEN 'inner_product' THEN 'halfvec_ip_ops' END;
COMMENT ON FUNCTION mrl.operator_class(text) IS 'name of the pgvector operator class of a prefix index for a distance';

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
       p.attnum AS position
FROM pg_trigger t
JOIN pg_attribute e ON e.attrelid = t.tgrelid AND e.attnum = t.tgattr[0]
JOIN pg_type et ON et.oid = e.atttypid
JOIN pg_attribute p ON p.attrelid = t.tgrelid AND p.attnum = t.tgattr[1]
-- OFFSET 0: parse the arguments of our own triggers only, and once.
CROSS JOIN LATERAL (
    SELECT x[1] AS kind, substring(x[2] FROM '^[1-9][0-9]{0,3}$')::int AS dims, x[3] AS distance,
           convert_from(decode(x[4], 'escape'), getdatabaseencoding()) AS model
    FROM mrl.trigger_arguments(t.tgargs) AS x OFFSET 0) a
LEFT JOIN LATERAL (
    SELECT i.indexrelid
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am am ON am.oid = c.relam
    JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = t.tgrelid AND i.indkey[0] = p.attnum AND i.indnatts = 1
      AND i.indisvalid AND i.indpred IS NULL
      AND am.amname = 'hnsw' AND o.opcname = mrl.operator_class(a.distance)
    ORDER BY i.indexrelid LIMIT 1) x ON true
WHERE t.tgfoid = 'mrl.maintain_prefix'::regproc AND t.tgparentid = 0
  -- Anyone may write a trigger with our function by hand. A strange one must neither break the view for all nor, by
  -- a cast to vector, make those who look at mrl.status run a function of its author.
  AND t.tgnargs = 4 AND a.dims IS NOT NULL AND mrl.operator_class(a.distance) IS NOT NULL
  AND e.atttypid IN ('vector'::regtype, 'halfvec'::regtype) AND p.atttypid = 'halfvec'::regtype;
COMMENT ON VIEW mrl.prefixes IS 'every prefix in this database, read from the triggers that keep them';
COMMENT ON COLUMN mrl.prefixes.target IS 'table';
COMMENT ON COLUMN mrl.prefixes.embedding IS 'column with the full vector';
COMMENT ON COLUMN mrl.prefixes.prefix IS 'column with the short vector of stage one';
COMMENT ON COLUMN mrl.prefixes.kind IS 'how the prefix is made: truncate';
COMMENT ON COLUMN mrl.prefixes.dims IS 'length of the prefix';
COMMENT ON COLUMN mrl.prefixes.distance IS 'cosine, l2 or inner_product';
COMMENT ON COLUMN mrl.prefixes.model IS 'model that made the embeddings, where it was told';
COMMENT ON COLUMN mrl.prefixes.full_dims IS 'length of the embedding; NULL where the column does not fix it';
COMMENT ON COLUMN mrl.prefixes.embedding_type IS 'vector or halfvec';
COMMENT ON COLUMN mrl.prefixes.index IS 'valid HNSW index over the whole prefix column; NULL where there is none';
COMMENT ON COLUMN mrl.prefixes.maintained IS 'false while the trigger is disabled or for replicas only';
COMMENT ON COLUMN mrl.prefixes.position IS 'attribute number of the prefix: the lowest with an index serves searches';
GRANT SELECT ON mrl.prefixes TO PUBLIC;

CREATE FUNCTION mrl.count_rows(target regclass, embedding name, prefix name, dims integer, distance text,
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
        EXECUTE format('SELECT count(*) FROM %3$s WHERE %1$I IS NOT NULL AND %2$I IS NULL AND mrl.prefix(%1$I, $1, $2) IS NULL',
                       embedding, prefix, target) INTO impossible USING dims, distance;
    ELSE
        -- The first row that can have one ends this.
        EXECUTE format('SELECT EXISTS (SELECT FROM %3$s WHERE %1$I IS NOT NULL AND %2$I IS NULL AND mrl.prefix(%1$I, $1, $2) IS NOT NULL)',
                       embedding, prefix, target) INTO fillable USING dims, distance;
        impossible := CASE WHEN NOT fillable THEN missing END;
    END IF;
END
$$;
COMMENT ON FUNCTION mrl.count_rows(regclass, name, name, integer, text) IS
    'rows with an embedding, those without their prefix, and those of them that cannot have one; NULL where the caller may not read all';

CREATE VIEW mrl.status AS
SELECT p.target, p.embedding, p.prefix, p.kind, p.dims, p.distance, p.model, p.full_dims, p.embedding_type,
       p.maintained, p.index,
       -- An index of a partitioned table is as large as its partitions.
       coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(p.index)), pg_relation_size(p.index))::bigint AS index_bytes,
       n.rows, n.missing, n.impossible
FROM mrl.prefixes p
CROSS JOIN LATERAL mrl.count_rows(p.target, p.embedding, p.prefix, p.dims, p.distance) n;
COMMENT ON VIEW mrl.status IS 'every prefix with its row counts (reads the tables: filter by target on large databases)';
COMMENT ON COLUMN mrl.status.target IS 'table';
COMMENT ON COLUMN mrl.status.embedding IS 'column with the full vector';
COMMENT ON COLUMN mrl.status.prefix IS 'column with the short vector of stage one';
COMMENT ON COLUMN mrl.status.kind IS 'how the prefix is made: truncate';
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
    'of the missing, rows no prefix can be made of (zero, too short); NULL while more than 10,000 are missing and some can be filled';
COMMENT ON COLUMN mrl.status.index_bytes IS 'size of the index';
GRANT SELECT ON mrl.status TO PUBLIC;

-- Adding and dropping prefixes ---------------------------------------------------------------------------

-- Bytes are those of UTF-8 whatever the encoding of the database, as in Python.
CREATE FUNCTION mrl.shorten(name text) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN length(convert_to(name, 'UTF8')) <= 63 THEN name
            ELSE (SELECT left(name, n) FROM generate_series(54, 1, -1) n WHERE length(convert_to(left(name, n), 'UTF8')) <= 54 LIMIT 1)
                 || '_' || left(md5(convert_to(name, 'UTF8')), 8) END;
COMMENT ON FUNCTION mrl.shorten(text) IS 'a name that fits 63 bytes: unchanged, or cut to 54 bytes and a hash';

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

CREATE FUNCTION mrl.add_prefix(target regclass, embedding name, dims integer, distance text DEFAULT 'cosine',
                               model text DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS name
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    prefix name := mrl.shorten(embedding || '_' || dims);
    source record;
    present record;
BEGIN
    IF distance IS NULL OR mrl.operator_class(distance) IS NULL THEN
        PERFORM mrl.unknown_distance(distance);
    END IF;
    PERFORM mrl.check_options(options, '{}');
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
    IF dims IS NULL OR dims NOT BETWEEN 1 AND 4000 THEN
        RAISE EXCEPTION 'dims must be between 1 and 4000, not %', coalesce(dims::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'HNSW takes at most 4,000 halfvec dimensions.';
    END IF;
    IF source.atttypmod > 0 AND dims >= source.atttypmod THEN
        RAISE EXCEPTION 'dims must be below the % dimensions of %, not %', source.atttypmod, quote_ident(embedding), dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A prefix is shorter than its embedding.';
    END IF;

    SELECT p.embedding, p.dims, p.distance, p.model INTO present
    FROM mrl.prefixes p WHERE p.target = target AND p.prefix = prefix;
    IF FOUND THEN
        IF (present.embedding, present.dims, present.distance, present.model)
           = (embedding, dims, distance, coalesce(model, '')) THEN
            RETURN prefix;
        END IF;
        RAISE EXCEPTION 'prefix % of % exists as % dims of % for % (model %)', quote_ident(prefix), target,
                present.dims, quote_ident(present.embedding), present.distance, quote_literal(present.model)
            USING ERRCODE = 'duplicate_object',
                  HINT = format('To change it, run: SELECT mrl.drop_prefix(%L, %L);', target, prefix);
    END IF;
    SELECT format_type(a.atttypid, a.atttypmod) AS type INTO present
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = target AND a.attname = prefix AND NOT a.attisdropped AND (t.typname, a.atttypmod) <> ('halfvec', dims);
    IF FOUND THEN
        RAISE EXCEPTION 'column % of % exists as %, not halfvec(%)', quote_ident(prefix), target, present.type, dims
            USING ERRCODE = 'duplicate_column', HINT = 'Rename or drop it first.';
    END IF;
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS %I %I.halfvec(%s)', target, prefix, mrl.vector_schema(), dims);
    EXECUTE format(
        'CREATE TRIGGER %1$I BEFORE INSERT OR UPDATE OF %2$I, %3$I ON %4$s FOR EACH ROW '
        'WHEN (mrl.is_stale(NEW.%3$I, NEW.%2$I, %5$s, %6$L)) '
        'EXECUTE FUNCTION mrl.maintain_prefix(''truncate'', %5$L, %6$L, %7$L)',
        -- Triggers fire in the order of their names: ours after those that may set the embedding.
        mrl.shorten('zz_mrl_' || prefix), embedding, prefix, target, dims, distance, coalesce(model, ''));
    RETURN prefix;
END
$$;
COMMENT ON FUNCTION mrl.add_prefix(regclass, name, integer, text, text, jsonb) IS
    'adds a prefix column and the trigger that keeps it; instant, existing rows wait for the backfill; returns the column';

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
    opclass := mrl.operator_class(spec.distance);
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

-- The one place in SQL that writes the search statement; mrl_pg/statements/search.py writes the same for Python.
-- Bound, it reads the query from $1 and the filter's values from $2; otherwise both are quoted literals.
CREATE FUNCTION mrl.search_statement(target regclass, query vector, k integer, candidates integer, filter jsonb,
                                     prefix name, options jsonb, bound boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    exact boolean;
    n bigint := coalesce(candidates, greatest(100, 10 * k::bigint));
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
    operator text;
    hits text;
BEGIN
    IF options <> '{}' THEN
        PERFORM mrl.check_options(options, ARRAY['ef_search', 'max_scan_tuples', 'exact']);
    END IF;
    exact := coalesce((options ->> 'exact')::boolean, false);
    ef_search := coalesce((options ->> 'ef_search')::int, least(greatest(n, 40), 1000));
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
    IF mrl.dims(query) <> spec.full_dims THEN
        RAISE EXCEPTION 'query has % dimensions, % of % has %', mrl.dims(query), quote_ident(spec.embedding), target, spec.full_dims
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of the table, at full size.';
    END IF;
    IF mrl.prefix(query, spec.dims, spec.distance) IS NULL THEN
        RAISE EXCEPTION 'query has no prefix of % dimensions for %', spec.dims, spec.distance
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is too short, zero there, or too long for fp16: check how it was made.';
    END IF;

    conditions := mrl.filter_conditions(target, filter, bound);
    query_value := format('%s::%I.%s%s', CASE WHEN bound THEN '$1' ELSE quote_literal(query) END,
                          vector_schema, spec.embedding_type, '(' || spec.full_dims || ')');
    prefix_value := format('%2$s::%1$I.halfvec(%3$s)', vector_schema,
                           CASE WHEN bound THEN format('mrl.prefix($1, %s, %L)', spec.dims, spec.distance)
                                ELSE quote_literal(mrl.prefix(query, spec.dims, spec.distance)) END, spec.dims);
    operator := format('OPERATOR(%I.%s)', vector_schema,
                       CASE spec.distance WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' WHEN 'inner_product' THEN '<#>' END);
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
  SELECT %3$s, %4$I
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
mrl_hits AS MATERIALIZED (
  SELECT %3$s, %4$I %8$s %11$s AS mrl_distance
  FROM mrl_candidates
  WHERE (SELECT received FROM mrl_restored) IS NOT NULL
  ORDER BY mrl_distance, %3$s LIMIT %12$s)',
            ef_search, max_scan_tuples, keys, spec.embedding,
            source, conditions, spec.prefix, operator, prefix_value, n, query_value, k);
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

-- Whoever may write to a table needs its trigger, also where ALTER DEFAULT PRIVILEGES says otherwise.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA mrl TO PUBLIC;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('mrl.caller_search_path'), true); END $$;
