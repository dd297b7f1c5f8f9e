-- When a promoted standby, or a database that was restored to a point in time, was first seen: PostgreSQL begins a new
-- timeline then, and knows no longer when. Front ends refuse nonces that were made before, because the last ones that were
-- spent may be forgotten (a nonce does not wait for the disk, nor for a standby). The present timeline has always been.

CREATE TABLE database_timelines (
    timeline   integer PRIMARY KEY,
    noticed_at timestamptz NOT NULL
);
INSERT INTO database_timelines
SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer, '2000-01-01Z';
