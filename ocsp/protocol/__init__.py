"""OCSP without I/O: `request` (strict parser, GET path), `response` (template encoder), `live` (responses made for one
request), `rates` (how many), `batch` (what pre-signer and responder exchange), `schedule` (what is due, and which times
a response carries), `forecast` (when a backlog is done).
"""
