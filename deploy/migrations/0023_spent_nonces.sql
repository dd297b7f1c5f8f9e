-- A spent nonce is 8 bytes instead of 32: its second and 31 bits of its authentication tag, which nobody can choose. Two
-- nonces of one second that agree in these are one nonce here: the later one is refused, and its client takes another.
-- What was spent within the last day stays spent.

CREATE TEMPORARY TABLE spent_before ON COMMIT DROP AS
    SELECT DISTINCT ('x' || encode(substr(nonce, 1, 4) || substr(nonce, 21, 4), 'hex'))::bit(64)::bigint >> 1 AS nonce
    FROM spent_nonces WHERE length(nonce) = 32;

DROP TABLE spent_nonces;
CREATE TABLE spent_nonces (
    nonce bigint PRIMARY KEY                    -- acme_api/protocol/nonce.py has the form
) PARTITION BY RANGE (nonce);

CREATE OR REPLACE FUNCTION partition_bound(key text, moment timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE key
        WHEN 'id' THEN quote_literal('\x' || lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0'))
        WHEN 'nonce' THEN quote_literal(extract(epoch FROM moment)::bigint << 31)
        WHEN 'serial' THEN quote_literal('\x' || lpad(to_hex(
            256 + floor((extract(epoch FROM moment) - 1577836800) / 86400)::bigint), 4, '0'))
        ELSE quote_literal(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS+00'))
    END
$$;

SELECT create_partitions(now());
INSERT INTO spent_nonces (nonce)
    SELECT nonce FROM spent_before
    WHERE nonce >> 31 BETWEEN extract(epoch FROM now())::bigint - 86400 AND extract(epoch FROM now())::bigint + 86400;
