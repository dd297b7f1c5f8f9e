"""The operators' page: `watch` (looks at the database, not too often), `html`, `metrics`, `server` (loopback HTTP)."""
