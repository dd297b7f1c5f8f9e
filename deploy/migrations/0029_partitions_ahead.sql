-- Partitions of a month are made two months ahead instead of six: a prepared statement locks every partition of its
-- tables at each execution, also those that it does not look at. Upkeep runs every hour, and those of a day, which are
-- made eight days ahead as before, end long before these do. What was made further ahead goes, since nothing is in it.

CREATE OR REPLACE FUNCTION create_partitions(moment timestamptz) RETURNS integer
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
            + CASE t.period WHEN 'day' THEN interval '8 days' ELSE interval '2 months' END;
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

DO $$
DECLARE
    child regclass;
    is_used boolean;
BEGIN
    FOR child IN
        SELECT i.inhrelid::regclass FROM partitioned_tables t JOIN pg_inherits i ON i.inhparent = t.name::regclass
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE t.period = 'month' AND c.relname ~ '_[0-9]{8}$'
            AND to_date(right(c.relname, 8), 'YYYYMMDD') > (now() AT TIME ZONE 'UTC') + interval '2 months'
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', child) INTO is_used;
        IF NOT is_used THEN
            EXECUTE format('DROP TABLE %s', child);
        END IF;
    END LOOP;
END
$$;
