-- Certificates that something is wrong with, all at once: their subscribers are told to renew now (RFC 9773), and the CA
-- revokes them in batches when an operator says so.

CREATE TABLE incidents (
    name            text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9.-]{0,63}$'),
    opened_at       timestamptz NOT NULL,
    operator        text NOT NULL,
    comment         text NOT NULL,
    explanation_url text NOT NULL,          -- for subscribers; empty: none
    query           text NOT NULL,          -- what selected the certificates
    closed_at       timestamptz             -- renewal windows are as usual again
);
-- Fixed at the moment when the incident was opened: what an operator saw is what is revoked.
CREATE TABLE incident_serials (
    incident text NOT NULL REFERENCES incidents,
    serial   bytea NOT NULL,
    PRIMARY KEY (incident, serial)
);
CREATE INDEX incident_serials_serial ON incident_serials (serial);

-- The order to revoke an incident's certificates, and how far the CA has come.
CREATE TABLE mass_revocations (
    incident     text PRIMARY KEY REFERENCES incidents,
    reason       smallint NOT NULL,
    operator     text NOT NULL,
    comment      text NOT NULL,
    requested_at timestamptz NOT NULL,
    halted       boolean NOT NULL DEFAULT false,    -- by an operator
    through      bytea NOT NULL DEFAULT '',         -- every serial number up to this one has been decided about
    examined     bigint NOT NULL DEFAULT 0,
    changed      bigint NOT NULL DEFAULT 0,
    worked_at    timestamptz,
    finished_at  timestamptz
);
CREATE INDEX mass_revocations_open ON mass_revocations (requested_at) WHERE finished_at IS NULL;
