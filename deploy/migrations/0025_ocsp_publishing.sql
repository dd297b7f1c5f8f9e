-- What publishes OCSP responses, in one round trip: a fresh certificate waits for it.

-- Ends requests of the pre-signer's queue, each (serial, version) of the two arrays, and tells the orders that wait.
CREATE FUNCTION end_ocsp_requests(serials bytea[], versions smallint[]) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    WITH ended AS (
        DELETE FROM ocsp_requests q USING unnest(serials, versions) AS t (serial, version)
        WHERE q.serial = t.serial AND q.version = t.version RETURNING q.request_id
    ), told AS MATERIALIZED (
        SELECT pg_notify('changed', encode(request_id, 'hex')) FROM ended
    )
    SELECT count(*) FROM told
$$;

-- Appends a batch to the log, ends requests, and wakes responders. `good` holds the serial numbers of the payload that
-- it calls good, in order; `revoked` the others, with the versions that it tells. Nothing is done, and `changed` says
-- for which, when some have another status by now. With `is_new` the good ones' first requests end; other requests that
-- end are in the last two arrays. The caller has locked all of them: who waited for one here would hold up the log.
--
-- The lock makes ids visible in their order. Each statement behind it sees what was committed before it began
-- (READ COMMITTED, a volatile function), so statuses are looked at after everything that is published earlier.
CREATE FUNCTION publish_ocsp_batch(
    of_issuer smallint, made_at timestamptz, responses integer, valid_until timestamptz, content bytea,
    good bytea[], is_new boolean, revoked bytea[], versions smallint[], ended bytea[], ended_versions smallint[],
    OUT batch_id bigint, OUT changed bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('chancery ocsp batches'));
    -- The bounds leave out partitions.
    changed := ARRAY(
        SELECT r.serial FROM revocations r
        WHERE r.serial = ANY(good) AND r.serial >= good[1] AND r.serial <= good[cardinality(good)]
        UNION ALL
        SELECT t.serial FROM unnest(revoked, versions) AS t (serial, version)
        WHERE t.version IS DISTINCT FROM (SELECT r.version FROM revocations r WHERE r.serial = t.serial));
    IF cardinality(changed) > 0 THEN
        RETURN;
    END IF;
    INSERT INTO ocsp_batches (id, produced_at, issuer_id, count, next_update, payload)
    VALUES (nextval('ocsp_batch_id'), made_at, of_issuer, responses, valid_until, content) RETURNING id INTO batch_id;
    IF is_new THEN
        PERFORM end_ocsp_requests(good, array_fill(0::smallint, ARRAY[cardinality(good)]));
    END IF;
    IF cardinality(ended) > 0 THEN
        PERFORM end_ocsp_requests(ended, ended_versions);
    END IF;
    PERFORM pg_notify('ocsp_batch', '');
END
$$;

REVOKE ALL ON FUNCTION end_ocsp_requests(bytea[], smallint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION publish_ocsp_batch(smallint, timestamptz, integer, timestamptz, bytea, bytea[], boolean,
    bytea[], smallint[], bytea[], smallint[]) FROM PUBLIC;
