-- What `agentguard query` can be asked. `time` is UTC, ISO 8601.

-- One row a flow that was judged as it opened, or ended.
CREATE TEMP VIEW flows AS
SELECT sequence, strftime('%Y-%m-%dT%H:%M:%fZ', time_ms / 1000.0, 'unixepoch') AS time, event,
       identity, actor AS class, verdict, reason, rule, direction, protocol, address, port, program,
       pid, user, count, bytes_out, bytes_in, duration_ms
FROM events WHERE event IN ('connection', 'closed');

-- One row a refusal: of a flow, a packet, a listener, a socket, or what was over a limit. With
-- `verdict = 'would-deny'` it was recorded only.
CREATE TEMP VIEW denials AS
SELECT sequence, strftime('%Y-%m-%dT%H:%M:%fZ', time_ms / 1000.0, 'unixepoch') AS time, event,
       identity, actor AS class, verdict, reason, rule, direction, protocol, address, port, program,
       pid, user, count
FROM events WHERE verdict IN ('deny', 'would-deny');

-- One row an identity: what it did in all that is kept.
CREATE TEMP VIEW identities AS
SELECT identity,
       sum(CASE WHEN verdict = 'allow' AND event = 'connection' THEN count ELSE 0 END) AS allowed,
       sum(CASE WHEN verdict = 'deny' THEN count ELSE 0 END) AS denied,
       sum(CASE WHEN verdict = 'would-deny' THEN count ELSE 0 END) AS would_deny,
       sum(bytes_out) AS bytes_out, sum(bytes_in) AS bytes_in,
       strftime('%Y-%m-%dT%H:%MZ', min(minute_ms) / 1000, 'unixepoch') AS first_seen,
       strftime('%Y-%m-%dT%H:%MZ', max(minute_ms) / 1000, 'unixepoch') AS last_seen
FROM rollups WHERE identity <> '' GROUP BY identity;

-- One row a time that somebody was let be an identity, or was refused that.
CREATE TEMP VIEW grants AS
SELECT sequence, strftime('%Y-%m-%dT%H:%M:%fZ', time_ms / 1000.0, 'unixepoch') AS time,
       identity, program, pid, user, CASE severity WHEN 1 THEN 'granted' ELSE 'refused' END AS outcome
FROM events WHERE event = 'launch';
