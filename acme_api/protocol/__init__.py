"""RFC 8555, pure. Requests: `jws` (the door to josepy) over `jwk`, `json_strict`, `base64url`; `account_key`,
`exposed_key`, `nonce`.
Answers: `problem`, `directory` (every URL), `timestamp`. Resources: `account` with `external_account`, `order`,
`authorization`, `challenge`, `revocation`, `renewal_info` (RFC 9773). CAA decision: `caa` (RFC 8659). Limits as
arithmetic: `rate_limit`."""
