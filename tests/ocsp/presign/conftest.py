"""Issuers whose keys are in the shared SoftHSM token, and a database that knows them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from hsm.key import private_key
from tests.ca.pki.authority import Authority, authority
from tests.fixtures_hsm import SoftHsm
from tests.fixtures_postgres import TestDatabase
from tests.ocsp.presign.certificates import Certificates, certificates_in
from tests.ocsp.processes import add_issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuers:
    """The certificates of the token's keys: id 1 is EC, id 2 is RSA."""

    ec: Authority
    rsa: Authority


@pytest.fixture(scope="session")
def token_issuers(softhsm_token: SoftHsm) -> TokenIssuers:
    """Issuing certificates made by a software root for the keys in the token."""
    now = datetime.now(UTC).replace(microsecond=0)
    with softhsm_token.open() as token:
        return TokenIssuers(ec=authority(private_key(token, softhsm_token.ec_label), now=now),
                            rsa=authority(private_key(token, softhsm_token.rsa_label), now=now))


@pytest.fixture
async def certificates(
    database: TestDatabase, token_issuers: TokenIssuers, softhsm_token: SoftHsm
) -> AsyncIterator[Certificates]:
    """An empty queue, and both issuers."""
    await add_issuer(database, token_issuers.ec, name=softhsm_token.ec_label)
    await add_issuer(database, token_issuers.rsa, issuer_id=2, name=softhsm_token.rsa_label)
    async with certificates_in(database) as made:
        yield made
