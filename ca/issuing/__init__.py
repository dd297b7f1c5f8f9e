"""The process that holds the issuing keys. It listens on nothing and opens no connection but PostgreSQL.

`cycle` is the issuance cycle (CYCLE.md explains it); `evidence` derives the right to issue (`caa_waits`: who waits for
more of it), `service` that of our own services, `grant` is its value, `intent` what is fixed of a certificate before
its signature; `transparency` takes SCTs to final certificates; `authorities` are the issuers with their keys, `signer`
lints and signs, `breaker` knows whether the token answers, `audit` keeps the record; `revoke` carries out revocations,
`crls` publishes, `responders` certifies OCSP responders; `queue_store`, `evidence_store`, `intent_store`,
`issuer_store`, `ct_store`, `revocation_store`, `block_store` and `responder_store` hold every statement of the role
ca_issuer; `policy` is the configuration's part in it.
"""
