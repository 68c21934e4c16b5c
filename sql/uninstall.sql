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
    DROP SCHEMA mrl CASCADE;
END
$$;
