-- Certificate Transparency (RFC 6962). With it, certificates.tbs is the precertificate's TBS (its last extension is the
-- poison), and the order of facts for one serial number is: certificates, precertificate_signatures, scts,
-- final_certificates, certificate_signatures. Each is written once, so there is one precertificate and one final
-- certificate at most, whatever crashes; each table is partitioned by the time in the serial number.

-- The signature over certificates.tbs where that is a precertificate, verified before it is stored.
CREATE TABLE precertificate_signatures (
    serial    bytea PRIMARY KEY,
    signed_at timestamptz NOT NULL,
    signature bytea NOT NULL
) PARTITION BY RANGE (serial);

-- The intent of the final certificate: its TBS with the SCT list, committed before the HSM is asked for the second
-- signature. certificate_signatures.signature is over this TBS where there is one, else over certificates.tbs.
CREATE TABLE final_certificates (
    serial     bytea PRIMARY KEY,
    tbs        bytea NOT NULL,
    created_at timestamptz NOT NULL
) PARTITION BY RANGE (serial);

-- Queue of the publisher: what has to be submitted to logs. Deleted when enough logs have answered, or given up.
CREATE TABLE ct_submissions (
    serial       bytea NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('precertificate', 'certificate')),
    request_id   bytea NOT NULL,                -- the order that waits for it
    requested_at timestamptz NOT NULL,
    leased_by    text,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    attempts     smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (serial, kind)
);
CREATE INDEX ct_submissions_free ON ct_submissions (leased_until);

-- What logs answered for a precertificate, verified by the publisher; the CA verifies it again before it embeds it.
CREATE TABLE scts (
    serial      bytea NOT NULL,
    log_id      bytea NOT NULL,                 -- SHA-256 of the log's key
    received_at timestamptz NOT NULL,
    sct         bytea NOT NULL,                 -- SerializedSCT
    PRIMARY KEY (serial, log_id)
) PARTITION BY RANGE (serial);

INSERT INTO partitioned_tables (name, key, period, keep_for) VALUES
    ('precertificate_signatures', 'serial', 'month', '2 years'),
    ('final_certificates', 'serial', 'month', '2 years'),
    ('scts', 'serial', 'month', '2 years');
