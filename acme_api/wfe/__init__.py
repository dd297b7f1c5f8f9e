"""The ACME web front end. `app` routes, `request` authenticates a POST, `response` renders; one module of handlers per
resource (`accounts`, `key_change`, `orders`, `authorizations`, `certificates`, `revocations`); `store` and
`certificate_store` are all SQL of role acme_wfe; `waiters` and `notifier` are NOTIFY in and out; `server` is the HTTP
connection; `tls` and `service_certificate` keep the server's own certificate."""
