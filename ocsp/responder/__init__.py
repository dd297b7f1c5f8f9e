"""Answers OCSP requests from what the pre-signer published: `tail` follows the batch log into `memory` (an LMDB file
that all workers of a machine map; `spool` fills an empty one; `shortcut`, looked after by `shortcut_keeper`, is a copy
in which values are found faster), `answers` makes a response of a stored value, `quick` the whole HTTP answers to plain
requests, `server`, `connection`, `head` and `http_text` speak HTTP on a bare asyncio protocol, on Linux below the epoll
of `sockets`, `tally` has what each worker counts, `store` the statements of role ocsp_reader, which reads only. In live
mode `question` says what has to be signed for one client, and `live` asks the pre-signer for it, by `live_store`.
"""
