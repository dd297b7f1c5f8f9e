"""Who signs for which issuer: its own key, or that of a delegated responder, made here and certified by the CA.

A responder's key is made in the pre-signer's token when there is none; its certificate is asked for with a
certification request in the database, and renewed by the CA. Until it is there the issuer's responses wait.
"""

from contextlib import suppress
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.typing import FilteringBoundLogger

from ca.pki.issuer import Issuer, read_issuer
from ca.pki.key_identifier import key_identifier
from ca.pki.ocsp_responder import Delegation
from ca.process.ambient import Ambient
from ca.process.postgres import Pool
from hsm.errors import HsmError, KeyGenerationError, KeyNotFoundError
from hsm.generate import KeySpec, generate_key
from hsm.key import HsmPrivateKey, private_key
from hsm.thread import HsmThread
from hsm.token import Token
from ocsp.presign import store
from ocsp.presign.signer import IssuerSigner, open_signer
from ocsp.presign.store import StoredIssuer, StoredResponder

_KEY_ID_BYTES: Final = 16
_TRIES_OF_A_KEY: Final = 3


class Signers:
    """All issuers that can be signed for; `by_issuer` is changed in place when one comes or a responder is renewed."""

    def __init__(self, *, pool: Pool, thread: HsmThread, delegation: Delegation, ambient: Ambient,
                 log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._thread = thread
        self._delegation = delegation
        self._ambient = ambient
        self._log = log
        self._waiting: set[int] = set()
        self.by_issuer: dict[int, IssuerSigner] = {}

    async def open(self) -> bool:
        """Opens every living issuer, or asks for its responder; False when there is no issuer at all.

        Raises HsmError or ValueError when a key is missing or is not the certificate's, or a root's key is in reach.
        """
        living = await self._living()
        await self._thread.run(_require_no_root_key, self._thread.token, [issuer for _, issuer in living])
        responders = await store.responders(self._pool, now=self._ambient.now())
        for stored, issuer in living:
            await self._open_one(stored, issuer, responders.get(stored.id))
        return bool(living)

    async def refresh(self) -> None:
        """Takes up new issuers and renewed responders; one issuer's trouble leaves the others as they are."""
        responders = await store.responders(self._pool, now=self._ambient.now())
        for stored, issuer in await self._living():
            try:
                await self._open_one(stored, issuer, responders.get(stored.id))
            except (HsmError, ValueError) as fault:
                self._log.error("an issuer cannot be signed for", issuer=stored.name, fault=str(fault))

    async def _living(self) -> list[tuple[StoredIssuer, Issuer]]:
        return living(await store.issuers(self._pool), self._ambient.now())

    async def _open_one(self, stored: StoredIssuer, issuer: Issuer, responder: StoredResponder | None) -> None:
        known = self.by_issuer.get(stored.id)
        if not self._delegation.holds_for(issuer, stored.name):
            if known is None:
                self._take(await open_signer(self._thread, stored))
            return
        if responder is None:
            await self._ask(stored)
        elif known is None or known.responder_id != responder.id:
            try:
                self._take(await open_signer(self._thread, stored, responder))
            except KeyNotFoundError:
                await self._ask(stored)         # another token than when it was certified

    def _take(self, signer: IssuerSigner) -> None:
        self.by_issuer[signer.id] = signer
        self._waiting.discard(signer.id)
        self._log.info("signs for", issuer=signer.name, responder_id=signer.responder_id,
                       until=f"{signer.not_after:%Y-%m-%dT%H:%M:%SZ}")

    async def _ask(self, stored: StoredIssuer) -> None:
        if stored.id not in self._waiting:
            self._log.warning("no certified OCSP responder yet; its responses wait for the CA", issuer=stored.name)
            self._waiting.add(stored.id)
        now = self._ambient.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await store.lock_keys(connection)
            label, csr = await self._thread.run(
                _responder_key, self._thread.token, stored.name, now, self._ambient.random_bytes(_KEY_ID_BYTES))
            await store.ask_for_certificate(connection, label=label, issuer_id=stored.id, csr=csr, now=now)


def living(stored: list[StoredIssuer], now: datetime) -> list[tuple[StoredIssuer, Issuer]]:
    """The issuers that have not expired, with their certificates, read."""
    read = [(one, read_issuer(one.certificate)) for one in stored]
    return [(one, issuer) for one, issuer in read if issuer.validity.not_after > now]


def _responder_key(token: Token, issuer_name: str, now: datetime, key_id: bytes) -> tuple[str, bytes]:
    """In the token's thread: label and certification request of the newest responder key, which is made if need be."""
    prefix = f"OCSP {issuer_name} "
    labels = [listing.label for listing in token.list_keys() if listing.label.startswith(prefix)]
    if labels:
        label = max(labels)
        key = private_key(token, label)
    else:
        label = f"{prefix}{now:%Y-%m-%dT%H:%M:%SZ}"
        key = _made_key(token, label, key_id)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return label, request.public_bytes(Encoding.DER)


def _made_key(token: Token, label: str, key_id: bytes) -> HsmPrivateKey:
    """A new key. While another process logs in SoftHSM at times reads back another key than it made, which is destroyed
    then; so it is tried again."""
    for _ in range(_TRIES_OF_A_KEY - 1):
        with suppress(KeyGenerationError):
            return generate_key(token, label=label, key_id=key_id, spec=KeySpec.P_256)
    return generate_key(token, label=label, key_id=key_id, spec=KeySpec.P_256)


def _require_no_root_key(token: Token, issuers: list[Issuer]) -> None:
    """Raises ForeignKeyError when a key that signed an issuer's certificate is in reach (spec/pki.md 8.4)."""
    roots = {issuer.authority_key_id for issuer in issuers}
    token.require_without([listing.spki for listing in token.list_keys()
                           if listing.spki is not None and key_identifier(listing.spki) in roots])
