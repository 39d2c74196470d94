-- How a replica begins, and begins again after each loss of its connection.

-- Which database this is: after a restore, on another server, or after a failover it is another one.
CREATE FUNCTION this_place() RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'mainstay.log'::regclass::oid)
$$;

-- Refuses whoever has not entered this database, but another or an earlier state of it: a failover is not seen by those for
-- whom a pooler keeps the connection.
CREATE FUNCTION moved() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the database is another one than was entered' USING ERRCODE = 'MS005';
END $$;

CREATE FUNCTION stay() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    /*place*/ IF (SELECT place FROM log) <> this_place() THEN PERFORM moved(); END IF; /*.*/
    NULL;
END $$;

-- Begins an epoch: whatever was given in earlier ones is never given again. Its number is above theirs, and grows by the hour
-- besides: of one backup that is restored twice nobody has to know that it was. (For 239 years revisions are below 2^53.)
CREATE FUNCTION begin_epoch(p_above bigint, p_place text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_hours bigint := extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01 00:00:00+00') / 3600;
    v_start bigint := greatest((p_above >> 32) + 1, v_hours) << 32;
    v_part text;
BEGIN
    -- What is not current nobody can ask for: it was before the epoch.
    DELETE FROM kept k WHERE NOT EXISTS (SELECT FROM objects o WHERE o.resource = k.resource AND o.namespace = k.namespace
        AND o.name = k.name AND o.revision = k.revision);
    INSERT INTO kept SELECT h.* FROM objects o JOIN history h ON h.revision = o.revision;
    FOR v_part IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'mainstay.history'::regclass LOOP
        EXECUTE 'DROP TABLE ' || v_part;
    END LOOP;
    UPDATE log SET revision = v_start, floor = v_start, top = v_start, place = p_place;
    UPDATE counters SET value = greatest(value, v_start);
    UPDATE leases SET term = greatest(term, v_start);
    UPDATE replicas SET term = greatest(term, v_start);
    UPDATE operations SET attempt = greatest(attempt, v_start) WHERE state NOT IN (4, 5);
END $$;

-- p_term: the process's own, or NULL for a process that begins. p_seen: the newest revision that it has seen.
CREATE FUNCTION enter_1(p_replica text, p_term bigint, p_seen bigint,
    OUT term bigint, OUT revision bigint, OUT floor bigint, OUT began boolean)
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE
    l log;
    v_place text := this_place();
BEGIN
    SELECT * INTO l FROM log FOR UPDATE;
    began := l.place <> '' AND (l.place <> v_place OR l.revision < p_seen);
    IF began THEN
        PERFORM begin_epoch(greatest(l.revision, p_seen), v_place);
    ELSIF l.place = '' THEN
        UPDATE log SET place = v_place;
    END IF;
    IF p_term IS NULL THEN
        INSERT INTO replicas AS r (name, term) VALUES (p_replica, (l.revision >> 32 << 32) + 1)
        ON CONFLICT (name) DO UPDATE SET term = r.term + 1, seen = clock_timestamp() RETURNING r.term INTO term;
        -- What an earlier process of this name held has lost its worker: this one has its directory.
        UPDATE operations SET until = 0, knew = false WHERE state = 3 AND holder = p_replica;
    ELSE
        -- A term of an earlier epoch is its own still: nobody else can have had it.
        UPDATE replicas r SET seen = clock_timestamp() WHERE r.name = p_replica
            AND (r.term = p_term OR began) RETURNING r.term INTO term;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'another process is replica %', p_replica USING ERRCODE = 'MS001';
        END IF;
    END IF;
    SELECT g.revision, g.floor INTO revision, floor FROM log g;
END $$;
