-- What is never certified: keys that are lost or blocked, names that are blocked. And what operators did, so that it
-- reaches the audit log of the CA.

CREATE TABLE blocked_keys (
    spki_sha256 bytea PRIMARY KEY,
    thumbprint  bytea,              -- the same key as a JWK (RFC 7638): an account that has it is closed; null: unknown
    blocked_at  timestamptz NOT NULL,
    authority   text NOT NULL CHECK (authority IN ('certificate_key', 'operator')),
    evidence    jsonb NOT NULL,
    sweep_at    timestamptz         -- when certificates with the key are looked for next; null: all are revoked
);
CREATE INDEX blocked_keys_thumbprint ON blocked_keys (thumbprint) WHERE thumbprint IS NOT NULL;
CREATE INDEX blocked_keys_sweep ON blocked_keys (sweep_at) WHERE sweep_at IS NOT NULL;

-- Keys whose loss was proven before this table existed. The CA sweeps them again, which changes nothing.
INSERT INTO blocked_keys (spki_sha256, blocked_at, authority, evidence, sweep_at)
SELECT DISTINCT ON (c.spki_sha256) c.spki_sha256, r.revoked_at, r.authority, r.evidence, now()
FROM certificates c JOIN revocations r ON r.serial = c.serial
WHERE r.reason = 1 AND r.authority IN ('certificate_key', 'operator');

CREATE TABLE blocked_names (
    name       text PRIMARY KEY,    -- normalised, without '*.', or an IP address
    and_below  boolean NOT NULL,    -- every name below it, too
    blocked_at timestamptz NOT NULL,
    operator   text NOT NULL,
    comment    text NOT NULL
);

-- Append-only. What the CA alone may do (block a key) is a request to it; the rest has happened in the transaction
-- that wrote the row. The CA copies each row to its audit log, and says so.
CREATE TABLE operator_acts (
    id          bytea PRIMARY KEY,
    acted_at    timestamptz NOT NULL,
    operator    text NOT NULL,
    act         text NOT NULL,
    subject     text NOT NULL,
    detail      jsonb NOT NULL,
    recorded_at timestamptz
);
CREATE INDEX operator_acts_open ON operator_acts (id) WHERE recorded_at IS NULL;

-- An account whose key is lost is nobody's in particular. The CA can close such accounts and no others.
CREATE FUNCTION close_accounts_with_blocked_keys() RETURNS SETOF bytea
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE accounts SET revoked_at = now() FROM blocked_keys
    WHERE accounts.thumbprint = blocked_keys.thumbprint AND blocked_keys.sweep_at IS NOT NULL
        AND accounts.revoked_at IS NULL
    RETURNING accounts.id
$$;

REVOKE ALL ON FUNCTION close_accounts_with_blocked_keys() FROM PUBLIC;
