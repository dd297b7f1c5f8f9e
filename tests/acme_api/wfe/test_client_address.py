"""The front end counts a request for the client that the configured header names (row E7)."""

from collections.abc import Awaitable, Callable

import pytest

from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.running import RunningWfe
from tests.acme_client import JOSE_JSON


@pytest.mark.parametrize(("source", "header", "counts"), [
    ("x-forwarded-for", "X-Forwarded-For", True), ("forwarded", "Forwarded", True),
    ("x-forwarded-for", "Forwarded", False), ("forwarded", "X-Forwarded-For", False)])
async def test_only_the_named_header_counts(start: Callable[..., Awaitable[RunningWfe]], source: str, header: str,
                                            counts: bool) -> None:
    """A limit by address sees the header that is configured, and no other one."""
    wfe = await start(client_address=source, trusted_proxies=["127.0.0.0/8"], limits=LimitsSettings(
        accounts_per_address=RateSettings(burst=1, period_s=3_600)))
    statuses = []
    for number in range(2):
        client = wfe.client()
        body = await client.signed("/acme/new-account", {"termsOfServiceAgreed": True}, jwk=client.key.jwk)
        value = f"192.0.2.{number}" if header == "X-Forwarded-For" else f"for=192.0.2.{number}"
        answer = await client.send("POST", "/acme/new-account", data=body, headers=JOSE_JSON | {header: value})
        statuses.append(answer.status)
    assert statuses == [201, 201 if counts else 429]


async def test_an_unlisted_peer_is_itself(start: Callable[..., Awaitable[RunningWfe]]) -> None:
    """A header from an address that is not listed is the client's own word, and counts for nothing."""
    wfe = await start(client_address="x-forwarded-for", trusted_proxies=["192.0.2.0/24"], limits=LimitsSettings(
        accounts_per_address=RateSettings(burst=1, period_s=3_600)))
    for number, status in ((1, 201), (2, 429)):
        client = wfe.client()
        body = await client.signed("/acme/new-account", {"termsOfServiceAgreed": True}, jwk=client.key.jwk)
        headers = JOSE_JSON | {"X-Forwarded-For": f"198.51.100.{number}"}
        assert (await client.send("POST", "/acme/new-account", data=body, headers=headers)).status == status
