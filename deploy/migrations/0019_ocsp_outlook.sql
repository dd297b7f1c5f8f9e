-- What a forecast of the OCSP backlog needs: how much a range holds, and how fast each signer is.
ALTER TABLE ocsp_shards ADD COLUMN certificates integer NOT NULL DEFAULT 0;     -- signed in it the last time

-- One row for each pre-signer process and issuer, written again every few seconds while it runs.
CREATE TABLE ocsp_signers (
    worker        text NOT NULL,                -- host:pid
    issuer_id     smallint NOT NULL,
    responder_id  smallint NOT NULL,            -- 0: the issuer's own key
    certificate_s double precision,             -- seconds a certificate, all its signatures; null: nothing signed yet
    seen_at       timestamptz NOT NULL,
    PRIMARY KEY (worker, issuer_id)
);

-- Queue: an operator wants everything signed again that was signed before this moment. Deleted by the pre-signer when
-- the ranges are due.
CREATE TABLE ocsp_resign_requests (
    id            bytea PRIMARY KEY,
    signed_before timestamptz NOT NULL,
    operator      text NOT NULL
);
