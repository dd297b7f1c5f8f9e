"""renewalInfo, which anybody may ask, and the certificate that a new order replaces (RFC 9773)."""

from collections.abc import Collection
from functools import lru_cache

from acme_api.protocol import problem
from acme_api.protocol.renewal_info import (
    CACHE_S,
    CertificateId,
    Renewable,
    is_due,
    parse_certificate_id,
    renewal_info_object,
    require_replaceable,
    retry_after_s,
)
from acme_api.wfe.context import Context
from acme_api.wfe.response import Reply, json_reply
from ca.pki.identifier import Identifier
from ca.pki.issuer import read_issuer


async def renewal_info(context: Context, text: str) -> Reply:
    """The suggested window of the certificate that `text` names (rows AR1 to AR6). Raises Problem: malformed, 404."""
    found = await _find(context, parse_certificate_id(text))
    if found is None:
        raise problem.not_found("no certificate of this CA has this issuer and serial number")
    return json_reply(renewal_info_object(found, context.ambient.now()), retry_after_s=retry_after_s(found),
                      cache_s=CACHE_S)


async def require_predecessor(
    context: Context, wanted: CertificateId, account_id: bytes, identifiers: Collection[Identifier]
) -> bool:
    """Whether the order is a renewal that is due (row AR10). Raises Problem (rows AR8, AR9).

    What another CA issued may be named, too, by subscribers who come from there: it is shown again, and means nothing.
    An operator may refuse it.
    """
    found = await _find(context, wanted)
    if found is None and context.only_own_replaced:
        raise problem.malformed("ARI 'replaces': this CA has issued no certificate of this issuer and serial number")
    if found is None:
        return False
    require_replaceable(found, account_id, identifiers)
    return is_due(found, context.ambient.now())


async def _find(context: Context, wanted: CertificateId) -> Renewable | None:
    """The certificate, when it is ours: serial numbers are unique here, the key identifier has to be its issuer's."""
    found = await context.renewals.renewable(wanted)
    if found is None or _key_id(found[1]) != wanted.key_id:
        return None
    return found[0]


@lru_cache(maxsize=64)
def _key_id(issuer_der: bytes) -> bytes:
    return read_issuer(issuer_der).key_id
