"""RFC 8555, pure. Requests: `jws` (the door to josepy) over `jwk`, `json_strict`, `base64url`; `account_key`, `nonce`.
Answers: `problem`, `directory` (every URL), `timestamp`. Resources: `account`, `order`, `authorization`, `challenge`,
`revocation`. CAA decision: `caa` (RFC 8659). Limits as arithmetic: `rate_limit`."""
