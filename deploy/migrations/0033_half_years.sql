-- Partitions of half a year instead of a month: a prepared statement locks every partition of its tables at each
-- execution, also those that it does not look at, which with 27 months cost half as much again as the order itself.
-- Half a year is kept half a year longer at most. Partitions of a month that hold something stay, and go when their own
-- time is over; the first new one of a table begins where the last of them ends. Empty ones go now.
--
-- So a partition's range is no longer said by its name, which has the first day alone, but is read from its bounds.

ALTER TABLE partitioned_tables DROP CONSTRAINT partitioned_tables_period_check;
UPDATE partitioned_tables SET period = 'half-year' WHERE period = 'month';
ALTER TABLE partitioned_tables ADD CHECK (period IN ('day', 'half-year'));

-- The moment (UTC) of a bound that partition_bound has made.
CREATE FUNCTION partition_moment(key text, bound text) RETURNS timestamp
LANGUAGE sql STABLE AS $$
    SELECT (CASE key
        WHEN 'id' THEN to_timestamp(('x' || substr(bound, 3, 12))::bit(48)::bigint / 1000)
        WHEN 'nonce' THEN to_timestamp(bound::bigint >> 31)
        WHEN 'serial' THEN to_timestamp(1577836800 + (('x' || substr(bound, 3, 4))::bit(16)::bigint - 256) * 86400)
        ELSE bound::timestamptz
    END) AT TIME ZONE 'UTC'
$$;

-- The partitions of a table with what their bounds say: [begins, ends), UTC.
CREATE FUNCTION partition_ranges(parent text, OUT child text, OUT begins timestamp, OUT ends timestamp)
RETURNS SETOF record LANGUAGE sql STABLE SET timezone = 'UTC' SET datestyle = 'ISO' SET bytea_output = 'hex' AS $$
    SELECT c.relname::text, partition_moment(t.key, bounds.found[1]), partition_moment(t.key, bounds.found[2])
    FROM partitioned_tables t
    JOIN pg_inherits i ON i.inhparent = t.name::regclass
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL regexp_match(
        pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') AS bounds (found)
    WHERE t.name = parent
$$;

-- Where the period begins that a moment (UTC) is in.
CREATE FUNCTION period_start(period text, moment timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE period WHEN 'day' THEN date_trunc('day', moment)
        ELSE date_trunc('year', moment)
            + CASE WHEN extract(month FROM moment) > 6 THEN interval '6 months' ELSE interval '0' END
    END
$$;

-- Makes every partition that a key of [moment - 1 day, moment + 2 months] (or 8 days) needs, each as long as its period
-- unless there is one already for a part of it. Idempotent.
CREATE OR REPLACE FUNCTION create_partitions(moment timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    t record;
    next_utc timestamp;
    lower_utc timestamp;
    upper_utc timestamp;
    horizon timestamp;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery partitions'));
    FOR t IN SELECT * FROM partitioned_tables LOOP
        next_utc := (moment AT TIME ZONE 'UTC') - interval '1 day';
        horizon := (moment AT TIME ZONE 'UTC')
            + CASE t.period WHEN 'day' THEN interval '8 days' ELSE interval '2 months' END;
        WHILE next_utc <= horizon LOOP
            SELECT ends INTO upper_utc FROM partition_ranges(t.name) WHERE begins <= next_utc AND ends > next_utc;
            IF NOT FOUND THEN
                lower_utc := period_start(t.period, next_utc);
                upper_utc := lower_utc + CASE t.period WHEN 'day' THEN interval '1 day' ELSE interval '6 months' END;
                SELECT greatest(lower_utc, max(ends) FILTER (WHERE ends <= next_utc)),
                    least(upper_utc, min(begins) FILTER (WHERE begins > next_utc))
                    INTO lower_utc, upper_utc FROM partition_ranges(t.name);
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',
                    t.name || '_' || to_char(lower_utc, 'YYYYMMDD'), t.name,
                    partition_bound(t.key, lower_utc AT TIME ZONE 'UTC'),
                    partition_bound(t.key, upper_utc AT TIME ZONE 'UTC'));
                made := made + 1;
            END IF;
            next_utc := upper_utc;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- Drops every partition whose range ended more than keep_for ago. Returns the names dropped.
CREATE OR REPLACE FUNCTION drop_expired_partitions(moment timestamptz) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    expired text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery partitions'));
    FOR expired IN
        SELECT r.child FROM partitioned_tables t CROSS JOIN LATERAL partition_ranges(t.name) r
        WHERE r.ends + t.keep_for < (moment AT TIME ZONE 'UTC') ORDER BY r.child
    LOOP
        EXECUTE format('DROP TABLE %I', expired);
        RETURN NEXT expired;
    END LOOP;
END
$$;

-- The latest moment that every table has a partition for; `chancery status` warns when it comes near.
CREATE OR REPLACE FUNCTION partitions_until() RETURNS date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT min((SELECT max(ends) FROM partition_ranges(t.name)))::date FROM partitioned_tables t
$$;

REVOKE ALL ON FUNCTION partition_ranges(text), partition_moment(text, text), period_start(text, timestamp) FROM PUBLIC;

DO $$
DECLARE
    each record;
    is_used boolean;
BEGIN
    FOR each IN
        SELECT r.child FROM partitioned_tables t CROSS JOIN LATERAL partition_ranges(t.name) r
        WHERE t.period = 'half-year'
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', each.child) INTO is_used;
        IF NOT is_used THEN
            EXECUTE format('DROP TABLE %I', each.child);
        END IF;
    END LOOP;
    PERFORM create_partitions(now());
END
$$;
