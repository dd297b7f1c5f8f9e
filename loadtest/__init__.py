"""Load tests from outside: a black-box client that imports none of Chancery's packages, so it cannot share their bugs.

| file | holds |
|---|---|
| `__main__.py` | the command: `python -m loadtest acme\\|ocsp\\|presign\\|storage\\|all` |
| `scenario_*.py` | what is measured, one file a scenario |
| `acme_round.py` | one round of orders: a number of accounts at once, or a steady rate |
| `driver_acme.py`, `poll.py`, `http_connection.py`, `challenge_server.py` | an ACME client that costs little |
| `ocsp_load.py`, `second_responder.py` | OCSP requests, and wrk as their sender; a responder that catches up |
| `peers.py`, `chancery_process.py`, `program.py` | starts and stops Chancery, Pebble and nginx on loopback |
| `database.py`, `synthetic.py`, `signing_loop.py` | the database from outside, made-up certificates, bare HSM loop |
| `process_cpu.py`, `statements.py` | where the processor time of an order goes |
| `session.py` | what the scenarios of one command share |
| `report.py`, `targets.py`, `plot.py` | rows, ratios, table, JSON file; the figures to reach; cost against size |
"""
