-- Makes a database record what a judge has to know: every change of a lease, and every write that said under which term it
-- was made. Nothing that Mainstay does is done otherwise; only what a drill takes away is (:nobody).
SET ROLE mainstay;
SET search_path = mainstay;
CREATE TABLE drill_terms (
    n bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(), lease text, holder text,
    term bigint);
CREATE TABLE drill_writes (
    at timestamptz NOT NULL DEFAULT clock_timestamp(), lease text, term bigint, revision bigint, code smallint);
CREATE FUNCTION drill_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO mainstay.drill_terms (lease, holder, term) VALUES (NEW.name, NEW.holder, NEW.term);
    RETURN NEW;
END $$;
CREATE TRIGGER drill_note AFTER INSERT OR UPDATE OF holder, term ON leases FOR EACH ROW EXECUTE FUNCTION drill_note();
DO $do$
DECLARE v_was text := pg_get_functiondef('mainstay.write'::regproc);
BEGIN
    EXECUTE replace(v_was, 'FUNCTION mainstay.write(', 'FUNCTION mainstay.write_as_it_is(');
    EXECUTE split_part(v_was, 'AS $function$', 1) || 'AS ' || quote_literal($body$
BEGIN
    SELECT * INTO codes, revisions, previous, written FROM write_as_it_is(p_base, p_ends, p_kind, p_resource, p_namespace,
        p_name, p_expected, p_need_resource, p_need_namespace, p_need_name, p_need, FENCE, p_fence_term, p_meta, p_head,
        p_tail, p_ask);
    INSERT INTO drill_writes (lease, term, revision, code) SELECT f, t, r, c
        FROM unnest(p_fence, p_fence_term, revisions, codes) AS u (f, t, r, c) WHERE f IS NOT NULL AND c IN (0, 6);
    -- A commit that comes late.
    IF 'late' = ANY (p_name) THEN PERFORM pg_sleep(3); END IF;
END $body$);
END $do$;
