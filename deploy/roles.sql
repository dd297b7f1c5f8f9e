-- One role per process; every column has one writing role. Applied after every migration, in one transaction,
-- by the owner. The migrator creates the roles themselves (they need a password) before this file runs.
-- tests/privileges/ tries what each role may not do.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC,
    acme_wfe, acme_va, ca_issuer, ca_publisher, ca_reader, ocsp_signer, ocsp_reader, ca_admin;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM PUBLIC, ocsp_signer;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO acme_wfe, acme_va, ca_issuer, ca_publisher, ca_reader, ocsp_signer, ocsp_reader,
    ca_admin;

-- WFE: what subscribers say.
GRANT SELECT ON accounts, key_changes, orders, authorizations, validation_requests, validations, caa_checks,
    finalizations, service_requests, issuance_requests, issuances, certificates, certificate_signatures, refusals,
    revocation_requests, revocations, issuers, issuer_chains, ocsp_requests, blocked_keys, blocked_names,
    incidents, incident_serials, disabled_profiles, chain_preferences, weak_keys TO acme_wfe;
GRANT INSERT (id, created_at, thumbprint, jwk, contacts, terms_agreed_at, eab_kid, eab, eab_single_use)
    ON accounts TO acme_wfe;
-- To verify an external account binding, its HMAC key has to be read; nobody else may.
GRANT SELECT ON eab_credentials TO acme_wfe;
GRANT UPDATE (thumbprint, jwk, contacts, deactivated_at) ON accounts TO acme_wfe;
GRANT INSERT ON key_changes, orders, authorizations, finalizations, service_requests TO acme_wfe;
GRANT SELECT, INSERT ON spent_nonces, database_timelines TO acme_wfe;
GRANT UPDATE (deactivated_at) ON authorizations TO acme_wfe;
GRANT INSERT (id, kind, authorization_id, account_id, challenge_type, thumbprint, requested_at, caa_name)
    ON validation_requests TO acme_wfe;
GRANT INSERT (id, kind, requested_at) ON issuance_requests TO acme_wfe;
GRANT INSERT ON revocation_requests, exposed_keys TO acme_wfe;
GRANT SELECT, INSERT, UPDATE (full_at) ON rate_limits TO acme_wfe;
GRANT SELECT ON limit_overrides, limit_unpauses, certificate_names TO acme_wfe;

-- VA: what it saw. It cannot touch an account, an order or a certificate.
GRANT SELECT ON accounts, authorizations, validation_requests, validations, caa_checks TO acme_va;
GRANT UPDATE (leased_by, leased_until, attempts), DELETE ON validation_requests TO acme_va;
GRANT INSERT ON validations, caa_checks TO acme_va;
GRANT SELECT, INSERT, UPDATE, DELETE ON perspective_health TO acme_va;

-- CA: what it signed, refused and revoked. It cannot write a validation or a finalize request.
GRANT SELECT ON accounts, key_changes, orders, authorizations, validations, caa_checks, validation_requests,
    finalizations, service_requests, issuance_requests, issuances, certificates, certificate_names,
    certificate_signatures, refusals, revocation_requests, revocations, issuers, crls, blocked_keys, blocked_names,
    operator_acts, incident_serials, mass_revocations, disabled_profiles, weak_keys, exposed_keys
    TO ca_issuer;
GRANT SELECT (kid, allowed_names) ON eab_credentials TO ca_issuer;
GRANT UPDATE (leased_by, leased_until, attempts), DELETE ON issuance_requests TO ca_issuer;
GRANT DELETE ON revocation_requests, exposed_keys TO ca_issuer;
GRANT INSERT ON issuances, certificates, certificate_names, certificate_signatures, refusals, crls TO ca_issuer;
GRANT INSERT, UPDATE (reason, version, evidence) ON revocations TO ca_issuer;
GRANT INSERT (serial, version, issuer_id, request_id, requested_at, not_after) ON ocsp_requests TO ca_issuer;
GRANT SELECT (serial, version) ON ocsp_requests TO ca_issuer;
GRANT EXECUTE ON FUNCTION ask_for_caa_checks(bytea[], bytea[], text[]) TO ca_issuer;
GRANT INSERT, UPDATE (authority, evidence, sweep_at), DELETE ON blocked_keys TO ca_issuer;
GRANT UPDATE (recorded_at) ON operator_acts TO ca_issuer;
GRANT UPDATE (through, examined, changed, worked_at, finished_at) ON mass_revocations TO ca_issuer;
GRANT EXECUTE ON FUNCTION close_accounts_with_blocked_keys() TO ca_issuer;
GRANT SELECT ON ocsp_responder_keys, ocsp_responders TO ca_issuer;
GRANT INSERT, UPDATE (certificate) ON ocsp_responders TO ca_issuer;
GRANT EXECUTE ON FUNCTION anchor_audit_head(text, bigint, bytea) TO ca_issuer, ocsp_signer;

-- Certificate Transparency: the CA signs and asks for submissions, the front end gives the final certificate out.
GRANT SELECT ON precertificate_signatures, final_certificates TO acme_wfe;
GRANT SELECT ON precertificate_signatures, final_certificates, ct_submissions, scts TO ca_issuer;
GRANT INSERT ON precertificate_signatures, final_certificates TO ca_issuer;
GRANT INSERT (serial, kind, request_id, requested_at) ON ct_submissions TO ca_issuer;

-- Publisher: what CT logs answered. It reads certificates and writes none.
GRANT SELECT ON issuers, issuer_chains, certificates, certificate_signatures, precertificate_signatures,
    final_certificates, ct_submissions, scts TO ca_publisher;
GRANT UPDATE (leased_by, leased_until, attempts), DELETE ON ct_submissions TO ca_publisher;
GRANT INSERT ON scts TO ca_publisher;

-- CRL and AIA server: reads what is published.
GRANT SELECT ON issuers, crls, published_files TO ca_reader;

-- OCSP pre-signer: responses, never a status.
GRANT SELECT ON issuers, certificates, revocations, ocsp_requests, ocsp_shards, ocsp_batches, ocsp_responder_keys,
    ocsp_responders TO ocsp_signer;
GRANT INSERT ON ocsp_responder_keys TO ocsp_signer;
GRANT SELECT, INSERT, UPDATE, DELETE ON ocsp_signers TO ocsp_signer;
GRANT SELECT, DELETE ON ocsp_resign_requests TO ocsp_signer;
GRANT UPDATE (leased_by, leased_until), DELETE ON ocsp_requests TO ocsp_signer;
GRANT INSERT, UPDATE, DELETE ON ocsp_shards TO ocsp_signer;
GRANT INSERT ON ocsp_batches TO ocsp_signer;
GRANT USAGE ON SEQUENCE ocsp_batch_id TO ocsp_signer;
GRANT EXECUTE ON FUNCTION tell_changed(bytea[]), end_ocsp_requests(bytea[], smallint[]), publish_ocsp_batch(smallint,
    timestamptz, integer, timestamptz, bytea, bytea[], boolean, bytea[], smallint[], bytea[], smallint[]) TO ocsp_signer;
GRANT SELECT, UPDATE (answered_at, response) ON ocsp_live_requests TO ocsp_signer;

-- OCSP responder: reads published batches, writes nothing. In live mode it asks for responses, through functions that
-- keep the queue short.
GRANT SELECT ON issuers, ocsp_batches, ocsp_responders TO ocsp_reader;
GRANT EXECUTE ON FUNCTION ask_for_live_ocsp(bytea, smallint, smallint[], bytea[], bytea, integer, integer),
    take_live_ocsp(bytea) TO ocsp_reader;

-- Operators' CLI and page: reads everything but secrets (the HMAC keys of external accounts, which it writes), asks for
-- revocations, revokes accounts, blocks names and keys, records what a ceremony made, keeps partitions, drops old CRLs,
-- decides about rate limits.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO ca_admin;
REVOKE SELECT ON eab_credentials FROM ca_admin;
GRANT SELECT (kid, created_at, created_by, comment, single_use, expires_at, allowed_names, revoked_at)
    ON eab_credentials TO ca_admin;
GRANT INSERT, UPDATE (revoked_at) ON eab_credentials TO ca_admin;
GRANT UPDATE (revoked_at, dns_persist_allowed_at, terms_confirmed_at) ON accounts TO ca_admin;
GRANT INSERT ON revocation_requests TO ca_admin;
GRANT INSERT ON ocsp_resign_requests TO ca_admin;
GRANT INSERT (id, acted_at, operator, act, subject, detail) ON operator_acts TO ca_admin;
GRANT INSERT, DELETE ON blocked_names TO ca_admin;
GRANT INSERT, DELETE ON disabled_profiles, weak_keys TO ca_admin;
GRANT INSERT, UPDATE, DELETE ON chain_preferences TO ca_admin;
GRANT INSERT, UPDATE (closed_at) ON incidents TO ca_admin;
GRANT INSERT ON incident_serials TO ca_admin;
GRANT INSERT, DELETE ON lint_findings TO ca_admin;
GRANT INSERT (incident, reason, operator, comment, requested_at), UPDATE (halted) ON mass_revocations TO ca_admin;
GRANT INSERT, UPDATE ON issuers, issuer_chains, published_files TO ca_admin;
GRANT INSERT, UPDATE, DELETE ON limit_overrides, limit_unpauses TO ca_admin;
GRANT EXECUTE ON FUNCTION create_partitions(timestamptz), drop_expired_partitions(timestamptz), prune_crls(integer),
    prune_rate_limits() TO ca_admin;
GRANT pg_read_all_stats TO ca_admin;
