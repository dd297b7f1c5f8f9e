"""Which requests live mode answers better than what is pre-signed (spec/pki.md 5.2, 5.9)."""

from typing import Final

from ocsp.protocol.live import MOST_CERT_IDS, Question, is_serial
from ocsp.protocol.request import MalformedRequest, parse_request
from ocsp.responder.answers import NOT_AUTHORIZED, NOT_YET_KNOWN, Answer, Answers

_NOT_KNOWN: Final = (NOT_AUTHORIZED, NOT_YET_KNOWN)


def question_of(answers: Answers, request: bytes, answer: Answer) -> Question | None:
    """What to ask the signer; None when `answer`, the one without live mode, is as good as any.

    It is when the request has no nonce and there is a response, or when it is about another CA's certificates, several
    issuers', or too many.
    """
    try:
        parsed = parse_request(request)
    except MalformedRequest:
        return None
    if (parsed.nonce is None and answer not in _NOT_KNOWN) or len(parsed.cert_ids) > MOST_CERT_IDS:
        return None
    issuer_ids: set[int] = set()
    cert_ids = []
    for cert_id in parsed.cert_ids:
        asked = answers.asked(cert_id)
        if asked is None or not is_serial(cert_id.serial):
            return None
        issuer_ids.add(asked.issuer_id)
        cert_ids.append((asked.hash_index, cert_id.serial))
    if len(issuer_ids) > 1:
        return None
    return Question(issuer_id=issuer_ids.pop(), cert_ids=tuple(cert_ids), nonce=parsed.nonce)
