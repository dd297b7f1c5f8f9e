"""A PKCS#11 token: `token` (module, slot, login, session), `key` (an HSM key as a cryptography private key),
`generate` (new keys with their attributes read back), `errors`. The only package that imports pkcs11."""
