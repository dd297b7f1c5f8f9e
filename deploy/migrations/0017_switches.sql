-- Kill switches for issuers and profiles, and the end of an issuer's work. `issuers.active`: it has been put to work.

ALTER TABLE issuers
    ADD COLUMN disabled_at timestamptz,     -- the kill switch: it certifies nothing until it is enabled again
    ADD COLUMN retired_at  timestamptz;     -- it never certifies again; its CRLs and OCSP responses go on to the end

CREATE TABLE disabled_profiles (
    profile     text PRIMARY KEY,
    disabled_at timestamptz NOT NULL,
    operator    text NOT NULL,
    comment     text NOT NULL
);

-- Which chain of an issuer is offered first for a profile; without a row the one at position 0. All others follow in
-- their order (RFC 8555 7.4.2).
CREATE TABLE chain_preferences (
    issuer_id smallint NOT NULL,
    profile   text NOT NULL,
    position  smallint NOT NULL,
    PRIMARY KEY (issuer_id, profile),
    FOREIGN KEY (issuer_id, position) REFERENCES issuer_chains (issuer_id, position)
);
