-- Delegated OCSP responders (RFC 6960 4.2.2.2): where an issuer's own key is slow, or should not do bulk work, a P-256 key
-- in the pre-signer's token signs in its place. The pre-signer makes the key and asks with a certification request; the
-- CA, which alone uses the issuer's key, certifies it and renews the certificate by itself.

CREATE TABLE ocsp_responder_keys (
    label     text PRIMARY KEY,                 -- of the key in the pre-signer's token
    issuer_id smallint NOT NULL REFERENCES issuers,
    csr       bytea NOT NULL,                   -- PKCS#10: the public key, and the proof of who has the private one
    made_at   timestamptz NOT NULL
);

-- `id` stands in batches. The row is the intent, committed before the token is asked, as is the row of the same serial
-- number in `certificates`; the certificate follows.
CREATE TABLE ocsp_responders (
    id          smallint PRIMARY KEY CHECK (id > 0),
    issuer_id   smallint NOT NULL REFERENCES issuers,
    key_label   text NOT NULL REFERENCES ocsp_responder_keys,
    serial      bytea NOT NULL UNIQUE,
    not_before  timestamptz NOT NULL,
    not_after   timestamptz NOT NULL,
    certificate bytea
);
