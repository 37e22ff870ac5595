-- A file of the history. `batches` is what counts: the lines as sinks get them, in order. All else
-- can be made again from it.
CREATE TABLE meta (
    format INTEGER NOT NULL,
    -- The hash of the line before the first one here, in hexadecimal.
    previous TEXT NOT NULL
) STRICT;
CREATE TABLE batches (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    -- The hash of the last line.
    hash TEXT NOT NULL,
    -- Lines with a newline after each, compressed by zstd.
    lines BLOB NOT NULL
) STRICT;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    class INTEGER NOT NULL,
    activity INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    event TEXT NOT NULL,
    identity TEXT,
    actor TEXT,
    verdict TEXT,
    reason TEXT,
    rule TEXT,
    direction TEXT,
    protocol TEXT,
    address TEXT,
    port INTEGER,
    program TEXT,
    pid INTEGER,
    user INTEGER,
    count INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    duration_ms INTEGER
) STRICT;
CREATE TABLE rollups (
    minute_ms INTEGER NOT NULL,
    identity TEXT NOT NULL,
    event TEXT NOT NULL,
    verdict TEXT NOT NULL,
    rule TEXT NOT NULL,
    records INTEGER NOT NULL,
    count INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    PRIMARY KEY (minute_ms, identity, event, verdict, rule)
) STRICT, WITHOUT ROWID;
-- What the records of a boot stand for, by identity: written with them, so that what a daemon had taken
-- in and not yet written when it was killed can be told exactly.
CREATE TABLE accounts (
    boot TEXT NOT NULL,
    identity INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    ring_full INTEGER NOT NULL,
    over_budget INTEGER NOT NULL,
    PRIMARY KEY (boot, identity)
) STRICT, WITHOUT ROWID;
