-- Time partitions. The three key kinds sort by time, so a partition bound is the smallest key of a moment.

CREATE TABLE partitioned_tables (
    name      text PRIMARY KEY,
    key       text NOT NULL CHECK (key IN ('id', 'serial', 'nonce', 'time')),
    period    text NOT NULL CHECK (period IN ('day', 'month')),
    keep_for  interval NOT NULL                 -- after the end of the period
);
INSERT INTO partitioned_tables (name, key, period, keep_for) VALUES
    ('spent_nonces', 'nonce', 'day', '2 days'),
    ('orders', 'id', 'month', '2 years'),
    ('authorizations', 'id', 'month', '2 years'),
    ('validations', 'id', 'month', '2 years'),
    ('caa_checks', 'id', 'month', '2 years'),
    ('finalizations', 'id', 'month', '2 years'),
    ('service_requests', 'id', 'month', '2 years'),
    ('issuances', 'id', 'month', '2 years'),
    ('refusals', 'id', 'month', '2 years'),
    ('certificates', 'serial', 'month', '2 years'),
    ('certificate_names', 'serial', 'month', '2 years'),
    ('certificate_signatures', 'serial', 'month', '2 years'),
    ('revocations', 'serial', 'month', '2 years'),
    ('ocsp_batches', 'time', 'day', '10 days');

-- The smallest key of a moment, as an SQL literal for FOR VALUES FROM / TO. The serial number's day counts
-- from 2020-01-01 and starts at 0x0100, so that its first byte is never zero and never above 0x7f.
CREATE FUNCTION partition_bound(key text, moment timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE key
        WHEN 'id' THEN quote_literal('\x' || lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0'))
        WHEN 'nonce' THEN quote_literal('\x' || lpad(to_hex(extract(epoch FROM moment)::bigint), 8, '0'))
        WHEN 'serial' THEN quote_literal('\x' || lpad(to_hex(
            256 + floor((extract(epoch FROM moment) - 1577836800) / 86400)::bigint), 4, '0'))
        ELSE quote_literal(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS+00'))
    END
$$;

-- Makes every partition that a key of [moment - 1 day, moment + 6 months] (or 8 days) needs. Idempotent.
CREATE FUNCTION create_partitions(moment timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    t record;
    lower_utc timestamp;
    step interval;
    horizon timestamp;
    child text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery partitions'));
    FOR t IN SELECT * FROM partitioned_tables LOOP
        step := ('1 ' || t.period)::interval;
        lower_utc := date_trunc(t.period, (moment AT TIME ZONE 'UTC') - interval '1 day');
        horizon := (moment AT TIME ZONE 'UTC')
            + CASE t.period WHEN 'day' THEN interval '8 days' ELSE interval '6 months' END;
        WHILE lower_utc <= horizon LOOP
            child := t.name || '_' || to_char(lower_utc, 'YYYYMMDD');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)', child, t.name,
                    partition_bound(t.key, lower_utc AT TIME ZONE 'UTC'),
                    partition_bound(t.key, (lower_utc + step) AT TIME ZONE 'UTC'));
                made := made + 1;
            END IF;
            lower_utc := lower_utc + step;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- Drops every partition whose period ended more than keep_for ago. Returns the names dropped.
CREATE FUNCTION drop_expired_partitions(moment timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    t record;
    child record;
    ends timestamp;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery partitions'));
    FOR t IN SELECT * FROM partitioned_tables LOOP
        FOR child IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                     WHERE i.inhparent = t.name::regclass AND c.relname ~ '_[0-9]{8}$' LOOP
            ends := to_timestamp(right(child.relname, 8), 'YYYYMMDD')::timestamp + ('1 ' || t.period)::interval;
            IF ends + t.keep_for < (moment AT TIME ZONE 'UTC') THEN
                EXECUTE format('DROP TABLE %I', child.relname);
                RETURN NEXT child.relname;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- The latest moment that every table has a partition for; `chancery status` warns when it comes near.
CREATE FUNCTION partitions_until() RETURNS date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT min(last_day) FROM (
        SELECT max((to_date(right(c.relname, 8), 'YYYYMMDD') + ('1 ' || t.period)::interval)::date) AS last_day
        FROM partitioned_tables t JOIN pg_inherits i ON i.inhparent = t.name::regclass
        JOIN pg_class c ON c.oid = i.inhrelid GROUP BY t.name) AS per_table
$$;

REVOKE ALL ON FUNCTION create_partitions(timestamptz), drop_expired_partitions(timestamptz) FROM PUBLIC;
