"""A certificate with its chain, and the other chains that there are (RFC 8555 7.4.2)."""

import base64
import re
from typing import Final

from acme_api.protocol import directory, problem
from acme_api.protocol.directory import Target
from acme_api.wfe.certificate_store import Chain
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import PEM_CHAIN, PKIX_CERT, Reply

_LINE: Final = 64
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)


async def certificate(context: Context, post: Post) -> Reply:
    """The PEM chain, or one certificate in DER for who asks for that (rows CE1 to CE6). It never changes, and is still
    served when expired."""
    target = post.target
    found = post.loaded
    if not isinstance(found, Chain) or found.above is None:
        raise problem.not_found("there is no such certificate")
    if found.account_id != post.owner.id:
        raise problem.unauthorized("this certificate belongs to another account")
    post.require_read()
    if target.above or prefers_one_certificate(post.accept):
        return _one(context, target, (found.certificate, *found.above))
    links = tuple((directory.certificate_url(context.base_url, target.serial, target.object_id, alternate=position),
                   "alternate") for position in range(found.last_position + 1) if position != target.alternate)
    return Reply(body=pem_chain((found.certificate, *found.above)), content_type=PEM_CHAIN, links=links)


def _one(context: Context, target: Target, chain: tuple[bytes, ...]) -> Reply:
    """One certificate of the chain, with a link to the next, which is fetched in the same way (RFC 8555 7.4.2)."""
    if target.above >= len(chain):
        raise problem.not_found("the chain has no such certificate")
    up = directory.certificate_url(context.base_url, target.serial, target.object_id, alternate=target.alternate,
                                   above=target.above + 1)
    links = ((up, "up"),) if target.above + 1 < len(chain) else ()
    return Reply(body=chain[target.above], content_type=PKIX_CERT, links=links)


def prefers_one_certificate(accept: str) -> bool:
    """Whether an Accept header names application/pkix-cert, and the chain of PEM less or not at all (RFC 9110 12.5.1).
    Everything else, whatever it is, gets the chain."""
    weights = {PKIX_CERT: 0.0, PEM_CHAIN: 0.0}
    for item in accept.split(","):
        media_type, *parameters = (part.strip() for part in item.lower().split(";"))
        if media_type in weights:
            weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
            weights[media_type] = float(weight) if _QUALITY.fullmatch(weight) else 0.0
    return weights[PKIX_CERT] > weights[PEM_CHAIN]


def pem_chain(certificates: tuple[bytes, ...]) -> bytes:
    """RFC 7468 in its strict form: 64 columns, LF, nothing but CERTIFICATE blocks (RFC 8555 9.1)."""
    return b"".join(_pem(certificate) for certificate in certificates)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"\n".join(text[start:start + _LINE] for start in range(0, len(text), _LINE))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
