"""A certificate with its chain, and the other chains that there are (RFC 8555 7.4.2)."""

import base64
from typing import Final

from acme_api.protocol import directory, problem
from acme_api.wfe.context import Context
from acme_api.wfe.request import Post
from acme_api.wfe.response import PEM_CHAIN, Reply

_LINE: Final = 64


async def certificate(context: Context, post: Post) -> Reply:
    """The PEM chain, whatever Accept says (rows CE1 to CE6). It never changes, and is still served when expired."""
    target = post.target
    found = await context.certificates.chain(target.object_id, target.serial, position=target.alternate)
    if found is None or found.above is None:
        raise problem.not_found("there is no such certificate")
    if found.account_id != post.owner.id:
        raise problem.unauthorized("this certificate belongs to another account")
    post.require_read()
    links = tuple((directory.certificate_url(context.base_url, target.serial, target.object_id, alternate=position),
                   "alternate") for position in range(found.last_position + 1) if position != target.alternate)
    return Reply(body=pem_chain((found.certificate, *found.above)), content_type=PEM_CHAIN, links=links)


def pem_chain(certificates: tuple[bytes, ...]) -> bytes:
    """RFC 7468 in its strict form: 64 columns, LF, nothing but CERTIFICATE blocks (RFC 8555 9.1)."""
    return b"".join(_pem(certificate) for certificate in certificates)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"\n".join(text[start:start + _LINE] for start in range(0, len(text), _LINE))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
