-- RFC 9444: an authorization for a domain that stands for every name below it. Whoever makes the authorization says so
-- before its challenges have tokens; the VA copies it into the validation, and the CA believes the validation alone.
ALTER TABLE authorizations ADD COLUMN subdomains boolean NOT NULL DEFAULT false;
ALTER TABLE validations    ADD COLUMN subdomains boolean NOT NULL DEFAULT false;

-- CAA belongs to the name that will be in the certificate (BR 3.2.2.8), which may be one of many below an authorization:
-- '*.' kept; '' is the authorization's own name.
ALTER TABLE validation_requests
    ADD COLUMN caa_name text NOT NULL DEFAULT '',
    ADD CHECK (kind = 'caa' OR caa_name = ''),
    DROP CONSTRAINT validation_requests_authorization_id_kind_key,
    ADD UNIQUE (authorization_id, kind, caa_name);
ALTER TABLE caa_checks ADD COLUMN caa_name text NOT NULL DEFAULT '';
ALTER TABLE caa_checks DROP CONSTRAINT caa_checks_pkey;
ALTER TABLE caa_checks ADD PRIMARY KEY (authorization_id, caa_name, checked_at);

-- As before, for a name. Everything else comes from the validation itself, and the name has to be its own or below it,
-- so a captured CA process can queue nothing else.
DROP FUNCTION ask_for_caa_checks(bytea[], bytea[]);
CREATE FUNCTION ask_for_caa_checks(request_ids bytea[], authorization_ids bytea[], caa_names text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO validation_requests (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at,
        caa_name)
    SELECT wanted.id, 'caa', v.authorization_id, v.account_id, v.challenge_type, v.thumbprint, now(), wanted.caa_name
    FROM unnest(request_ids, authorization_ids, caa_names) AS wanted (id, authorization_id, caa_name)
    JOIN validations v ON v.authorization_id = wanted.authorization_id AND v.problem IS NULL
        AND (wanted.caa_name = '' OR v.subdomains
             AND right(wanted.caa_name, length(v.identifier_value) + 1) = '.' || v.identifier_value)
    ON CONFLICT (authorization_id, kind, caa_name) DO NOTHING
$$;
REVOKE ALL ON FUNCTION ask_for_caa_checks(bytea[], bytea[], text[]) FROM PUBLIC;
