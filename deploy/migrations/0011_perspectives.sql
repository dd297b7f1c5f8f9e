-- How each validation and each later look at CAA was confirmed from other network perspectives (BR 3.2.2.9). The CA
-- judges by these numbers, whatever the validation authority is configured to; what each perspective saw is in evidence.

ALTER TABLE validations
    ADD COLUMN remotes_asked        smallint NOT NULL DEFAULT 0,
    ADD COLUMN remotes_corroborated smallint NOT NULL DEFAULT 0,
    ADD COLUMN remote_rirs          smallint NOT NULL DEFAULT 0;   -- regions of RIRs that these are in

ALTER TABLE caa_checks
    ADD COLUMN remotes_asked        smallint NOT NULL DEFAULT 0,
    ADD COLUMN remotes_corroborated smallint NOT NULL DEFAULT 0,
    ADD COLUMN remote_rirs          smallint NOT NULL DEFAULT 0;

-- What each validation process knows about each remote perspective at present; written every few seconds.
CREATE TABLE perspective_health (
    worker      text NOT NULL,                  -- the validation process
    perspective text NOT NULL,
    position    smallint NOT NULL,              -- in the configuration
    rir         text NOT NULL,
    seen_at     timestamptz NOT NULL,
    answered_at timestamptz,                    -- the last answer of any kind
    lag_ms      integer,                        -- of the last probe that was answered
    failures    integer NOT NULL,               -- since the last answer
    retry_at    timestamptz,                    -- not asked before: the breaker is open
    fault       text,                           -- why it did not answer, the last time
    PRIMARY KEY (worker, perspective)
);
