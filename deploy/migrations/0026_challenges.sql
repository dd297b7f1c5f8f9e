-- Challenges are offered in one order, so which ones are is a set of bits (acme_api/protocol/challenge.py): 1 http-01,
-- 2 dns-01, 4 tls-alpn-01, 8 dns-account-01, 16 dns-persist-01. Their tokens follow from 16 random bytes; those that were
-- stored before stay as they are, 32 bytes each in the order of the types that have one.

CREATE FUNCTION challenge_bits(types text[]) RETURNS smallint LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(1 << array_position(
        ARRAY['http-01', 'dns-01', 'tls-alpn-01', 'dns-account-01', 'dns-persist-01'], type) - 1), 0)::smallint
    FROM unnest(types) AS t (type)
$$;
CREATE FUNCTION challenge_token_bytes(tokens text[]) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg(decode(translate(token, '-_', '+/') || '=', 'base64'), '' ORDER BY position), '')
    FROM unnest(tokens) WITH ORDINALITY AS t (token, position) WHERE token <> ''
$$;
ALTER TABLE authorizations
    ALTER COLUMN challenge_types TYPE smallint USING challenge_bits(challenge_types),
    ALTER COLUMN challenge_tokens TYPE bytea USING challenge_token_bytes(challenge_tokens);
DROP FUNCTION challenge_bits(text[]), challenge_token_bytes(text[]);

-- A hash of the name instead of the name: the row has it, too.
DROP INDEX authorizations_reuse;
CREATE INDEX authorizations_reuse ON authorizations (account_id, hashtext(identifier_value));
