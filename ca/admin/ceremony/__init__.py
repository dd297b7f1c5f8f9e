"""Key ceremonies: `plan` (TOML, and `demo_plan.toml`), `act` (`run_ceremony`), `hierarchy` (what is signed, in order),
`stand_in`, `lint`, `checks`, `outputs` (the directory that is released by one rename), `result`, `read` (verify it
later), `store` (into the database), `discard` (after a crash), `errors`. hsm/CEREMONY.md tells people how."""
