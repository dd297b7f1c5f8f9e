"""A new order read ahead, before it is known who signed it (prospects.py)."""

from datetime import datetime, timedelta
from typing import Final

from acme_api.protocol.json_strict import JsonError, decode_object
from acme_api.protocol.new_order import parse_new_order
from acme_api.protocol.problem import Problem
from acme_api.wfe.context import Context
from acme_api.wfe.prospects import Wish
from ca.pki.object_id import object_id

# BR 3.2.2.8: a look at CAA holds for eight hours. A validation is reused while that leaves an hour for the order.
REUSE_CAA: Final = timedelta(hours=7)
REUSE_LEFT: Final = timedelta(hours=1)


def wish_of(context: Context, payload: bytes, now: datetime) -> Wish | None:
    """What the payload wishes for; None when anything is wrong with it, which the handler finds again and says."""
    try:
        request = parse_new_order(decode_object(payload), context.order_policy, now)
    except (JsonError, Problem):
        return None
    # A validation that is fresh enough belongs to an authorization that was made at most so long ago.
    oldest = now - context.lives.authorization - REUSE_CAA - REUSE_LEFT
    return Wish(request=request, made_after=object_id(oldest, bytes(16)), valid_until=now + REUSE_LEFT,
                caa_after=now - REUSE_CAA, persist=request.profile in context.dns_persist_profiles,
                subdomains=context.order_policy.subdomains,
                least_corroborated=context.perspectives.least_voices(now))
