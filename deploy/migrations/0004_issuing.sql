-- The CA may ask for one thing of the validation authority: that it looks at CAA again, because a check is older than
-- eight hours by the time of signing (BR 3.2.2.8). Everything but the ids comes from the validation itself, so a
-- captured CA process can queue nothing else.

CREATE FUNCTION ask_for_caa_checks(request_ids bytea[], authorization_ids bytea[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at)
    SELECT wanted.id, 'caa', v.authorization_id, v.account_id, v.challenge_type, v.thumbprint, now()
    FROM unnest(request_ids, authorization_ids) AS wanted (id, authorization_id)
    JOIN validations v ON v.authorization_id = wanted.authorization_id AND v.problem IS NULL
    ON CONFLICT (authorization_id, kind) DO NOTHING
$$;

REVOKE ALL ON FUNCTION ask_for_caa_checks(bytea[], bytea[]) FROM PUBLIC;

-- A CRL lists the revoked certificates of one shard, which the last byte of a serial number says.
CREATE INDEX revocations_last_byte ON revocations (get_byte(serial, 17));
-- What was revoked lately, and perhaps by another process: is it in the newest CRL of its shard?
CREATE INDEX revocations_revoked_at ON revocations (revoked_at);
