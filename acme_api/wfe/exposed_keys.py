"""Keys whose private part a client sent in a JWK: the CA is asked to block them (row J17).

Whoever reads a request on its way, or a log on the client's side, has the key now. Proving that it belongs to the
public key costs up to a tenth of a second, so it is done beside the other requests, one at a time, and so many times
an hour for one address; beyond that the request is refused all the same, and the key stays as it is.
"""

import asyncio
import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_api.protocol.exposed_key import proof_of_loss
from acme_api.protocol.jwk import PrivateKeyShown
from acme_api.protocol.rate_limit import IpAddress, LimitName, Rate
from acme_api.wfe.context import Context
from acme_api.wfe.flood import Flood

_RATE: Final = Rate(burst=20, period_s=3_600)


class ExposedKeys:
    """What one process does about them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._flood = Flood()
        self._one_at_a_time = asyncio.Lock()

    async def take_up(self, shown: PrivateKeyShown, client: IpAddress | None) -> None:
        """Puts the loss on record, when it is one. The client is told in any case that its key is no good."""
        now_s = asyncio.get_running_loop().time()
        if self._flood.wait_s(LimitName.ACCOUNTS_PER_ADDRESS, client, _RATE, now_s) > 0:
            return
        async with self._one_at_a_time:
            proof = await asyncio.to_thread(proof_of_loss, shown.jwk)
        if proof is None:
            return
        spki = x509.load_der_x509_csr(proof).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        sha256 = hashlib.sha256(spki).digest()
        await self._context.certificates.expose_key(sha256, proof, now=self._context.ambient.now())
        self._context.notifier.notify("revocation")
        self._context.log.warning("a client sent a private key", spki_sha256=sha256.hex(),
                                  address=None if client is None else str(client))
