"""The process that speaks with Certificate Transparency logs: the only one of the CA with outbound network, and no key.

`publish` claims what is to be logged and stores what logs answered; `race` asks several logs for one precertificate;
`logs` verifies what they say, `log_client` speaks with one of them, `breaker` says when it may be asked; `store` holds
every statement of the role ca_publisher. What browsers want of SCTs is in `ca.pki.ct_policy`; the CA verifies again.
"""
