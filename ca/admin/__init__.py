"""Operators: `cli` (the command `chancery`; `commands` has one module a noun), `page` (loopback HTTP, run by `__main__`),
`run_all`, `supervise` and `demo` (all processes of one machine), `migrate`, `maintenance` and `store` (the database)."""
