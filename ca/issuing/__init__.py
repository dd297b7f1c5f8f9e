"""The process that holds the issuing keys: `cycle` (CYCLE.md explains it), `evidence` (the right to issue), `service`
(certificates of our own services), `signer` (lint and HSM), `revoke`, `crls`, and the statements of role ca_issuer in
`store` and `revocation_store`. It listens on nothing and opens no connection but PostgreSQL."""
