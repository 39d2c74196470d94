-- The ring of keys: changed by compare-and-swap of its generation; of those who try at once, one does.
CREATE FUNCTION change_ring_1(p_generation bigint, p_gone text[], p_gone_versions bigint[], p_name text[], p_version bigint[],
    p_wrapped bytea[], p_created bigint[]) RETURNS bigint LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE v_now bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('mainstay keyring'));
    SELECT value INTO v_now FROM counters WHERE name = 'store/keyring';
    IF coalesce(v_now, 0) <> p_generation THEN RETURN NULL; END IF;
    DELETE FROM keyring k USING unnest(p_gone, p_gone_versions) AS g (name, version)
        WHERE k.name = g.name AND k.version = g.version;
    INSERT INTO keyring SELECT * FROM unnest(p_name, p_version, p_wrapped, p_created)
        ON CONFLICT (name, version) DO UPDATE SET wrapped = excluded.wrapped, created = excluded.created;
    RETURN raise_1('store/keyring');
END $$;
