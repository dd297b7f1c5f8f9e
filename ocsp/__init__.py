"""RFC 6960 and RFC 9919: `protocol` (pure), `presign` (signs batches), `responder` (serves them)."""
