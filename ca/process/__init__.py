"""Plumbing of every process: `ambient` (clock, entropy), `settings` (TOML and environment), `postgres` (pool, LISTEN),
`worker` (claim loop), `lifecycle` (signals, parent's death, readiness), `http` (listening sockets), `log`."""
