-- OCSP live mode (spec of OCSP 5.9, RFC 9654): a responder, which has no key, asks the pre-signer, which listens on
-- nothing, for a response that has to be made at once: with a nonce, or about a serial number that was never given out.
--
-- A row is one place in the queue, from the question until its response has been taken or nobody waits any more. There
-- are 20 places and no more: who cannot get one is told to try later. Nothing here is worth keeping, so the table is
-- not logged: after a crash of the server it is empty, and whoever waited falls back.
CREATE UNLOGGED TABLE ocsp_live_requests (
    id          bytea PRIMARY KEY CHECK (octet_length(id) = 16),    -- random: known to who asked
    issuer_id   smallint NOT NULL,
    hashes      smallint[] NOT NULL,            -- of each CertID: 0 SHA-1, 1 SHA-256
    serials     bytea[] NOT NULL,               -- of each CertID
    nonce       bytea CHECK (octet_length(nonce) <= 131),   -- extnValue of the request's extension; null: it had none
    ends_at     timestamptz NOT NULL,           -- nobody waits for it any more
    answered_at timestamptz,
    response    bytea,                          -- OCSPResponse; null in an answered row: it may not be signed
    CHECK (cardinality(serials) BETWEEN 1 AND 10 AND cardinality(hashes) = cardinality(serials))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Takes a place and wakes the pre-signer; false when there is none. The responder has no other way to write here, so
-- not even one that was broken into makes the queue longer, or a row live longer than ten seconds.
CREATE FUNCTION ask_for_live_ocsp(
    question_id bytea, issuer smallint, hash_numbers smallint[], serial_numbers bytea[], nonce_value bytea,
    places integer, patience_ms integer
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(serial_numbers) AS serial WHERE octet_length(serial) NOT BETWEEN 1 AND 20) THEN
        RAISE check_violation USING MESSAGE = 'a serial number has 1 to 20 octets';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('chancery live ocsp'));
    -- What the pre-signer holds at this moment is left: it must not be waited for here.
    DELETE FROM ocsp_live_requests q USING (
        SELECT id FROM ocsp_live_requests WHERE ends_at <= clock_timestamp() FOR UPDATE SKIP LOCKED) AS late
    WHERE q.id = late.id;
    IF (SELECT count(*) FROM ocsp_live_requests) >= least(places, 20) THEN
        RETURN false;
    END IF;
    INSERT INTO ocsp_live_requests (id, issuer_id, hashes, serials, nonce, ends_at)
    VALUES (question_id, issuer, hash_numbers, serial_numbers, nonce_value,
            clock_timestamp() + least(patience_ms, 10000) * interval '1 millisecond');
    PERFORM pg_notify('ocsp_live', '');
    RETURN true;
END
$$;

-- Gives the place back, with the response that came, if one did.
CREATE FUNCTION take_live_ocsp(question_id bytea) RETURNS bytea
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DELETE FROM ocsp_live_requests WHERE id = question_id RETURNING response
$$;

REVOKE ALL ON FUNCTION ask_for_live_ocsp(bytea, smallint, smallint[], bytea[], bytea, integer, integer),
    take_live_ocsp(bytea) FROM PUBLIC;
