-- Nobody asks for keys or serial numbers of certificates in an order but operators, of one key or one account at a time: a
-- hash of the key is enough, and an entry without the serial number, of which many of one account share one.
DROP INDEX certificates_spki;
CREATE INDEX certificates_spki ON certificates USING hash (spki_sha256);
DROP INDEX certificates_account;
CREATE INDEX certificates_account ON certificates (account_id);

-- Queues are short and all of their rows go: their room is used again when somebody has looked which is free, which is
-- for the server to do by the thousand rows, and not by a share of what a table once was.
ALTER TABLE validation_requests SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE issuance_requests SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE ocsp_requests SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE ct_submissions SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
