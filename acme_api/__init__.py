"""RFC 8555: `protocol` (pure), `wfe` (the ACME web front end), `va` (validation of challenges and CAA)."""
