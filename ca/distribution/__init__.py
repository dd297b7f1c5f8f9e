"""The CRL and AIA server: `store` (what ca_reader reads), `snapshot` (every published file in memory), `refresh` (from
one to the other), `server` (HTTP)."""
