"""Plumbing of every process: `ambient` (clock, entropy), `settings` (TOML and environment; `decoding`: what is wrong
with a document; `sensible_settings`: what has to hold of them; `public_settings`: what the public policy demands),
`postgres` (pool, LISTEN), `sessions` (prepared statements), `worker` (claim loop), `audit_log` (append-only chain),
`audit_anchor`, `audit_reader`, `lifecycle` (signals, parent's death, readiness), `http` (listening sockets),
`client_address` (what proxies say of it), `large_pages`, `log`."""
