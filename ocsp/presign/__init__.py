"""Signs OCSP responses in batches: `round` (what was revoked, what is new, what is due), `gate` (who uses the token
next), `signer` (templates and keys), `signers` (an issuer's own key or its delegated responder's), `publish` (the batch
log), `live` (what one client asks for, at once), `tell` (how fast it is, for forecasts), `store`, `live_store` (the
statements of role ocsp_signer). It listens on nothing and opens no connection but PostgreSQL's."""
