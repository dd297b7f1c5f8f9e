"""Serves pre-signed responses: `lookup` (request to response), `server` (HTTP/1.x on a bare protocol: the hot path),
`memory` (the LMDB that all workers map), `tail` (follows the batch log into it), `store` (role ocsp_reader)."""
