-- Removes a plain installation. Refuses while prefixes exist, and names them.
DO $$
DECLARE
    prefixes text := (SELECT pg_catalog.string_agg(pg_catalog.format('%s.%I', target, prefix), ', ' ORDER BY target::text, position)
                      FROM mrl.prefixes);
BEGIN
    IF prefixes IS NOT NULL THEN
        RAISE EXCEPTION 'mrl-pg still keeps prefixes: %', prefixes
            USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Run: SELECT mrl.drop_prefix(target, prefix) FROM mrl.prefixes;';
    END IF;
    -- Without CASCADE, so that nothing of the user's goes along: a view, a generated column or an index that uses
    -- ours stops the removal. Functions that take or return a row of a view come first, then the views, then the rest.
    EXECUTE (SELECT pg_catalog.format('DROP FUNCTION %s', pg_catalog.string_agg(p.oid::pg_catalog.regprocedure::text, ', '))
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_class c ON c.reltype = p.prorettype OR c.reltype = ANY (p.proargtypes)
             WHERE p.pronamespace = 'mrl'::pg_catalog.regnamespace AND c.relnamespace = p.pronamespace);
    EXECUTE (SELECT pg_catalog.format('DROP VIEW %s', pg_catalog.string_agg(oid::pg_catalog.regclass::text, ', '))
             FROM pg_catalog.pg_class WHERE relnamespace = 'mrl'::pg_catalog.regnamespace AND relkind = 'v');
    -- Functions read the table of bases, and triggers call some.
    DROP TRIGGER keep_basis ON mrl.bases;
    DROP TRIGGER keep_bases ON mrl.bases;
    DROP TRIGGER keep_newest ON mrl.recorded_queries;
    EXECUTE (SELECT pg_catalog.format('DROP FUNCTION %s', pg_catalog.string_agg(oid::pg_catalog.regprocedure::text, ', '))
             FROM pg_catalog.pg_proc WHERE pronamespace = 'mrl'::pg_catalog.regnamespace);
    DROP TABLE mrl.bases, mrl.operating_points, mrl.recorded_queries, mrl.recall_history;
    DROP SCHEMA mrl;
END
$$;
