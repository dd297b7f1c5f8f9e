"""Is the record there already? newOrder lets the VA look, where dns-persist-01 is offered (the draft's just-in-time
validation, row DP4).

The VA looks once, and a look that finds nothing leaves nothing: the authorization stays pending, and its challenges are
as if nobody had looked. What does not end in time may still make the authorization valid a moment later.
"""

import asyncio
from datetime import datetime

from acme_api.protocol.account import Account
from acme_api.protocol.challenge import DNS_PERSIST_01
from acme_api.protocol.order import Order, OrderPlan
from acme_api.wfe.context import Context
from acme_api.wfe.waiters import wait_for
from ca.pki.object_id import object_id
from ca.process.postgres import UNAVAILABLE, PostgresError


async def looked_ahead(context: Context, plan: OrderPlan, owner: Account, now: datetime) -> Order:
    """The planned order, which is stored, with what the VA has seen within `acme.just_in_time_ms`; never a problem."""
    looks = {each.id: object_id(now, context.ambient.random_bytes(16)) for each in plan.new_authorizations
             if any(challenge.type == DNS_PERSIST_01 for challenge in each.challenges)}
    if not looks or not context.just_in_time_s:
        return plan.order
    until_s = asyncio.get_running_loop().time() + context.just_in_time_s
    try:
        with context.waiters.waiting_for(*looks) as changed:
            await context.authorizations.look_ahead(looks, owner.id, owner.thumbprint, now=now)
            context.notifier.notify("validation")
            while await context.authorizations.looks_left(list(looks)):
                if not await wait_for(changed, timeout_s=until_s - asyncio.get_running_loop().time()):
                    break
        return await context.store.order(plan.order.id)
    except (PostgresError, *UNAVAILABLE) as fault:
        context.log.warning("no look ahead", fault=str(fault) or type(fault).__name__)
        return plan.order
