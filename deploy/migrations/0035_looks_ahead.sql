-- newOrder may ask the VA to look at a record that is there already (dns-persist-01, "just-in-time validation"): a look
-- that finds nothing leaves nothing, and nobody sees it in a challenge.
ALTER TABLE validation_requests
    DROP CONSTRAINT validation_requests_kind_check,
    ADD CONSTRAINT validation_requests_kind_check CHECK (kind IN ('challenge', 'caa', 'look')),
    ADD CHECK (kind <> 'look' OR challenge_type = 'dns-persist-01');
