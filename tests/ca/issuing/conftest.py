"""A CA with real PostgreSQL and a real SoftHSM: what the front end and the VA would have stored is written under their
own roles, and one process's worth of the CA runs in the test's event loop."""

from collections.abc import AsyncIterator
from typing import cast

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.ca.issuing.world import PublicKey, World, make_chain, make_world
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase


@pytest.fixture(scope="session")
def issuing_certificates(softhsm_token: SoftHsm) -> tuple[bytes, dict[str, bytes]]:
    """The root's certificate (its key is forgotten), and those of the issuing CAs whose keys are in the token."""
    with softhsm_token.open() as token:
        keys = {listing.label: cast("PublicKey", load_der_public_key(listing.spki or b""))
                for listing in token.list_keys()}
    return make_chain({label: keys[label] for label in (softhsm_token.rsa_label, softhsm_token.ec_label)})


@pytest.fixture
async def world(
    database: TestDatabase, softhsm_token: SoftHsm, issuing_certificates: tuple[bytes, dict[str, bytes]]
) -> AsyncIterator[World]:
    """An empty CA: two issuers, no account, no process running yet."""
    async with make_world(database, softhsm_token, *issuing_certificates) as made:
        yield made
