"""Operators: `cli` (the command `chancery`; `commands` has one module a noun), `page` (loopback HTTP of `__main__`),
`run_all`, `supervise`, `demo` (all processes of one machine), `migrate`, `maintenance` (the database); SQL is in
`*_store`, one module a subject."""
