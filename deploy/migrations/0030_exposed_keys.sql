-- Keys whose private members a client sent to us in a JWK. The front end stores the proof, a certification request that
-- the key itself has signed; the CA checks it, blocks the key and takes the row away. Nothing private is stored.

CREATE TABLE exposed_keys (
    spki_sha256 bytea PRIMARY KEY,
    proof       bytea NOT NULL,     -- PKCS#10
    shown_at    timestamptz NOT NULL
);
