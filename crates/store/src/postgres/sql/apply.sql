-- One batch: the one statement that writes objects and operations.
--
-- It locks the log first, so batches are in one order, which is that of their revisions, and cannot deadlock. All it
-- does, it does in the server: no lock waits for a client, and its answer is small.

-- There is a partition of the history for so many revisions from the next on. Whoever reads, writes or dumps the history goes
-- on meanwhile: only those wait who change its form. (CREATE TABLE .. PARTITION OF would wait for everybody.)
CREATE FUNCTION add_partition(p_after bigint, p_span bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_part text := 'history_' || p_after;
BEGIN
    IF to_regclass(v_part) IS NOT NULL THEN RETURN; END IF;
    LOCK TABLE history IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass(v_part) IS NOT NULL THEN RETURN; END IF;
    EXECUTE format('CREATE TABLE %I (LIKE history INCLUDING ALL)', v_part);
    EXECUTE format('ALTER TABLE history ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        v_part, p_after + 1, p_after + p_span + 1);
END $$;

-- There are partitions up to the revision. Mostly they have been made before (`make_room_1`).
CREATE FUNCTION make_room(p_revision bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE l log;
BEGIN
    SELECT * INTO l FROM log;
    WHILE l.top < p_revision LOOP
        PERFORM add_partition(l.top, l.span);
        l.top := l.top + l.span;
        UPDATE log SET top = l.top;
    END LOOP;
END $$;

-- Whether what is given for a write holds. requires: another object at a revision. noneSince: of the resource nothing was
-- created in the namespace above a revision; below the floor that is not known. STABLE: it sees what the statement sees that
-- asks, not what that has begun to write.
CREATE FUNCTION meets(p_resource text, p_namespace text, p_given jsonb) RETURNS boolean STABLE LANGUAGE plpgsql AS $$
DECLARE
    v_need jsonb := nullif(p_given->'requires', 'null');
    v_since bigint := (p_given->>'noneSince')::bigint;
BEGIN
    IF v_need IS NOT NULL AND NOT EXISTS (SELECT FROM objects WHERE resource = v_need->>'resource'
        AND namespace = v_need->>'namespace' AND name = v_need->>'name' AND revision = (v_need->>'revision')::bigint)
    THEN RETURN false; END IF;
    RETURN v_since IS NULL OR (v_since >= (SELECT floor FROM log) AND NOT EXISTS (SELECT FROM history
        WHERE revision > v_since AND resource = p_resource AND namespace = p_namespace AND kind = 0));
END $$;

-- Checks and makes writes of which no two concern one object. Codes: 0 written, 1 exists, 2 missing, 3 conflict, 4 unmet,
-- 5 not the current attempt, 6 not the leader, 7 the end does not count, 8 what is given besides does not hold.
CREATE FUNCTION write(p_base bigint, p_ends boolean, p_kind smallint[], p_resource text[], p_namespace text[], p_name text[],
    p_expected bigint[], p_need_resource text[], p_need_namespace text[], p_need_name text[], p_need bigint[],
    p_fence text[], p_fence_term bigint[], p_meta text[], p_head bytea[], p_tail bytea[], p_ask jsonb[],
    OUT codes smallint[], OUT revisions bigint[], OUT previous bigint[], OUT written bigint) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    WITH item AS (
        SELECT * FROM unnest(p_kind, p_resource, p_namespace, p_name, p_expected, p_need_resource, p_need_namespace,
            p_need_name, p_need, p_fence, p_fence_term, p_meta, p_head, p_tail, p_ask) WITH ORDINALITY
            AS a (kind, resource, namespace, name, expected, need_resource, need_namespace, need_name, need, fence,
                fence_term, meta, head, tail, ask, n)
    ), judged AS (
        SELECT i.*, o.revision AS current, CASE
            WHEN i.fence IS NOT NULL AND l.term IS DISTINCT FROM i.fence_term THEN 6
            WHEN p_ends AND (q.seq IS NOT NULL
                /*attempt*/ AND q.state = 3 AND q.attempt = (i.ask->>'attempt')::bigint /*.*/) IS NOT TRUE THEN 5
            WHEN p_ends AND (i.ask->>'state')::int NOT IN (4, 5) AND q.cancelled AND NOT q.knew AND q.undoing IS NULL THEN 7
            WHEN p_ends AND (q.namespace <> i.namespace OR q.name <> i.name) THEN 2
            WHEN (i.ask ? 'given') IS TRUE AND NOT meets(i.resource, i.namespace, i.ask->'given') THEN 8
            WHEN i.need IS NOT NULL AND r.revision IS DISTINCT FROM i.need THEN 4
            WHEN i.kind = 0 AND o.revision IS NOT NULL THEN 1
            WHEN i.kind > 0 AND o.revision IS NULL THEN 2
            WHEN i.kind > 0 AND o.revision <> i.expected THEN 3
            ELSE 0 END::smallint AS code
        FROM item i
        LEFT JOIN objects o ON o.resource = i.resource AND o.namespace = i.namespace AND o.name = i.name
        LEFT JOIN objects r ON r.resource = i.need_resource AND r.namespace = i.need_namespace AND r.name = i.need_name
        LEFT JOIN leases l ON l.name = i.fence
        LEFT JOIN operations q ON p_ends AND q.uid = i.ask->>'uid'
    ), numbered AS (
        SELECT *, CASE WHEN code = 0 THEN p_base + count(*) FILTER (WHERE code = 0) OVER (ORDER BY n) END AS revision FROM judged
    ), recorded AS (
        INSERT INTO history (revision, resource, namespace, name, kind, meta, body)
        SELECT revision, resource, namespace, name, kind, meta, head || convert_to(revision::text, 'UTF8') || tail
        FROM numbered WHERE code = 0
    ), created AS (
        INSERT INTO objects (resource, namespace, name, revision)
        SELECT resource, namespace, name, revision FROM numbered WHERE code = 0 AND kind = 0
    ), updated AS (
        UPDATE objects o SET revision = i.revision FROM numbered i WHERE i.code = 0 AND i.kind = 1
            AND o.resource = i.resource AND o.namespace = i.namespace AND o.name = i.name
    ), deleted AS (
        DELETE FROM objects o USING numbered i WHERE i.code = 0 AND i.kind = 2
            AND o.resource = i.resource AND o.namespace = i.namespace AND o.name = i.name
    )
    SELECT array_agg(code ORDER BY n), array_agg(revision ORDER BY n), array_agg(current ORDER BY n),
        count(*) FILTER (WHERE code = 0)
    INTO codes, revisions, previous, written FROM numbered;
END $$;

-- p_segments: of each three numbers, what its items are (1 writes; 2 new operations without key that are due; 3 other
-- writes of operations; 4 ends; 5 attempts put off; 6 journal; 7 a claim, the last of all), the first, and the last.
-- p_now: the clock of leases, p_wall: that of what is due; NULL for this database's.
-- A session that a pooler lends is set to nothing: plans are to go by the index there, too (`link.rs` says why), and what that
-- makes look costly is not to be compiled to machine code.
CREATE FUNCTION apply_1(p_batch uuid, p_replica text, p_replica_term bigint, p_now bigint, p_wall bigint, p_segments int[],
    p_kind smallint[], p_resource text[], p_namespace text[], p_name text[], p_expected bigint[],
    p_need_resource text[], p_need_namespace text[], p_need_name text[], p_need bigint[], p_fence text[],
    p_fence_term bigint[], p_meta text[], p_head bytea[], p_tail bytea[], p_ask jsonb[])
RETURNS batches LANGUAGE plpgsql SET search_path = mainstay, pg_temp SET jit = off SET enable_seqscan = off
    SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    b batches;
    l log;
    w record;
    a int;
    z int;
    v_type int;
    v_now bigint := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    v_wall bigint := coalesce(p_wall, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    v_claim jsonb;
    v_per_lane int;
    v_held boolean[];
    v_told boolean := false;
BEGIN
    b.claimed := '{}'; b.attempts := '{}'; b.codes := '{}'; b.revisions := '{}'; b.previous := '{}';
    b.id := p_batch; b.made := clock_timestamp(); b.void := false; b.lost := 0; b.woken := false;
    -- A claim that finds nothing is only a read.
    IF p_segments[1] = 7 AND NOT is_claimable(v_now, v_wall, lane_limit((p_ask[1]->>'perLane')::int, p_replica)) THEN
        SELECT revision INTO b.base FROM log;
        b.codes := '{0}'; b.revisions := '{NULL}'; b.previous := '{NULL}';
        SELECT * INTO b.next_due, b.next_expiry FROM look_ahead(v_now);
        RETURN b;
    END IF;
    SELECT * INTO l FROM log /*log-lock*/ FOR UPDATE /*.*/;
    -- Whoever waited for the lock has a later view from here on.
    SELECT * INTO w FROM batches WHERE id = p_batch;
    IF FOUND THEN RAISE EXCEPTION 'batch % was settled before it came', p_batch USING ERRCODE = 'MS002'; END IF;
    IF NOT EXISTS (SELECT FROM replicas WHERE name = p_replica AND term = p_replica_term) THEN
        RAISE EXCEPTION 'another process is replica %', p_replica USING ERRCODE = 'MS001';
    END IF;
    /*place*/ IF l.place <> this_place() THEN PERFORM moved(); END IF; /*.*/
    b.base := l.revision;
    IF l.revision + cardinality(p_kind) > l.top THEN PERFORM make_room(l.revision + cardinality(p_kind)); END IF;
    FOR s IN 1 .. cardinality(p_segments) BY 3 LOOP
        v_type := p_segments[s]; a := p_segments[s + 1]; z := p_segments[s + 2];
        IF v_type <= 4 THEN
            SELECT * INTO w FROM write(l.revision, v_type = 4, p_kind[a:z], p_resource[a:z], p_namespace[a:z], p_name[a:z],
                p_expected[a:z], p_need_resource[a:z], p_need_namespace[a:z], p_need_name[a:z], p_need[a:z], p_fence[a:z],
                p_fence_term[a:z], p_meta[a:z], p_head[a:z], p_tail[a:z], p_ask[a:z]);
            l.revision := l.revision + w.written;
            b.codes := b.codes || w.codes; b.revisions := b.revisions || w.revisions; b.previous := b.previous || w.previous;
            IF v_type = 2 THEN
                PERFORM enqueue_plain(w.revisions, p_namespace[a:z], p_name[a:z], p_ask[a:z], v_wall);
            ELSIF v_type = 3 THEN
                FOR i IN a .. z LOOP
                    IF w.codes[i - a + 1] = 0 THEN
                        PERFORM follow(p_kind[i], w.revisions[i - a + 1], p_namespace[i], p_name[i], p_ask[i], v_wall);
                    END IF;
                END LOOP;
            ELSIF v_type = 4 THEN
                PERFORM finish(p_kind[a:z], w.codes, p_ask[a:z], v_wall);
            END IF;
            b.woken := b.woken OR v_type > 1;
            v_told := v_told OR v_type = 3;
        ELSIF v_type = 5 THEN
            FOR i IN a .. z LOOP
                b.codes := b.codes || CASE WHEN put_off(p_ask[i], v_wall) THEN 0 ELSE 5 END::smallint;
                b.revisions := b.revisions || NULL::bigint; b.previous := b.previous || NULL::bigint;
            END LOOP;
            b.woken := true; v_told := true;
        ELSIF v_type = 6 THEN
            v_held := journal(p_ask[a:z], v_now);
            FOR i IN a .. z LOOP
                b.codes := b.codes || CASE WHEN v_held[i - a + 1] THEN 0 ELSE 5 END::smallint;
                b.revisions := b.revisions || NULL::bigint; b.previous := b.previous || NULL::bigint;
            END LOOP;
        ELSE
            v_claim := p_ask[a];
            v_per_lane := lane_limit((v_claim->>'perLane')::int, p_replica);
            IF is_claimable(v_now, v_wall, v_per_lane) THEN
                b.lost := put_back(v_now, v_wall);
                PERFORM heed_clock(v_wall);
                PERFORM promote(v_wall);
                SELECT * INTO b.claimed, b.attempts FROM take((v_claim->>'limit')::int, v_per_lane,
                    (v_claim->>'leaseMs')::bigint, p_replica, v_now, v_wall);
            END IF;
            b.codes := b.codes || 0::smallint;
            b.revisions := b.revisions || NULL::bigint; b.previous := b.previous || NULL::bigint;
            -- With places left, this claim, which is the last of the batch, had whatever the others made ready; those whose
            -- operations were cancelled, or are due later, are to be told all the same.
            b.woken := (b.woken AND v_told) OR cardinality(b.claimed) = (v_claim->>'limit')::int;
            SELECT * INTO b.next_due, b.next_expiry FROM look_ahead(v_now);
        END IF;
    END LOOP;
    IF l.revision > b.base THEN UPDATE log SET revision = l.revision; END IF;
    INSERT INTO batches SELECT b.*;
    RETURN b;
END $$;

-- When the next operation is due, and in how many milliseconds the first lease expires.
CREATE FUNCTION look_ahead(p_now bigint, OUT next_due bigint, OUT next_expiry bigint) STABLE LANGUAGE sql AS $$
    SELECT (SELECT run_at FROM operations WHERE state = 1 ORDER BY run_at, seq LIMIT 1),
        (SELECT min(until) - p_now FROM operations WHERE state = 3 AND until > p_now)
$$;

-- What came of a batch whose answer was lost. One that is not there yet will never be.
CREATE FUNCTION settle_1(p_batch uuid) RETURNS batches LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE b batches;
BEGIN
    PERFORM FROM log FOR UPDATE;
    PERFORM stay();
    INSERT INTO batches (id, void) VALUES (p_batch, true) ON CONFLICT (id) DO NOTHING;
    SELECT * INTO b FROM batches WHERE id = p_batch;
    RETURN b;
END $$;
