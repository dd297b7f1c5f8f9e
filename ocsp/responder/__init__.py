"""Answers OCSP requests from what the pre-signer published: `tail` follows the batch log into `memory` (an LMDB file
that all workers of a machine map; `spool` fills an empty one), `answers` makes a response of a stored value, `quick`
the whole HTTP answer to a plain request, `server`, `connection`, `head` and `http_text` speak HTTP on a bare asyncio
protocol, on Linux below the epoll of `sockets`, `store` has the statements of role ocsp_reader, which reads only. In
live mode `question` says what has to be signed for one client, and `live` asks the pre-signer for it, by `live_store`.
"""
