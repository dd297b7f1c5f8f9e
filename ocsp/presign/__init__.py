"""Signs OCSP responses in batches: `signer` (templates and token), `round` (what is new or revoked, what is due),
`store` (the statements of role ocsp_signer). It listens on nothing and opens no connection but PostgreSQL."""
