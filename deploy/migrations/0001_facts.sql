-- Facts are stored, statuses are computed: no table has a status column. Each row is a fact that one
-- process alone may assert; pure functions derive the RFC 8555 7.1.6 statuses from them.
--
-- Identifiers (bytea, 22 bytes) are 6 bytes of big-endian unix milliseconds and 16 random bytes: unguessable,
-- and range-partitioned by time with the primary key alone. Serial numbers (bytea, 18 bytes) start with a
-- 2-byte day number for the same reason. Expired partitions are dropped, never deleted row by row, so there
-- are no foreign keys between partitioned tables.
--
-- The writing role of each column is in ../roles.sql.

CREATE TABLE accounts (
    id              bytea PRIMARY KEY,
    created_at      timestamptz NOT NULL,
    thumbprint      bytea NOT NULL UNIQUE,      -- RFC 7638 SHA-256 of the current key, 32 bytes
    jwk             text NOT NULL,              -- canonical JSON of the current public key
    contacts        text[] NOT NULL DEFAULT '{}',
    terms_agreed_at timestamptz,
    deactivated_at  timestamptz,                -- by the subscriber
    revoked_at      timestamptz                 -- by an operator
);

-- RFC 8555 7.3.5. The outer JWS carries the inner one, so a row proves by itself that the old key handed over
-- to the new one: the link that the CA follows from a validated thumbprint to the key that signs finalize.
CREATE TABLE key_changes (
    account_id     bytea NOT NULL,
    changed_at     timestamptz NOT NULL,
    old_thumbprint bytea NOT NULL,
    new_thumbprint bytea NOT NULL,
    jws            text NOT NULL,               -- the flattened outer JWS as received
    PRIMARY KEY (account_id, changed_at)
);

-- A nonce is self-authenticating (time, random, MAC); only its use is written. 4 bytes unix seconds come first.
CREATE TABLE spent_nonces (
    nonce bytea PRIMARY KEY
) PARTITION BY RANGE (nonce);

CREATE TABLE orders (
    id                bytea PRIMARY KEY,
    account_id        bytea NOT NULL,
    expires_at        timestamptz NOT NULL,
    identifier_types  text[] NOT NULL,
    identifier_values text[] NOT NULL,          -- normalised, '*.' kept
    authorization_ids bytea[] NOT NULL,         -- same positions as the identifiers
    profile           text NOT NULL,
    not_before        timestamptz,
    not_after         timestamptz
) PARTITION BY RANGE (id);
CREATE INDEX orders_account ON orders (account_id, id);

CREATE TABLE authorizations (
    id               bytea PRIMARY KEY,
    account_id       bytea NOT NULL,
    identifier_type  text NOT NULL,
    identifier_value text NOT NULL,             -- without '*.'
    wildcard         boolean NOT NULL,
    expires_at       timestamptz NOT NULL,      -- while pending; a valid one lives as its validation says
    challenge_types  text[] NOT NULL,
    challenge_tokens text[] NOT NULL,
    deactivated_at   timestamptz
) PARTITION BY RANGE (id);
CREATE INDEX authorizations_reuse ON authorizations (account_id, identifier_value, identifier_type, wildcard);

-- Queue: a challenge that the client has answered (kind 'challenge'), or a CAA set that has to be looked at
-- again before issuance (kind 'caa'). Deleted in the transaction that stores the outcome.
CREATE TABLE validation_requests (
    id               bytea PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('challenge', 'caa')),
    authorization_id bytea NOT NULL,
    account_id       bytea NOT NULL,
    challenge_type   text NOT NULL,
    thumbprint       bytea NOT NULL,            -- of the account key when it answered (RFC 8555 8.1)
    requested_at     timestamptz NOT NULL,
    leased_by        text,
    leased_until     timestamptz NOT NULL DEFAULT '-infinity',
    attempts         smallint NOT NULL DEFAULT 0,
    UNIQUE (authorization_id, kind)
);
CREATE INDEX validation_requests_free ON validation_requests (leased_until);

-- What the VA saw. The identifier and the thumbprint are copied here by the VA, so that the CA need not
-- believe anything the WFE can write.
CREATE TABLE validations (
    authorization_id bytea PRIMARY KEY,
    account_id       bytea NOT NULL,
    identifier_type  text NOT NULL,
    identifier_value text NOT NULL,
    wildcard         boolean NOT NULL,
    challenge_type   text NOT NULL,
    thumbprint       bytea NOT NULL,
    validated_at     timestamptz NOT NULL,
    valid_until      timestamptz,               -- null: the validation failed
    caa_checked_at   timestamptz,
    problem          jsonb,                     -- null: it succeeded
    evidence         jsonb NOT NULL
) PARTITION BY RANGE (authorization_id);

CREATE TABLE caa_checks (
    authorization_id bytea NOT NULL,
    checked_at       timestamptz NOT NULL,
    problem          jsonb,                     -- null: issuance is permitted
    evidence         jsonb NOT NULL,
    PRIMARY KEY (authorization_id, checked_at)
) PARTITION BY RANGE (authorization_id);

-- The subscriber's own signed request (RFC 8555 7.4), in its three decoded parts; the CSR is in the payload.
CREATE TABLE finalizations (
    order_id      bytea PRIMARY KEY,
    requested_at  timestamptz NOT NULL,
    jwk           text NOT NULL,                -- canonical JSON of the key that signed it
    jws_protected bytea NOT NULL,
    jws_payload   bytea NOT NULL,
    jws_signature bytea NOT NULL
) PARTITION BY RANGE (order_id);

-- Certificates of our own services (the WFE's TLS certificate): the CA signs them only for names that its own
-- configuration lists.
CREATE TABLE service_requests (
    id           bytea PRIMARY KEY,
    requested_at timestamptz NOT NULL,
    csr          bytea NOT NULL
) PARTITION BY RANGE (id);

-- Queue of the CA. Deleted in the transaction that stores the certificate or the refusal.
CREATE TABLE issuance_requests (
    id           bytea PRIMARY KEY,             -- of the order or of the service request
    kind         text NOT NULL CHECK (kind IN ('order', 'service')),
    requested_at timestamptz NOT NULL,
    leased_by    text,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    attempts     smallint NOT NULL DEFAULT 0
);
CREATE INDEX issuance_requests_free ON issuance_requests (leased_until);

-- The intent: committed before the HSM is asked. One per order, one per serial number.
CREATE TABLE issuances (
    request_id bytea PRIMARY KEY,               -- of the order or of the service request
    serial     bytea NOT NULL
) PARTITION BY RANGE (request_id);

CREATE TABLE certificates (
    serial      bytea PRIMARY KEY,              -- 18 bytes
    request_id  bytea NOT NULL,
    account_id  bytea,                          -- null: a service certificate
    issuer_id   smallint NOT NULL,
    profile     text NOT NULL,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    spki_sha256 bytea NOT NULL,
    tbs         bytea NOT NULL,                 -- TBSCertificate DER, exactly what is signed
    created_at  timestamptz NOT NULL
) PARTITION BY RANGE (serial);
CREATE INDEX certificates_spki ON certificates (spki_sha256);
CREATE INDEX certificates_account ON certificates (account_id, serial);

CREATE TABLE certificate_names (
    reversed_name text COLLATE "C" NOT NULL,    -- reverse(name), so that a suffix is a prefix: 'moc.elpmaxe.www'
    serial        bytea NOT NULL,
    PRIMARY KEY (reversed_name, serial)
) PARTITION BY RANGE (serial);

-- The signature over certificates.tbs, verified before it is stored. Certificate = SEQUENCE {tbs, alg, signature}.
CREATE TABLE certificate_signatures (
    serial    bytea PRIMARY KEY,
    signed_at timestamptz NOT NULL,
    signature bytea NOT NULL
) PARTITION BY RANGE (serial);

CREATE TABLE refusals (
    request_id bytea PRIMARY KEY,
    refused_at timestamptz NOT NULL,
    problem    jsonb NOT NULL
) PARTITION BY RANGE (request_id);

-- Queue: who asks that a certificate be revoked, and by what right. Kept until the CA has carried it out.
CREATE TABLE revocation_requests (
    id           bytea PRIMARY KEY,
    serial       bytea NOT NULL,
    reason       smallint NOT NULL,
    authority    text NOT NULL CHECK (authority IN ('account', 'authorizations', 'certificate_key', 'operator')),
    evidence     jsonb NOT NULL,                -- the JWS as received, or the operator and the reason given
    requested_at timestamptz NOT NULL
);

CREATE TABLE revocations (
    serial     bytea PRIMARY KEY,
    revoked_at timestamptz NOT NULL,
    reason     smallint NOT NULL,               -- RFC 5280 5.3.1; 0 means that no reasonCode is encoded
    version    smallint NOT NULL DEFAULT 1,     -- 1, then 2 when the reason became keyCompromise
    authority  text NOT NULL,
    evidence   jsonb NOT NULL
) PARTITION BY RANGE (serial);

-- What the ceremony made: public data that every process may read.
CREATE TABLE issuers (
    id             smallint PRIMARY KEY,
    name           text NOT NULL UNIQUE,        -- also the label of its key in the token
    key_type       text NOT NULL CHECK (key_type IN ('rsa', 'ec')),
    certificate    bytea NOT NULL,              -- DER
    -- Fixed for the issuer's life: the URL is in certificates. A divisor of 256, so that the last byte of a serial
    -- number says its shard.
    crl_shards     smallint NOT NULL CHECK (crl_shards IN (1, 2, 4, 8, 16, 32, 64, 128, 256)),
    active         boolean NOT NULL,            -- new certificates are signed by it
    created_at     timestamptz NOT NULL
);
-- Chains to offer for an issuer: 0 is the default, others are alternates (RFC 8555 7.4.2). The certificates
-- above the leaf, in order, concatenated DER in an array, the root left out.
CREATE TABLE issuer_chains (
    issuer_id    smallint NOT NULL REFERENCES issuers,
    position     smallint NOT NULL,
    certificates bytea[] NOT NULL,
    PRIMARY KEY (issuer_id, position)
);
-- Every CA certificate and CRL that is served at an AIA or CRL URL and was made in a ceremony: path -> bytes.
CREATE TABLE published_files (
    path         text PRIMARY KEY,
    content_type text NOT NULL,
    body         bytea NOT NULL,
    created_at   timestamptz NOT NULL
);

CREATE TABLE crls (
    issuer_id   smallint NOT NULL,
    shard       smallint NOT NULL,              -- 0-based: unsigned serial mod crl_shards
    number      numeric NOT NULL,               -- cRLNumber, strictly increasing per (issuer, shard)
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    entries     integer NOT NULL,
    der         bytea NOT NULL,
    PRIMARY KEY (issuer_id, shard, number)
);

-- Queue of the pre-signer: a serial that has no response yet, or one whose status changed. Deleted in the
-- transaction that publishes the response, so no row here means that responders have been told.
CREATE TABLE ocsp_requests (
    serial       bytea NOT NULL,
    version      smallint NOT NULL,             -- 0 new, else revocations.version
    issuer_id    smallint NOT NULL,
    request_id   bytea NOT NULL,                -- the order that waits for it
    requested_at timestamptz NOT NULL,
    leased_by    text,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (serial, version)
);
CREATE INDEX ocsp_requests_free ON ocsp_requests (leased_until);

-- When a range of serial numbers is signed again. [first, last] is a part of one issuance day.
CREATE TABLE ocsp_shards (
    issuer_id    smallint NOT NULL,
    first_serial bytea NOT NULL,
    last_serial  bytea NOT NULL,                -- inclusive
    due_at       timestamptz NOT NULL,
    signed_at    timestamptz NOT NULL,          -- oldest thisUpdate that responders may still hold
    leased_by    text,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (issuer_id, first_serial)
);
CREATE INDEX ocsp_shards_due ON ocsp_shards (due_at);

-- One row holds many responses (ocsp/protocol/batch.py has the format). Ids are taken under an advisory lock,
-- so they become visible in order and a responder can tail them.
CREATE TABLE ocsp_batches (
    id           bigint NOT NULL,
    produced_at  timestamptz NOT NULL,
    issuer_id    smallint NOT NULL,
    count        integer NOT NULL,
    next_update  timestamptz NOT NULL,          -- of the latest response in it
    payload      bytea NOT NULL,
    PRIMARY KEY (id, produced_at)
) PARTITION BY RANGE (produced_at);
ALTER TABLE ocsp_batches ALTER COLUMN payload SET STORAGE EXTERNAL;   -- signatures do not compress
CREATE SEQUENCE ocsp_batch_id;
