BEGIN TRANSACTION;
CREATE TABLE counter (
    name VARCHAR(32) NOT NULL,
    reason TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name, reason)
);
INSERT INTO "counter" VALUES('call','track',2);
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL,
    record BLOB,
    received_at BIGINT NOT NULL,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL
, claimed_by BIGINT, key TEXT DEFAULT '' NOT NULL);
INSERT INTO "event" VALUES(1,'m1',X'7B22756E697175654964223A226D31227D',1790000000000,1790000000000,0,NULL,'default');
INSERT INTO "event" VALUES(2,'m2',NULL,1790000000000,NULL,0,NULL,'default');
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    body BLOB NOT NULL,
    events INTEGER NOT NULL,
    received_at BIGINT NOT NULL
, key TEXT DEFAULT '' NOT NULL);
INSERT INTO "inbox" VALUES(1,X'28B52FFD20282D0100F86261746368203137393020313220706167650A7B226261746368223A5B5D7D0100054002',1,1790000000000,'default');
CREATE TABLE queue_schema_version (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL);
INSERT INTO "queue_schema_version" VALUES(1,1795809089453);
INSERT INTO "queue_schema_version" VALUES(2,1795809089512);
INSERT INTO "queue_schema_version" VALUES(3,1795809089565);
CREATE INDEX event_received ON event (received_at);
CREATE INDEX inbox_key ON inbox (key, id, events);
CREATE UNIQUE INDEX event_message ON event (message_id, key);
CREATE INDEX event_due ON event (key, due_at, id) WHERE due_at IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('inbox',1);
INSERT INTO "sqlite_sequence" VALUES('event',2);
COMMIT;
