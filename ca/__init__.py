"""The authority: `pki` (pure rules and bytes), `process` (plumbing of every process), and one package per process:
`issuing` (holds the keys, listens on nothing), `publisher` (CT logs), `distribution` (CRLs and CA certificates),
`admin` (operators)."""
