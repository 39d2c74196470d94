-- Sessions' messages, which are outside of the order of revisions.

-- Appends, each of them whole, for many sessions at once. p_count: how many of the messages belong to each.
CREATE FUNCTION append_1(p_session text[], p_sender smallint[], p_count int[], p_keep_messages bigint[], p_keep_bytes bigint[],
    p_id text[], p_kind text[], p_body bytea[], OUT numbers bigint[], OUT duplicates boolean[], OUT lasts bigint[])
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
DECLARE
    s sessions;
    m record;
    v_at int := 1;
    v_number bigint;
    v_before bigint;
BEGIN
    -- All of them in one order, so that two replicas cannot wait for each other.
    INSERT INTO sessions (session) SELECT DISTINCT n FROM unnest(p_session) AS n ORDER BY n
        ON CONFLICT (session) WHERE NOT dropped DO NOTHING;
    PERFORM FROM sessions WHERE session = ANY (p_session) AND NOT dropped ORDER BY session FOR UPDATE;
    FOR i IN 1 .. cardinality(p_session) LOOP
        SELECT * INTO STRICT s FROM sessions WHERE session = p_session[i] AND NOT dropped;
        v_before := s.last;
        FOR m IN SELECT * FROM unnest(p_id[v_at : v_at + p_count[i] - 1], p_kind[v_at : v_at + p_count[i] - 1],
            p_body[v_at : v_at + p_count[i] - 1]) WITH ORDINALITY AS u (id, kind, body, n) ORDER BY n
        LOOP
            INSERT INTO messages (session, number, sender, id, kind, body)
                VALUES (s.key, s.last + 1, p_sender[i], m.id, m.kind, m.body)
                ON CONFLICT (session, sender, id) DO NOTHING;
            IF FOUND THEN
                s.last := s.last + 1;
                s.bytes := s.bytes + octet_length(m.body);
                numbers := numbers || s.last; duplicates := duplicates || false;
            ELSE
                SELECT number INTO STRICT v_number FROM messages
                    WHERE session = s.key AND sender = p_sender[i] AND id = m.id;
                numbers := numbers || v_number; duplicates := duplicates || true;
            END IF;
        END LOOP;
        v_at := v_at + p_count[i];
        lasts := lasts || s.last;
        CONTINUE WHEN s.last = v_before;
        IF s.last + 1 - s.first > p_keep_messages[i] OR s.bytes > p_keep_bytes[i] THEN
            -- In strides, down to nine tenths of both bounds; the newest one stays.
            FOR m IN SELECT octet_length(body) AS size FROM messages
                WHERE session = s.key AND number >= s.first AND number < s.last ORDER BY number
            LOOP
                EXIT WHEN s.last + 1 - s.first <= p_keep_messages[i] - p_keep_messages[i] / 10
                    AND s.bytes <= p_keep_bytes[i] - p_keep_bytes[i] / 10;
                s.bytes := s.bytes - m.size;
                s.first := s.first + 1;
            END LOOP;
        END IF;
        UPDATE sessions SET first = s.first, last = s.last, bytes = s.bytes WHERE key = s.key;
    END LOOP;
END $$;

-- The newest heartbeats and cursors.
CREATE FUNCTION put_rows_1(p_session text[], p_row text[]) RETURNS void
LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
BEGIN
    INSERT INTO sessions (session, row) SELECT u.session, u.row FROM unnest(p_session, p_row) AS u (session, row)
        ORDER BY u.session ON CONFLICT (session) WHERE NOT dropped DO UPDATE SET row = excluded.row;
END $$;

CREATE FUNCTION drop_session_1(p_session text) RETURNS void LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    UPDATE sessions SET dropped = true, row = NULL WHERE session = p_session AND NOT dropped
$$;

-- A counter that is new begins above the start of the epoch: an earlier one may have known it.
CREATE FUNCTION raise_1(p_counter text) RETURNS bigint LANGUAGE sql SET search_path = mainstay, pg_temp AS $$
    SELECT stay();
    INSERT INTO counters AS c (name, value) VALUES (p_counter, (SELECT revision >> 32 << 32 FROM log) + 1)
    ON CONFLICT (name) DO UPDATE SET value = c.value + 1 RETURNING value
$$;
