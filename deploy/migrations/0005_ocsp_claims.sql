-- The pre-signer claims with row locks, in the transaction that publishes what it signed: nothing is written to claim,
-- and the server itself gives a dead process's rows back. `leased_by` and `leased_until` of ocsp_requests and
-- ocsp_shards are written by nobody; the grant on them is what SELECT FOR UPDATE asks for.
--
-- New certificates are taken in the order of the primary key, so that batches are sorted and old pages are done with.
DROP INDEX ocsp_requests_free;
-- Changed statuses have to be found at once among a million new ones.
CREATE INDEX ocsp_requests_changed ON ocsp_requests (serial) WHERE version > 0;
