-- Leadership. The row is the authority; a session's lock, under its own number, says that its holder's connection is there.

-- All leases, and how many replicas there are. alive: the holder's connection, of this number, has its lock.
CREATE FUNCTION observe_1() RETURNS TABLE (name text, holder text, term bigint, renewed bigint, backend int, alive boolean,
    replicas bigint)
LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    WITH lock AS MATERIALIZED (
        SELECT k.pid FROM pg_locks k WHERE k.locktype = 'advisory' AND k.classid = 19796 AND k.granted
            AND k.mode = 'ExclusiveLock'
            AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
    SELECT l.name, l.holder, l.term, l.renewed, l.backend, EXISTS (SELECT FROM lock k WHERE k.pid = l.backend), (SELECT count(*) FROM lock)
    FROM leases l
$$;

-- Takes a lease that is as it was seen, or that there is not yet, and ends the session of who had it. Gives the new term,
-- above all that there were, and the newest revision that was written under an earlier one: no batch is under way, and later
-- ones see the new term. Gives nothing when somebody else was first, or the holder has renewed it since.
CREATE FUNCTION take_lease_1(p_name text, p_holder text, p_backend int, p_seen bigint, p_renewed bigint,
    OUT term bigint, OUT revision bigint)
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE
    l leases;
    v_newest bigint;
    v_term bigint;
BEGIN
    SELECT g.revision INTO v_newest FROM log g FOR UPDATE;
    SELECT * INTO l FROM leases k WHERE k.name = p_name FOR UPDATE;
    IF FOUND AND (l.term, l.renewed) IS DISTINCT FROM (p_seen, p_renewed) THEN RETURN; END IF;
    v_term := greatest(raise_1('fence'), coalesce(l.term, 0) + 1);
    UPDATE counters SET value = v_term WHERE name = 'fence';
    INSERT INTO leases (name, holder, term, renewed, backend)
        VALUES (p_name, p_holder, v_term, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, p_backend)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, term = excluded.term, renewed = excluded.renewed,
            backend = excluded.backend WHERE leases.term IS NOT DISTINCT FROM p_seen;
    IF NOT FOUND THEN RETURN; END IF;
    -- Only a session that is known by its lock: the number may be another's by now.
    IF l.backend IS NOT NULL AND l.holder <> '' AND l.backend <> p_backend THEN
        PERFORM pg_terminate_backend(k.pid) FROM pg_locks k
            WHERE k.locktype = 'advisory' AND k.classid = 19796 AND k.pid = l.backend AND k.mode = 'ExclusiveLock';
    END IF;
    term := v_term; revision := v_newest;
END $$;

-- Gives those that are still held.
CREATE FUNCTION renew_leases_1(p_names text[], p_terms bigint[], p_backend int) RETURNS text[]
LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    WITH renewed AS (
        UPDATE leases l SET renewed = (extract(epoch FROM clock_timestamp()) * 1000)::bigint, backend = p_backend
        FROM unnest(p_names, p_terms) AS h (name, term) WHERE l.name = h.name AND l.term = h.term RETURNING l.name
    ) SELECT coalesce(array_agg(name), '{}') FROM renewed
$$;

CREATE FUNCTION release_lease_1(p_name text, p_term bigint) RETURNS void LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    UPDATE leases SET holder = '', backend = NULL WHERE name = p_name AND term = p_term
$$;

-- Ends when the session of this number has. It waits in turns, each a transaction: one snapshot held for long would keep the
-- server from forgetting any row that was changed since, in all tables.
CREATE PROCEDURE await_1(p_backend int) LANGUAGE plpgsql AS $$
DECLARE v_over boolean := false;
BEGIN
    WHILE NOT v_over LOOP
        BEGIN
            SET LOCAL lock_timeout = '500ms';
            PERFORM pg_advisory_xact_lock_shared(19796, p_backend);
            v_over := true;
        EXCEPTION WHEN lock_not_available THEN
        END;
        COMMIT;
    END LOOP;
END $$;
