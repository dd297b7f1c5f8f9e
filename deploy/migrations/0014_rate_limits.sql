-- Rate limits (GCRA): a bucket is the moment at which it will be full again, and is not there while it is full. Taking
-- from it is part of the transaction that stores what is limited; nothing is written for a request that is refused.
-- Failed validations need no bucket: `validations` has the facts.
CREATE TABLE rate_limits (
    limit_name text NOT NULL,
    subject    text COLLATE "C" NOT NULL,       -- account id, network, registered domain, or hash of a name set
    full_at    timestamptz NOT NULL,
    PRIMARY KEY (limit_name, subject)
) WITH (fillfactor = 60);                       -- room for HOT: only full_at ever changes, and no index has it
ALTER TABLE rate_limits SET (autovacuum_vacuum_scale_factor = 0.05);

-- What an operator decided for one subject. `burst` 0: the limit does not hold for it.
CREATE TABLE limit_overrides (
    limit_name text NOT NULL,
    subject    text COLLATE "C" NOT NULL,       -- as in rate_limits, or a network of any length
    burst      integer NOT NULL CHECK (burst >= 0),
    period_s   integer NOT NULL CHECK (period_s > 0),
    until      timestamptz NOT NULL,            -- no exception is for ever
    reason     text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (limit_name, subject)
);

-- Failed validations of a name by an account up to this moment are forgiven; '' forgives those of all its names.
CREATE TABLE limit_unpauses (
    account_id       bytea NOT NULL,
    identifier_value text NOT NULL,
    unpaused_at      timestamptz NOT NULL,
    PRIMARY KEY (account_id, identifier_value)
);

-- The last resort of a race: two requests saw room, and there was room for one. It undoes the statement of the other.
CREATE FUNCTION refuse_over_limit() RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rate limit' USING ERRCODE = 'CH429';
END
$$;

-- A bucket that is full says what no bucket says.
CREATE FUNCTION prune_rate_limits() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM rate_limits WHERE full_at < now() - interval '1 hour';
    GET DIAGNOSTICS pruned = ROW_COUNT;
    DELETE FROM limit_overrides WHERE until < now() - interval '90 days';
    RETURN pruned;
END
$$;
REVOKE ALL ON FUNCTION prune_rate_limits() FROM PUBLIC;
