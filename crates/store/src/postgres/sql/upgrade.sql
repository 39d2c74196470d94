-- Programs of several versions at once: who is there, what each knows, and what the oldest may know.

-- oldest: what a program has to know at least. It grows only by a contraction.
ALTER TABLE schema ADD COLUMN oldest int NOT NULL DEFAULT 1;

-- knows: the schema's version that its program brings. there: it has not left by itself.
ALTER TABLE replicas ADD COLUMN knows int NOT NULL DEFAULT 1, ADD COLUMN there boolean NOT NULL DEFAULT true;

-- As enter_1, for a program that knows so much.
CREATE FUNCTION enter_2(p_replica text, p_term bigint, p_seen bigint, p_knows int,
    OUT term bigint, OUT revision bigint, OUT floor bigint, OUT began boolean)
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
BEGIN
    -- A contraction has all of the log: who comes later sees what it left.
    PERFORM FROM log FOR UPDATE;
    IF p_knows < (SELECT oldest FROM schema) THEN
        RAISE EXCEPTION 'the schema has been contracted' USING ERRCODE = 'MS004';
    END IF;
    SELECT e.term, e.revision, e.floor, e.began INTO term, revision, floor, began FROM enter_1(p_replica, p_term, p_seen) e;
    UPDATE replicas SET knows = p_knows, there = true WHERE name = p_replica;
END $$;

-- Says that a replica is there still, or that it leaves. Gives the oldest that may be, and whether the name is still its own.
CREATE FUNCTION present_2(p_replica text, p_term bigint, p_there boolean, OUT oldest int, OUT current boolean)
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
BEGIN
    UPDATE replicas SET seen = clock_timestamp(), there = p_there WHERE name = p_replica AND term = p_term;
    current := FOUND;
    SELECT s.oldest INTO oldest FROM schema s;
END $$;

-- All replicas. there: its session has its lock, or it was heard of within 30 s (behind a pooler that is all there is).
CREATE FUNCTION replicas_2() RETURNS TABLE (name text, knows int, silent_ms bigint, there boolean)
LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    SELECT r.name, r.knows, (extract(epoch FROM clock_timestamp() - r.seen) * 1000)::bigint,
        r.there AND (r.seen > clock_timestamp() - interval '30 s' OR EXISTS (SELECT FROM pg_locks k
            WHERE k.locktype = 'advisory' AND k.classid = 19795 AND k.granted
                AND k.objid = (hashtext(r.name)::bigint & 4294967295)::oid
                AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())))
    FROM replicas r ORDER BY r.name
$$;
