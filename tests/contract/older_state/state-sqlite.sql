BEGIN TRANSACTION;
CREATE TABLE alert (
    name TEXT NOT NULL PRIMARY KEY,
    text TEXT NOT NULL,
    since BIGINT NOT NULL,
    ended_at BIGINT,
    told_at BIGINT
);
INSERT INTO "alert" VALUES('failures','Amberflo does not take 1',1790000000003,NULL,1790000000004);
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run BIGINT,
    customer_id TEXT NOT NULL,
    rev BIGINT NOT NULL,
    key TEXT NOT NULL,
    trait TEXT NOT NULL,
    before TEXT,
    after TEXT,
    observed_at BIGINT,
    recorded_at BIGINT NOT NULL,
    delivered_at BIGINT
, step SMALLINT DEFAULT 0 NOT NULL, salt TEXT, source VARCHAR(16), via TEXT);
INSERT INTO "change" VALUES(1,1,'u1',1,'VIP','vip',NULL,'true',1789999999991,1790000000000,1790000000002,1,'bk3q+ubaveTJGKuY',NULL,NULL);
INSERT INTO "change" VALUES(2,1,'u1',1,'total','total',NULL,'5',1789999999992,1790000000000,1790000000002,0,'Pv9UCT1x/yjEjcno',NULL,NULL);
INSERT INTO "change" VALUES(3,1,'ü2',1,'VIP','vip',NULL,'true',1789999999993,1790000000000,NULL,1,'mGBk8f3U3IK5l1bv',NULL,NULL);
INSERT INTO "change" VALUES(4,1,'ü2',1,'total','total',NULL,'7.5',1789999999993,1790000000000,NULL,0,'gn6EkM0jTiHjS+8P',NULL,NULL);
INSERT INTO "change" VALUES(5,1,'u3',1,'VIP','vip','"theirs"','false',1789999999994,1790000000000,1790000000002,0,'lSshJE9CZLpoO7c4','amberflo',NULL);
INSERT INTO "change" VALUES(7,NULL,'u1',2,'VIP','vip','true','false',1790003600000,1790003600000,NULL,-1,'6SZXtMiS2dY7ujN7',NULL,'default');
INSERT INTO "change" VALUES(8,NULL,'u1',2,'city','city',NULL,'"Bern"',1790003600000,1790003600000,NULL,0,'yWNYb4wxWuRkal97','identify','browser');
INSERT INTO "change" VALUES(9,2,'ü2',2,'total','total','7.5','8',1790007199995,1790007200000,NULL,0,'FTWdYnVxo4+xO6Zh',NULL,NULL);
CREATE TABLE customer (
    customer_id TEXT NOT NULL PRIMARY KEY,
    traits TEXT NOT NULL,
    name TEXT,
    email TEXT,
    called TEXT,
    stamps TEXT,
    rev BIGINT NOT NULL,
    acked_rev BIGINT DEFAULT 0 NOT NULL,
    acked_at BIGINT,
    due_at BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL
, run BIGINT, claimed_by BIGINT, given_back TEXT, compared BIGINT, line TEXT DEFAULT '2' NOT NULL);
INSERT INTO "customer" VALUES('u1','{"total":5,"vip":false}','Ada','ada@example.com','{"city":["Bern",1790000001000,["Basel"]]}','{"vip":[1790000001000,1790000001100]}',2,1,1790000000002,1790003600000,0,NULL,NULL,NULL,1,'1:default');
INSERT INTO "customer" VALUES('ü2','{"total":8,"vip":true}','Zoë 🦊',NULL,'{"plan":["pro",1789999999000]}',NULL,2,0,NULL,1790007200000,0,2,NULL,NULL,1,'2');
INSERT INTO "customer" VALUES('u3','{"vip":false}',NULL,'',NULL,NULL,1,1,1790000000002,NULL,0,NULL,NULL,NULL,1,'2');
CREATE TABLE early_call (
    key TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    value TEXT,
    at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    via TEXT NOT NULL,
    PRIMARY KEY (key, customer_id)
);
INSERT INTO "early_call" VALUES('NEW','u1','audience','true',1790000000000,1790000000005,'default');
CREATE TABLE erased (
    id BIGINT NOT NULL PRIMARY KEY,
    leaf TEXT NOT NULL,
    seal BIGINT NOT NULL
);
INSERT INTO "erased" VALUES(6,'56e700f673a2b861bfb866792c71085ee6eab95d12bd9360501ab6cb762c733e',3);
CREATE TABLE erasure (
    customer_id TEXT NOT NULL PRIMARY KEY,
    asked_at BIGINT NOT NULL
, run BIGINT, waits_since BIGINT);
INSERT INTO "erasure" VALUES('u3',1790007200002,2,NULL);
CREATE TABLE failure (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ref TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    customer_id TEXT,
    message_id TEXT,
    reason TEXT NOT NULL,
    status INTEGER,
    request TEXT,
    body TEXT,
    attempts INTEGER DEFAULT 1 NOT NULL,
    failed_at BIGINT NOT NULL
, via TEXT);
INSERT INTO "failure" VALUES(1,'customer:u3','customer','u3',NULL,'PUT answered 400',400,'PUT /customers','{}',1,1790000000000,NULL);
INSERT INTO "failure" VALUES(2,'call:1','meter',NULL,'m9','no userId',NULL,'{}',NULL,0,1790000000000,'browser');
CREATE TABLE forgotten (
    hash TEXT NOT NULL PRIMARY KEY,
    forgotten_at BIGINT NOT NULL
);
INSERT INTO "forgotten" VALUES('617fbd0b14d0ad3986bc207a358fc081168d16bb2b75502814966443785483c1',1790007200001);
CREATE TABLE held_change (
    hold BIGINT NOT NULL,
    customer_id TEXT NOT NULL,
    trait TEXT NOT NULL,
    before TEXT,
    after TEXT,
    observed_at BIGINT,
    run BIGINT NOT NULL,
    since_run BIGINT NOT NULL,
    ended_at BIGINT,
    PRIMARY KEY (hold, customer_id)
);
INSERT INTO "held_change" VALUES(1,'u3','vip','true','false',1789999999996,1,1,NULL);
CREATE TABLE hold (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trait TEXT NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL,
    since_run BIGINT NOT NULL,
    since BIGINT NOT NULL,
    last_run BIGINT NOT NULL,
    members BIGINT NOT NULL,
    leaving BIGINT NOT NULL,
    decision VARCHAR(16),
    decided_at BIGINT,
    decided_by TEXT,
    because TEXT,
    decided_run BIGINT
);
INSERT INTO "hold" VALUES(1,'vip','VIP','too many leave',1,1790000000000,1,4,1,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE memo (
    name VARCHAR(32) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO "memo" VALUES('head','3 11a7004a0107cb5d1b90a4789559645f5b8318aa3ba6a5ca68215df6979e41ef');
INSERT INTO "memo" VALUES('account','acct');
INSERT INTO "memo" VALUES('trait_values','native');
INSERT INTO "memo" VALUES('salt','58ca7a46765b55ac1b95ef57a7c634d0a81f6214a8e0c01a151fab36b36ffeab');
INSERT INTO "memo" VALUES('traces','1790007200001');
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    started_at BIGINT NOT NULL,
    committed_at BIGINT,
    ended_at BIGINT,
    watermark TEXT,
    settings TEXT,
    error TEXT,
    pulled BIGINT DEFAULT 0 NOT NULL,
    entered BIGINT DEFAULT 0 NOT NULL,
    exited BIGINT DEFAULT 0 NOT NULL,
    changed BIGINT DEFAULT 0 NOT NULL,
    unchanged BIGINT DEFAULT 0 NOT NULL,
    skipped BIGINT DEFAULT 0 NOT NULL,
    without_customer_id BIGINT DEFAULT 0 NOT NULL,
    due BIGINT DEFAULT 0 NOT NULL,
    delivered BIGINT DEFAULT 0 NOT NULL,
    failed BIGINT DEFAULT 0 NOT NULL,
    held BIGINT DEFAULT 0 NOT NULL
, doing TEXT, deleted BIGINT DEFAULT 0 NOT NULL, hold BIGINT, first_contact BIGINT DEFAULT 0 NOT NULL);
INSERT INTO "run" VALUES(1,'initial','held',1790000000000,1790000000001,1790000000003,'2026-09-21','["engage"]',NULL,0,0,0,0,0,0,0,4,6,0,1,NULL,0,NULL,1);
INSERT INTO "run" VALUES(2,'incremental','running',1790007200000,1790007200000,NULL,'2026-09-22','["engage"]',NULL,0,0,0,0,0,0,0,0,0,0,0,'{"stage":"pulling","done":3,"total":4,"per_second":1.0,"seconds_left":1.0}',0,NULL,0);
INSERT INTO "run" VALUES(3,'incremental','running',1790010800000,NULL,NULL,NULL,'["engage"]',NULL,0,0,0,0,0,0,0,0,0,0,0,'{"stage":"pulling","done":3,"total":4,"per_second":1.0,"seconds_left":1.0}',0,NULL,0);
CREATE TABLE run_trait (
    run BIGINT NOT NULL,
    key TEXT NOT NULL,
    trait TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    pulled BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    unchanged BIGINT NOT NULL,
    skipped BIGINT NOT NULL,
    held BIGINT NOT NULL,
    reasons TEXT NOT NULL, waiting BIGINT DEFAULT 0 NOT NULL, left_by_itself BIGINT DEFAULT 0 NOT NULL, hold BIGINT,
    PRIMARY KEY (run, key)
);
INSERT INTO "run_trait" VALUES(1,'VIP','vip','audience',6,3,0,3,0,0,1,'{"unreadable":2}',1,0,1);
CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL);
INSERT INTO "schema_version" VALUES(1,1795809089221);
INSERT INTO "schema_version" VALUES(2,1795809089227);
INSERT INTO "schema_version" VALUES(3,1795809089241);
INSERT INTO "schema_version" VALUES(4,1795809089268);
INSERT INTO "schema_version" VALUES(5,1795809089274);
INSERT INTO "schema_version" VALUES(6,1795809089284);
INSERT INTO "schema_version" VALUES(7,1795809089349);
CREATE TABLE seal (
    number BIGINT NOT NULL PRIMARY KEY,
    kind VARCHAR(16) NOT NULL,
    run BIGINT,
    first_id BIGINT NOT NULL,
    last_id BIGINT NOT NULL,
    changes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    until BIGINT,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    sealed_at BIGINT NOT NULL,
    marks BLOB
);
INSERT INTO "seal" VALUES(1,'changes',1,1,6,6,'72916b61112566cf3094905bf4e326bd52973c8d7b3918a6c8bb8c159f622ef8',1790000000000,'0000000000000000000000000000000000000000000000000000000000000000','f2b08343ce8f26b503bff6ebbe2d0ec56ecd1add7bcd79b3268d3e657f4cc305',1790000000001,X'2934AFF92B43FE9C460A56E7');
INSERT INTO "seal" VALUES(2,'changes',2,7,9,3,'bdd5dfa3a27e5ea585bf416d1156e8841273203c24fb698cffe56430b46ec8b6',1790007200000,'f2b08343ce8f26b503bff6ebbe2d0ec56ecd1add7bcd79b3268d3e657f4cc305','9ced50a94fa301793b0d9c762070bc3932ea9d4140b7b2120d5930525985738d',1790007200000,X'D04F497F8D14');
INSERT INTO "seal" VALUES(3,'erasure',NULL,6,6,1,'a9b0436c42c60ce44973fa280cbfd8fe8b9ad56fa820ff68a84fdbeff8903b55',NULL,'9ced50a94fa301793b0d9c762070bc3932ea9d4140b7b2120d5930525985738d','11a7004a0107cb5d1b90a4789559645f5b8318aa3ba6a5ca68215df6979e41ef',1790007200001,NULL);
CREATE TABLE size (
    key TEXT NOT NULL,
    hour BIGINT NOT NULL,
    entered BIGINT NOT NULL,
    exited BIGINT NOT NULL,
    other BIGINT NOT NULL,
    lowest BIGINT NOT NULL,
    highest BIGINT NOT NULL,
    PRIMARY KEY (key, hour)
);
INSERT INTO "size" VALUES('VIP',497223,2,0,1,1,6);
INSERT INTO "size" VALUES('VIP',497224,0,1,0,7,7);
INSERT INTO "size" VALUES('city',497224,0,0,1,8,8);
INSERT INTO "size" VALUES('total',497223,0,0,2,2,4);
INSERT INTO "size" VALUES('total',497225,0,0,1,9,9);
CREATE TABLE trait (
    key TEXT NOT NULL PRIMARY KEY,
    trait TEXT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    members BIGINT DEFAULT 0 NOT NULL
, name TEXT, status TEXT, size BIGINT, released_at BIGINT);
INSERT INTO "trait" VALUES('VIP','vip','audience',1,'Very important','live',2,NULL);
INSERT INTO "trait" VALUES('total','total','computed_trait',2,NULL,NULL,NULL,NULL);
INSERT INTO "trait" VALUES('old','old','audience',0,NULL,NULL,NULL,NULL);
CREATE TABLE worker (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind VARCHAR(16) NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    doing TEXT
);
INSERT INTO "worker" VALUES(1,'daemon','vm',13419,1795809090168,'{"next_run": 1790014400000, "full": false}');
CREATE INDEX change_customer ON change (customer_id, id);
CREATE UNIQUE INDEX failure_ref ON failure (ref);
CREATE INDEX change_undelivered ON change (customer_id, id) WHERE delivered_at IS NULL;
CREATE INDEX change_run ON change (run, key, id, step) WHERE run IS NOT NULL;
CREATE INDEX change_time ON change (key, recorded_at, id, step);
CREATE INDEX change_member ON change (key, customer_id, id, recorded_at, step) WHERE step != 0;
CREATE INDEX seal_kind ON seal (kind, number);
CREATE INDEX erased_seal ON erased (seal, id);
CREATE INDEX size_highest ON size (highest);
CREATE INDEX failure_customer ON failure (customer_id, id);
CREATE UNIQUE INDEX hold_open ON hold (trait) WHERE decision IS NULL;
CREATE INDEX held_change_customer ON held_change (customer_id) WHERE ended_at IS NULL;
CREATE INDEX customer_due ON customer (line, due_at, customer_id) WHERE due_at IS NOT NULL;
CREATE INDEX early_call_customer ON early_call (customer_id);
CREATE INDEX early_call_received ON early_call (received_at);
CREATE INDEX failure_call ON failure (id) WHERE attempts = 0;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('run',3);
INSERT INTO "sqlite_sequence" VALUES('change',9);
INSERT INTO "sqlite_sequence" VALUES('hold',1);
INSERT INTO "sqlite_sequence" VALUES('failure',2);
INSERT INTO "sqlite_sequence" VALUES('worker',1);
COMMIT;
