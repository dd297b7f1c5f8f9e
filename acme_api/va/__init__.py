"""Validation of challenges and CAA: the one process that talks to the outside, and that alone may say what it saw.

`perform` claims requests, keeps slow targets away from fast ones and stores outcomes through `store`; `check` has one
request looked at from here (`look` makes the tries) and then from elsewhere (`perspectives`, each over a
`perspective_client`); `remotes` says whether there are enough. `perspective_server` is the other end, on hosts with no
database, started by `perspective`; both speak `perspective_message` over `perspective_tls`. `methods` has the question
that a try asks and one file per method (`http01`, `dns01`, `dns_persist01`, `tlsalpn01`, `caa`). Below them `dial`
makes every connection, to addresses that `address` lets through and as many at once as `gate` does; `http_get` speaks
over it, `resolver` asks the DNS (`dnssec` says what an answer without the AD bit is worth, `dns_errors` puts failures
into words). `failure` and
`evidence` are what each leaves behind; `wiring` is what a configuration says about all of it. `dry_run` is a program of
its own: one look without an order, for operators.
"""
