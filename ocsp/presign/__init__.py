"""Signs OCSP responses in batches: `round` (what was revoked, what is new, what is due), `gate` (who uses the token
next), `signer` (templates and keys), `publish` (the batch log), `store` (the statements of role ocsp_signer). It
listens on nothing and opens no connection but PostgreSQL's."""
