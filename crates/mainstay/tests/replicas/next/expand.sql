-- What the next version might add: a table, a column to each table that every replica writes, all the time, and a trigger, so
-- that whatever an older program writes passes through what it does not know.
CREATE TABLE drill_batches (id uuid PRIMARY KEY, made timestamptz NOT NULL);
ALTER TABLE log ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE history ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE kept ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE objects ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE batches ADD COLUMN drill int;
ALTER TABLE leases ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE sessions ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE messages ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE operations ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE steps ADD COLUMN drill int NOT NULL DEFAULT 1;
ALTER TABLE lanes ADD COLUMN drill int NOT NULL DEFAULT 1;
CREATE FUNCTION drill_note() RETURNS trigger LANGUAGE plpgsql SET search_path = mainstay, pg_temp AS $$
BEGIN
    INSERT INTO drill_batches VALUES (NEW.id, NEW.made);
    RETURN NULL;
END $$;
CREATE TRIGGER drill_note AFTER INSERT ON batches FOR EACH ROW EXECUTE FUNCTION drill_note();
