-- Less work in the database for each new response, and work that stays the same whatever the statistics say: a queue
-- that was just filled is taken for an empty one, and a plan that reads all of it for each batch holds up the log.

-- The end of the certificate, told by the CA with the request for its first response, which is then all that there is to
-- read. NULL: it has to be looked up, as before, and for changed statuses, where the revocation is looked up anyway.
ALTER TABLE ocsp_requests ADD COLUMN not_after timestamptz;

-- Tells the orders that wait: many ids in one notification of at most 8000 bytes, separated by commas.
CREATE FUNCTION tell_changed(request_ids bytea[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('changed', string_agg(encode(id, 'hex'), ','))
    FROM (SELECT id, (position - 1) / 100 AS part FROM unnest(request_ids) WITH ORDINALITY AS t (id, position)) AS each
    GROUP BY part
$$;

-- As in 0025; each request is found by one step down the primary key.
CREATE OR REPLACE FUNCTION end_ocsp_requests(serials bytea[], versions smallint[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    told bytea[];
BEGIN
    WITH ended AS (
        DELETE FROM ocsp_requests WHERE ctid = ANY(ARRAY(
            SELECT found.ctid FROM unnest(serials, versions) AS t (serial, version)
            CROSS JOIN LATERAL (
                SELECT q.ctid FROM ocsp_requests q WHERE q.serial = t.serial AND q.version = t.version LIMIT 1
            ) AS found))
        RETURNING request_id
    )
    SELECT array_agg(request_id) INTO told FROM ended;
    PERFORM tell_changed(told);
    RETURN coalesce(cardinality(told), 0);
END
$$;

-- As in 0025. Revocations are compared one by one only if there are any between the first and the last serial number,
-- and first requests end without a join.
CREATE OR REPLACE FUNCTION publish_ocsp_batch(
    of_issuer smallint, made_at timestamptz, responses integer, valid_until timestamptz, content bytea,
    good bytea[], is_new boolean, revoked bytea[], versions smallint[], ended bytea[], ended_versions smallint[],
    OUT batch_id bigint, OUT changed bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    told bytea[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery ocsp batches'));
    changed := '{}';
    IF EXISTS (SELECT FROM revocations r WHERE r.serial >= good[1] AND r.serial <= good[cardinality(good)]) THEN
        -- The bounds leave out partitions.
        changed := ARRAY(
            SELECT r.serial FROM revocations r
            WHERE r.serial = ANY(good) AND r.serial >= good[1] AND r.serial <= good[cardinality(good)]);
    END IF;
    IF cardinality(revoked) > 0 THEN
        changed := changed || ARRAY(
            SELECT t.serial FROM unnest(revoked, versions) AS t (serial, version)
            WHERE t.version IS DISTINCT FROM (SELECT r.version FROM revocations r WHERE r.serial = t.serial));
    END IF;
    IF cardinality(changed) > 0 THEN
        RETURN;
    END IF;
    INSERT INTO ocsp_batches (id, produced_at, issuer_id, count, next_update, payload)
    VALUES (nextval('ocsp_batch_id'), made_at, of_issuer, responses, valid_until, content) RETURNING id INTO batch_id;
    IF is_new THEN
        WITH over AS (
            DELETE FROM ocsp_requests q WHERE q.serial = ANY(good) AND q.version = 0 RETURNING q.request_id
        )
        SELECT array_agg(request_id) INTO told FROM over;
        PERFORM tell_changed(told);
    END IF;
    IF cardinality(ended) > 0 THEN
        PERFORM end_ocsp_requests(ended, ended_versions);
    END IF;
    PERFORM pg_notify('ocsp_batch', '');
END
$$;

REVOKE ALL ON FUNCTION tell_changed(bytea[]) FROM PUBLIC;
