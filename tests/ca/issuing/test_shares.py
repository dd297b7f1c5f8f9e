"""Issuing and CRLs share the one thread of the token in turn, so that neither starves the other (spec/pki.md 8)."""

import asyncio

from tests.ca.issuing.world import EC_ISSUER, RSA_ISSUER, World

_ISSUING = 4


async def test_a_crl_waits_for_no_more_than_what_was_asked_before(world: World) -> None:
    """However much issuance asks for, a signature for a CRL comes after the batches that stand before it, and issuance
    goes on after each CRL."""
    ca = world.process()
    stop = False
    batches = 0

    async def issue() -> None:
        nonlocal batches
        while not stop:
            await ca.signer.sign(world.authorities[RSA_ISSUER], "certificate", [b"tbs"] * 16)
            batches += 1

    issuing = [asyncio.create_task(issue()) for _ in range(_ISSUING)]
    while batches < _ISSUING:  # noqa: ASYNC110 - until all of them are under way
        await asyncio.sleep(0.01)
    for _ in range(10):
        before = batches
        await ca.signer.sign(world.authorities[EC_ISSUER], "crl", [b"tbs"])
        assert batches - before <= _ISSUING + 1
    assert batches > _ISSUING
    stop = True
    await asyncio.gather(*issuing)
