"""The ACME web front end. `app` routes, `request` authenticates a POST, `response` renders; one module of handlers
per resource (`accounts`, `key_change`, `orders`, `authorizations`, `pre_authorizations`, `certificates`,
`revocations`, `renewals`); `store`, `account_store`, `authorization_store`, `certificate_store` and `renewal_store`
are its SQL; `finalizing` is what a finalize request is read with, `prospects` and `wishes` what a new order is read
with, and `coverage` says which authorizations would stand for a name; `just_in_time` lets newOrder see what is there
already; `exposed_keys` has the CA block private keys that clients send; `limits` and `limit_store` are rate limits,
`flood` those in memory; `waiters` and `notifier` are NOTIFY in and out; `accept` and
`proxy_protocol` say whose a connection is; `server` is the HTTP connection; `tls` and `service_certificate` keep the
server's own certificate."""
