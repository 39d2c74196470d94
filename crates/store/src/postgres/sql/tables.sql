-- Tables. Revisions, times (milliseconds since 1970) and numbers are what they are in `sqlite/schema.rs`, unless said otherwise.

-- One row, which every batch of writes locks first. `top`: up to which revision the history has partitions for sure, each of
-- `span` revisions. `place`: which database this is; another one is another epoch. `wall`: the clock at the newest claim.
-- `line`: what all copies and restorations of it have in common.
CREATE TABLE log (
    id int PRIMARY KEY CHECK (id = 1), revision bigint NOT NULL, floor bigint NOT NULL, top bigint NOT NULL,
    span bigint NOT NULL, place text NOT NULL, wall bigint NOT NULL, line uuid NOT NULL DEFAULT gen_random_uuid())
    WITH (fillfactor = 10);

-- Every retained change, and what of older ones is still needed: the newest version of each key at or below the floor.
-- kind: 0 created, 1 updated, 2 deleted.
CREATE TABLE history (
    revision bigint NOT NULL, resource text COLLATE "C" NOT NULL, namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL, kind smallint NOT NULL, meta text NOT NULL, body bytea NOT NULL,
    PRIMARY KEY (revision)) PARTITION BY RANGE (revision);
CREATE INDEX history_of_key ON history (resource, namespace, name, revision DESC);
CREATE TABLE kept (
    revision bigint NOT NULL, resource text COLLATE "C" NOT NULL, namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL, kind smallint NOT NULL, meta text NOT NULL, body bytea NOT NULL,
    PRIMARY KEY (resource, namespace, name));
CREATE UNIQUE INDEX kept_by_revision ON kept (revision);
CREATE VIEW versions AS SELECT * FROM history UNION ALL SELECT * FROM kept;

-- The current objects: which version each is.
CREATE TABLE objects (
    resource text COLLATE "C" NOT NULL, namespace text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
    revision bigint NOT NULL, PRIMARY KEY (resource, namespace, name)) WITH (fillfactor = 80);

-- What came of a batch, so that whoever lost the connection finds out. One that is `void` never was, and never will be.
CREATE TABLE batches (
    id uuid PRIMARY KEY, made timestamptz NOT NULL DEFAULT clock_timestamp(), void boolean NOT NULL DEFAULT false,
    base bigint, codes smallint[], revisions bigint[], previous bigint[], claimed text[], attempts bigint[],
    lost int, woken boolean, next_due bigint, next_expiry bigint);
CREATE INDEX batches_by_age ON batches (made);

-- Who writes. Of two processes with one name the later has the higher term; what the earlier sends is refused.
CREATE TABLE replicas (name text PRIMARY KEY, term bigint NOT NULL, seen timestamptz NOT NULL DEFAULT clock_timestamp());

-- Who leads, in which term; renewed: by this database's clock. `backend`: the session that has the lock.
CREATE TABLE leases (
    name text PRIMARY KEY, holder text NOT NULL, term bigint NOT NULL, renewed bigint NOT NULL, backend int)
    WITH (fillfactor = 50);

CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);

-- Sessions and their messages.
CREATE TABLE sessions (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session text NOT NULL, dropped boolean NOT NULL DEFAULT false,
    first bigint NOT NULL DEFAULT 1, last bigint NOT NULL DEFAULT 0, purged bigint NOT NULL DEFAULT 1,
    bytes bigint NOT NULL DEFAULT 0, row text) WITH (fillfactor = 70);
CREATE UNIQUE INDEX session_by_uid ON sessions (session) WHERE NOT dropped;
CREATE INDEX session_with_chore ON sessions (key) WHERE dropped OR purged < first;
CREATE TABLE messages (
    session bigint NOT NULL, number bigint NOT NULL, sender smallint NOT NULL, id text NOT NULL, kind text NOT NULL,
    body bytea, PRIMARY KEY (session, number));
CREATE UNIQUE INDEX message_by_id ON messages (session, sender, id);

-- A row beside each operation's object. seq: the revision that created it. state: 0 ready, 1 delayed, 2 blocked, 3 running,
-- 4 succeeded, 5 cancelled, 6 dead. ready: since when it can be claimed. holder, until: who has the attempt, and how
-- long without renewing. knew: it was cancelled when it was claimed.
CREATE TABLE operations (
    seq bigint PRIMARY KEY, uid text COLLATE "C" NOT NULL, namespace text NOT NULL, name text NOT NULL,
    lane text COLLATE "C" NOT NULL, handler text NOT NULL, priority int NOT NULL, key text COLLATE "C",
    created bigint NOT NULL, state smallint NOT NULL, run_at bigint NOT NULL, cancelled boolean NOT NULL,
    replays int NOT NULL, attempt bigint NOT NULL DEFAULT 0, failures int NOT NULL DEFAULT 0,
    lost int NOT NULL DEFAULT 0, started bigint NOT NULL DEFAULT 0, undoing jsonb, notes jsonb NOT NULL DEFAULT '[]',
    ready bigint NOT NULL DEFAULT 0, holder text, until bigint NOT NULL DEFAULT 0, knew boolean NOT NULL DEFAULT false)
    WITH (fillfactor = 70);
CREATE UNIQUE INDEX operation_by_uid ON operations (uid);
CREATE INDEX operation_ready ON operations (lane, priority DESC, seq) WHERE state = 0;
CREATE INDEX operation_due ON operations (run_at, seq) WHERE state = 1;
CREATE INDEX operation_blocked ON operations (lane, key, priority DESC, seq) WHERE state = 2;
CREATE INDEX operation_running ON operations (until) WHERE state = 3;
CREATE INDEX operation_dead ON operations (seq) WHERE state = 6;
-- Of one key only one is ready or running.
CREATE UNIQUE INDEX operation_of_key ON operations (lane, key) WHERE state IN (0, 3) AND key IS NOT NULL;

-- The journals. state: 0 intent, 1 done, 2 undoing, 3 undone. place: which entry was the first of its step, from 0.
CREATE TABLE steps (
    operation bigint NOT NULL, step text NOT NULL, place int NOT NULL, state smallint NOT NULL, attempt bigint NOT NULL,
    output text NOT NULL, PRIMARY KEY (operation, step));

-- How many operations of a lane are in which state, and when it had its turn, or began to wait for one.
CREATE TABLE lanes (
    lane text COLLATE "C" PRIMARY KEY, ready bigint NOT NULL, delayed bigint NOT NULL, blocked bigint NOT NULL,
    running bigint NOT NULL, dead bigint NOT NULL, turn bigint NOT NULL) WITH (fillfactor = 10);
CREATE SEQUENCE turns;

-- The ring of keys, wrapped by who uses them; its generation is the counter `store/keyring`.
CREATE TABLE keyring (name text COLLATE "C" NOT NULL, version bigint NOT NULL, wrapped bytea NOT NULL, created bigint NOT NULL,
    PRIMARY KEY (name, version));
