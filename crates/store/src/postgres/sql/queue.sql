-- The queue of operations, row by row: what `sqlite/operations/` does. All of it runs under the lock of the log.
--
-- A row that is asked for is looked up by its uid alone, and judged then: a condition beside it, such as its state, might have
-- the planner go by another index, through all that are, or were, in that state.

-- One more way an attempt ended; at most ten are remembered.
CREATE FUNCTION noted(notes jsonb, note jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$
    SELECT CASE WHEN note IS NULL THEN notes
                WHEN jsonb_array_length(notes) >= 10 THEN (notes - 0) || note ELSE notes || note END
$$;

-- An operation of the lane has come (from NULL), changed its state, or gone (to NULL).
CREATE FUNCTION lane_move(p_lane text, p_from smallint, p_to smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lanes AS l (lane, ready, delayed, blocked, running, dead, turn)
    VALUES (p_lane, (p_to IS NOT DISTINCT FROM 0)::int, (p_to IS NOT DISTINCT FROM 1)::int, (p_to IS NOT DISTINCT FROM 2)::int,
        (p_to IS NOT DISTINCT FROM 3)::int, (p_to IS NOT DISTINCT FROM 6)::int, nextval('turns'))
    ON CONFLICT (lane) DO UPDATE SET
        ready = l.ready + (p_to IS NOT DISTINCT FROM 0)::int - (p_from IS NOT DISTINCT FROM 0)::int,
        delayed = l.delayed + (p_to IS NOT DISTINCT FROM 1)::int - (p_from IS NOT DISTINCT FROM 1)::int,
        blocked = l.blocked + (p_to IS NOT DISTINCT FROM 2)::int - (p_from IS NOT DISTINCT FROM 2)::int,
        running = l.running + (p_to IS NOT DISTINCT FROM 3)::int - (p_from IS NOT DISTINCT FROM 3)::int,
        dead = l.dead + (p_to IS NOT DISTINCT FROM 6)::int - (p_from IS NOT DISTINCT FROM 6)::int,
        turn = CASE WHEN p_to = 3 OR (p_to = 0 AND l.ready = 0) THEN excluded.turn ELSE l.turn END;
END $$;

-- Brings a row to a state and stores it. Whoever waits for its key may be ready then.
CREATE FUNCTION shift(q operations, p_to smallint, p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_from smallint := q.state;
BEGIN
    UPDATE operations SET state = p_to, key = q.key, run_at = q.run_at, cancelled = q.cancelled, replays = q.replays,
        attempt = q.attempt, failures = q.failures, lost = q.lost, started = q.started, undoing = q.undoing,
        notes = q.notes, ready = CASE WHEN p_to = 0 AND v_from <> 0 THEN p_wall ELSE q.ready END, holder = q.holder,
        until = q.until, knew = q.knew
    WHERE seq = q.seq;
    PERFORM lane_move(q.lane, v_from, p_to);
    IF v_from IN (0, 3) AND p_to NOT IN (0, 3) THEN PERFORM pass_on(q.lane, q.key, p_wall); END IF;
END $$;

-- A key has become free: the next that waits for it is ready.
CREATE FUNCTION pass_on(p_lane text, p_key text, p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE q operations;
BEGIN
    IF p_key IS NULL THEN RETURN; END IF;
    SELECT * INTO q FROM operations WHERE lane = p_lane AND key = p_key AND state = 2 ORDER BY priority DESC, seq LIMIT 1;
    IF FOUND THEN PERFORM shift(q, 0::smallint, p_wall); END IF;
END $$;

-- Ready, or blocked when another has the key.
CREATE FUNCTION now_due(q operations) RETURNS smallint LANGUAGE sql AS $$
    SELECT (/*concurrency-key*/ CASE WHEN q.key IS NOT NULL AND EXISTS (SELECT FROM operations o WHERE o.lane = q.lane
        AND o.key = q.key AND o.state IN (0, 3) AND o.key IS NOT NULL AND o.seq <> q.seq) THEN 2 ELSE /*.*/ 0
        /*concurrency-key*/ END /*.*/)::smallint
$$;

-- The operation is gone, and so is its holder's claim to it.
CREATE FUNCTION forget(q operations, p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM steps WHERE operation = q.seq;
    DELETE FROM operations WHERE seq = q.seq;
    PERFORM lane_move(q.lane, q.state, NULL);
    IF q.state IN (0, 3) THEN PERFORM pass_on(q.lane, q.key, p_wall); END IF;
END $$;

-- The row follows a write of its object.
CREATE FUNCTION follow(p_kind smallint, p_revision bigint, p_namespace text, p_name text, told jsonb, p_wall bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    q operations;
    had operations;
BEGIN
    SELECT * INTO q FROM operations WHERE uid = told->>'uid';
    IF p_kind = 2 THEN
        IF FOUND THEN PERFORM forget(q, p_wall); END IF;
        RETURN;
    END IF;
    IF told->'lane' IS NULL THEN RETURN; END IF;
    IF NOT FOUND THEN PERFORM enqueue(p_revision, p_namespace, p_name, told, p_wall); RETURN; END IF;
    IF (told->>'replays')::int > q.replays THEN
        q.replays := (told->>'replays')::int;
        IF q.state = 6 THEN
            q.failures := 0; q.lost := 0; q.undoing := NULL; q.cancelled := (told->>'cancelled')::boolean;
            q.key := told->>'key';
            PERFORM shift(q, now_due(q), p_wall);
            SELECT * INTO q FROM operations WHERE seq = q.seq;
        ELSE
            UPDATE operations SET replays = q.replays WHERE seq = q.seq;
        END IF;
    END IF;
    IF (told->>'cancelled')::boolean AND NOT q.cancelled THEN
        q.cancelled := true;
        IF q.state IN (0, 1, 2) AND q.attempt = 0 THEN
            -- What has not begun has nothing to undo, and needs no key to end.
            had := q; q.key := NULL;
            PERFORM shift(q, 0::smallint, p_wall);
            IF had.state = 0 THEN PERFORM pass_on(had.lane, had.key, p_wall); END IF;
        ELSIF q.state = 1 THEN
            PERFORM shift(q, now_due(q), p_wall);
        ELSE
            UPDATE operations SET cancelled = true WHERE seq = q.seq;
        END IF;
    END IF;
END $$;

CREATE FUNCTION enqueue(p_revision bigint, p_namespace text, p_name text, told jsonb, p_wall bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE q operations;
BEGIN
    q.seq := p_revision; q.uid := told->>'uid'; q.namespace := p_namespace; q.name := p_name; q.lane := told->>'lane';
    q.cancelled := (told->>'cancelled')::boolean; q.run_at := (told->>'runAt')::bigint;
    q.key := CASE WHEN q.cancelled THEN NULL ELSE told->>'key' END;
    q.state := CASE WHEN q.cancelled OR q.run_at <= 0 THEN now_due(q) ELSE 1 END;
    INSERT INTO operations (seq, uid, namespace, name, lane, handler, priority, key, created, state, run_at, cancelled,
        replays, ready)
    VALUES (q.seq, q.uid, q.namespace, q.name, q.lane, told->>'handler', (told->>'priority')::int, q.key,
        (told->>'created')::bigint, q.state, q.run_at, q.cancelled, (told->>'replays')::int,
        CASE WHEN q.state = 0 THEN p_wall ELSE 0 END);
    PERFORM lane_move(q.lane, NULL, q.state);
END $$;

-- Those that are due at once and have no key, many at a time.
CREATE FUNCTION enqueue_plain(p_revisions bigint[], p_namespaces text[], p_names text[], p_told jsonb[], p_wall bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH fresh AS (
        INSERT INTO operations (seq, uid, namespace, name, lane, handler, priority, created, state, run_at, cancelled,
            replays, ready)
        SELECT r.revision, r.told->>'uid', r.namespace, r.name, r.told->>'lane', r.told->>'handler',
            (r.told->>'priority')::int, (r.told->>'created')::bigint, 0, (r.told->>'runAt')::bigint,
            (r.told->>'cancelled')::boolean, (r.told->>'replays')::int, p_wall
        FROM unnest(p_revisions, p_namespaces, p_names, p_told) AS r (revision, namespace, name, told)
        WHERE r.revision IS NOT NULL
        RETURNING lane, seq
    ), counted AS (SELECT lane, count(*) AS n FROM fresh GROUP BY lane ORDER BY min(seq)
    )
    INSERT INTO lanes AS l (lane, ready, delayed, blocked, running, dead, turn)
    SELECT lane, n, 0, 0, 0, 0, nextval('turns') FROM counted
    ON CONFLICT (lane) DO UPDATE SET ready = l.ready + excluded.ready,
        turn = CASE WHEN l.ready = 0 THEN excluded.turn ELSE l.turn END;
END $$;

-- There will be another attempt, or there is to be none without anybody saying so (bury). Tells whether the attempt is held.
CREATE FUNCTION put_off(ask jsonb, p_wall bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q operations;
    v_how text := ask->>'how';
BEGIN
    SELECT * INTO q FROM operations WHERE uid = ask->>'uid';
    IF (q.seq IS NOT NULL /*attempt*/ AND q.state = 3 AND q.attempt = (ask->>'attempt')::bigint /*.*/) IS NOT TRUE THEN
        RETURN false;
    END IF;
    IF v_how IN ('retry', 'bury') THEN
        q.failures := q.failures + 1;
        q.notes := noted(q.notes, ask->'note');
    END IF;
    q.until := 0;
    IF v_how = 'bury' THEN PERFORM shift(q, 6::smallint, p_wall); RETURN true; END IF;
    q.undoing := coalesce(nullif(ask->'undoing', 'null'), q.undoing);
    IF v_how <> 'unbegun' THEN q.lost := 0; END IF;
    -- A cancellation does not wait for a time that was chosen by an attempt that began without knowing of it.
    q.run_at := CASE WHEN q.cancelled AND NOT q.knew THEN 0
        WHEN ask->'inMs' IS NOT NULL THEN p_wall + (ask->>'inMs')::bigint ELSE (ask->>'runAt')::bigint END;
    PERFORM shift(q, 1::smallint, p_wall);
    RETURN true;
END $$;

-- How attempts ended whose objects say so (kind: what was written of the object; code: 7 when the end does not count).
CREATE FUNCTION finish(p_kinds smallint[], p_codes smallint[], p_asks jsonb[], p_wall bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v record;
    q operations;
BEGIN
    WITH ended AS (
        UPDATE operations o SET state = (e.ask->>'state')::smallint, until = 0,
            failures = o.failures + (e.ask->'note' IS NOT NULL)::int, notes = noted(o.notes, e.ask->'note')
        FROM unnest(p_kinds, p_codes, p_asks) AS e (kind, code, ask)
        WHERE e.code = 0 AND e.kind <> 2 AND o.uid = e.ask->>'uid' AND o.key IS NULL
        RETURNING o.lane, o.state
    ), counted AS (SELECT lane, count(*) AS n, count(*) FILTER (WHERE state = 6) AS dead FROM ended GROUP BY lane)
    UPDATE lanes l SET running = l.running - c.n, dead = l.dead + c.dead FROM counted c WHERE l.lane = c.lane;
    FOR v IN SELECT e.*, o.key FROM unnest(p_kinds, p_codes, p_asks) WITH ORDINALITY AS e (kind, code, ask, n)
        JOIN operations o ON o.uid = e.ask->>'uid'
        WHERE e.code = 7 OR (e.code = 0 AND (e.kind = 2 OR o.key IS NOT NULL)) ORDER BY e.n
    LOOP
        SELECT * INTO q FROM operations WHERE uid = v.ask->>'uid';
        IF v.code = 7 THEN
            PERFORM put_off(v.ask || jsonb_build_object('runAt', 0, 'how',
                CASE WHEN v.ask->'note' IS NULL THEN 'later' ELSE 'retry' END), p_wall);
        ELSIF v.kind = 2 THEN
            PERFORM forget(q, p_wall);
        ELSE
            q.failures := q.failures + (v.ask->'note' IS NOT NULL)::int;
            q.notes := noted(q.notes, v.ask->'note');
            q.until := 0;
            PERFORM shift(q, (v.ask->>'state')::smallint, p_wall);
        END IF;
    END LOOP;
END $$;

-- Enters steps, each of another operation; tells of each whether its attempt is held.
CREATE FUNCTION journal(p_asks jsonb[], p_now bigint) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE v_held boolean[];
BEGIN
    WITH ask AS (
        SELECT a.n, a.ask, o.attempt, o.lost,
            CASE WHEN o.seq IS NOT NULL /*attempt*/ AND o.state = 3 AND o.attempt = (a.ask->>'attempt')::bigint
                AND o.until > p_now /*.*/ THEN o.seq END AS seq
        FROM unnest(p_asks) WITH ORDINALITY AS a (ask, n) LEFT JOIN operations o ON o.uid = a.ask->>'uid'
    ), entered AS (
        INSERT INTO steps (operation, step, place, state, attempt, output)
        SELECT seq, ask->>'step', (SELECT count(*) FROM steps s WHERE s.operation = seq), (ask->>'state')::smallint,
            attempt, ask->>'output'
        FROM ask WHERE seq IS NOT NULL
        ON CONFLICT (operation, step) DO UPDATE SET state = excluded.state, attempt = excluded.attempt,
            output = excluded.output
    ), found AS (
        UPDATE operations o SET lost = 0 FROM ask
        WHERE o.seq = ask.seq AND ask.lost > 0 AND (ask.ask->>'state')::int IN (1, 3)
    )
    SELECT array_agg(seq IS NOT NULL ORDER BY n) INTO v_held FROM ask;
    RETURN v_held;
END $$;

-- How many of a lane may run: as many as it may have of this replica's workers and of each other's that carries something out.
CREATE FUNCTION lane_limit(p_per_lane int, p_replica text) RETURNS int STABLE LANGUAGE sql AS $$
    SELECT p_per_lane * (1 + count(DISTINCT holder) FILTER (WHERE holder <> p_replica))::int FROM operations WHERE state = 3
$$;

-- Whether a claim would find, or change, anything; `p_per_lane`: as in `take`, NULL for whoever does not know it.
CREATE FUNCTION is_claimable(p_now bigint, p_wall bigint, p_per_lane int) RETURNS boolean STABLE LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM lanes WHERE ready > 0 AND running < coalesce(p_per_lane, running + 1))
        OR EXISTS (SELECT FROM operations WHERE state = 1 AND run_at <= p_wall)
        OR EXISTS (SELECT FROM operations WHERE state = 3 AND until <= p_now)
        OR p_wall <= (SELECT wall FROM log) - 1000
$$;

-- The workers of attempts that were not renewed are lost: others may take them up. Gives how many.
CREATE FUNCTION put_back(p_now bigint, p_wall bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE v_lost int;
BEGIN
    WITH lost AS (
        UPDATE operations o SET state = 0, ready = p_wall, lost = o.lost + 1, until = 0, notes = noted(o.notes,
            jsonb_build_object('attempt', o.attempt, 'startedMs', o.started, 'endedMs', p_wall, 'reason', 'Lost',
                'message', 'its worker was not heard of in time'))
        WHERE state = 3 AND until <= p_now
        RETURNING lane, uid
    ), counted AS (SELECT lane, count(*) AS n FROM lost GROUP BY lane ORDER BY min(uid)
    ), turned AS (SELECT lane, n, nextval('turns') AS turn FROM counted
    ), moved AS (
        UPDATE lanes l SET running = l.running - t.n, ready = l.ready + t.n,
            turn = CASE WHEN l.ready = 0 THEN t.turn ELSE l.turn END
        FROM turned t WHERE l.lane = t.lane
    )
    SELECT count(*) INTO v_lost FROM lost;
    RETURN v_lost;
END $$;

-- What is due can be claimed. The next claim goes on where this one stops.
CREATE FUNCTION promote(p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE q operations;
BEGIN
    FOR q IN SELECT * FROM operations WHERE state = 1 AND run_at <= p_wall ORDER BY run_at, seq LIMIT 256 LOOP
        PERFORM shift(q, now_due(q), p_wall);
    END LOOP;
END $$;

-- A clock that was set back makes nobody wait that much longer for a further attempt. What users wrote (`runAt`) stays.
CREATE FUNCTION heed_clock(p_wall bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v_before bigint;
BEGIN
    SELECT wall INTO v_before FROM log;
    IF p_wall <= v_before - 1000 THEN
        UPDATE operations SET run_at = run_at - (v_before - p_wall) WHERE state = 1 AND attempt > 0;
    END IF;
    IF p_wall > v_before OR p_wall <= v_before - 1000 THEN UPDATE log SET wall = p_wall; END IF;
END $$;

-- The lane that has the fewest running goes first, then the one that waits longest; in it the highest priority, then the
-- oldest. Of lanes that are served in turns, those that began with more running come first in each round.
CREATE FUNCTION take(p_limit int, p_per_lane int, p_lease bigint, p_replica text, p_now bigint, p_wall bigint,
    OUT claimed text[], OUT attempts bigint[]) LANGUAGE plpgsql AS $$
BEGIN
    WITH lane AS (
        SELECT l.lane, l.running, l.turn FROM lanes l WHERE l.ready > 0 AND l.running < p_per_lane
        ORDER BY l.running, l.turn LIMIT p_limit
    ), candidate AS (
        SELECT o.seq, l.lane, l.running + row_number() OVER (PARTITION BY l.lane ORDER BY o.priority DESC, o.seq) - 1 AS round,
            l.running, l.turn
        FROM lane l CROSS JOIN LATERAL (
            SELECT c.seq, c.priority FROM operations c WHERE c.lane = l.lane AND c.state = 0
            ORDER BY c.priority DESC, c.seq LIMIT least(p_limit, p_per_lane - l.running)) o
    ), chosen AS (
        SELECT seq, lane, nextval('turns') AS turn FROM (
            SELECT seq, lane FROM candidate ORDER BY round, running DESC, turn LIMIT p_limit) c
    ), begun AS (
        UPDATE operations o SET state = 3, attempt = o.attempt + 1, started = p_wall, holder = p_replica,
            until = p_now + p_lease, knew = o.cancelled
        FROM chosen c WHERE o.seq = c.seq RETURNING o.uid, o.attempt, c.turn
    ), moved AS (
        UPDATE lanes l SET ready = l.ready - t.n, running = l.running + t.n, turn = t.turn
        FROM (SELECT lane, count(*) AS n, max(turn) AS turn FROM chosen GROUP BY lane) t WHERE l.lane = t.lane
    )
    SELECT coalesce(array_agg(uid ORDER BY turn), '{}'), coalesce(array_agg(attempt ORDER BY turn), '{}')
    INTO claimed, attempts FROM begun;
END $$;

-- Holds attempts for another lease. Of each: 0 held, 1 held and cancelled, 2 lost, 3 locked by a batch in this moment.
CREATE FUNCTION renew_1(p_uid text[], p_attempt bigint[], p_lease bigint, p_now bigint) RETURNS smallint[]
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE
    v_now bigint := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
    v_codes smallint[];
BEGIN
    WITH ask AS (
        SELECT a.n, a.attempt, CASE WHEN o.state = 3 AND o.attempt = a.attempt AND o.until > v_now THEN o.seq END AS seq
        FROM unnest(p_uid, p_attempt) WITH ORDINALITY AS a (uid, attempt, n) LEFT JOIN operations o ON o.uid = a.uid
    ), free AS (
        SELECT seq FROM operations WHERE seq IN (SELECT seq FROM ask) FOR UPDATE SKIP LOCKED
    ), renewed AS (
        UPDATE operations o SET until = v_now + p_lease FROM free f JOIN ask a ON a.seq = f.seq
        WHERE o.seq = f.seq AND o.state = 3 AND o.attempt = a.attempt AND o.until > v_now RETURNING o.seq, o.cancelled
    )
    SELECT array_agg(CASE WHEN a.seq IS NULL THEN 2 WHEN r.seq IS NULL THEN 3 ELSE r.cancelled::int END::smallint ORDER BY a.n)
    INTO v_codes FROM ask a LEFT JOIN renewed r ON r.seq = a.seq;
    RETURN coalesce(v_codes, '{}');
END $$;

-- Whether something can be claimed now.
CREATE FUNCTION lookout_1() RETURNS boolean STABLE LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    SELECT is_claimable((extract(epoch FROM clock_timestamp()) * 1000)::bigint,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint, NULL)
$$;
