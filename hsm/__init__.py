"""A PKCS#11 token: `token` (module, login, one session that heals), `key` (an HSM key as a cryptography private key,
and `sign_many`), `thread` (the one thread of an asyncio process that may touch it), `trial` (signatures by keys of the
session alone), `generate` (new keys with their attributes read back), `public_key`, `softhsm` (where it is; new
tokens), `errors`. The only package that imports pkcs11; CEREMONY.md is the way of a key into it."""
