-- Freeing space, in small statements; any replica may call them, one at a time does something.

CREATE FUNCTION raise_floor_1(p_floor bigint) RETURNS bigint LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    UPDATE log SET floor = greatest(floor, least(p_floor, revision)) RETURNING floor
$$;

-- Makes the partitions that are needed next: batches are not to wait for whoever changes the history's form.
CREATE FUNCTION make_room_1() RETURNS void LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE l log;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('mainstay chores')) THEN RETURN; END IF;
    SELECT * INTO l FROM log;
    PERFORM add_partition(l.top, l.span);
    PERFORM add_partition(l.top + l.span, l.span);
END $$;

-- Drops the oldest partition of the history that is wholly at or below the floor; what of it is the newest of its key is
-- kept. Tells whether there was one. To drop it takes all of the history for a moment, and all who come wait meanwhile: somebody
-- who reads it for long, such as a dump, is waited for only so long.
CREATE FUNCTION compact_1() RETURNS boolean LANGUAGE plpgsql
    SET search_path = mainstay, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    v_part text;
    v_first bigint;
    l log;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('mainstay chores')) THEN RETURN false; END IF;
    SELECT * INTO l FROM log;
    SELECT substr(c.relname, 9)::bigint, c.relname INTO v_first, v_part FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'mainstay.history'::regclass ORDER BY 1 LIMIT 1;
    IF NOT FOUND OR v_first + l.span > l.floor THEN RETURN false; END IF;
    IF EXISTS (SELECT FROM pg_locks k JOIN pg_stat_activity a USING (pid)
        WHERE k.relation = 'mainstay.history'::regclass AND a.xact_start < clock_timestamp() - interval '2 s')
    THEN RETURN false; END IF;
    EXECUTE format('INSERT INTO kept AS k SELECT DISTINCT ON (resource, namespace, name) revision, resource, namespace, name,
        kind, meta, body FROM %I ORDER BY resource, namespace, name, revision DESC
        ON CONFLICT (resource, namespace, name) DO UPDATE SET revision = excluded.revision, kind = excluded.kind,
            meta = excluded.meta, body = excluded.body', v_part);
    DELETE FROM kept WHERE revision > v_first AND kind = 2;
    EXECUTE format('ALTER TABLE history DETACH PARTITION %I', v_part);
    EXECUTE format('DROP TABLE %I', v_part);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN RETURN false;
END $$;

-- Frees up to so many messages of one session that was trimmed or dropped; ids are remembered for a while behind the oldest
-- message that is there. Tells whether there was one.
CREATE FUNCTION free_messages_1(p_budget int, p_window bigint) RETURNS boolean LANGUAGE plpgsql
    SET search_path = mainstay, pg_temp AS $$
DECLARE
    s sessions;
    v_end bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('mainstay chores')) THEN RETURN false; END IF;
    SELECT * INTO s FROM sessions WHERE dropped OR purged < first ORDER BY key LIMIT 1;
    IF NOT FOUND THEN RETURN false; END IF;
    IF s.dropped THEN
        DELETE FROM messages WHERE session = s.key AND number IN
            (SELECT number FROM messages WHERE session = s.key ORDER BY number LIMIT p_budget);
        IF NOT FOUND THEN DELETE FROM sessions WHERE key = s.key; END IF;
        RETURN true;
    END IF;
    v_end := least(s.first, s.purged + p_budget);
    UPDATE messages SET body = NULL WHERE session = s.key AND number >= s.purged AND number < v_end;
    DELETE FROM messages WHERE session = s.key AND number < v_end - p_window;
    UPDATE sessions SET purged = v_end WHERE key = s.key;
    RETURN true;
END $$;

-- Nobody asks any more what came of batches so old; lanes in which there is nothing are forgotten. Batches have lanes after the
-- log: so it is here, too.
CREATE FUNCTION purge_1() RETURNS void LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    DELETE FROM batches WHERE made < clock_timestamp() - interval '1 hour';
    DELETE FROM replicas WHERE seen < clock_timestamp() - interval '30 days';
    SELECT FROM log FOR UPDATE;
    DELETE FROM lanes WHERE ready = 0 AND delayed = 0 AND blocked = 0 AND running = 0 AND dead = 0;
$$;
