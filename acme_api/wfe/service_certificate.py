"""The server's own certificate: asked of our own CA through the database, kept fresh, loaded without a restart.

Every WFE process looks at the files; one at a time (a lock beside the key) asks for a new certificate when it is due.
A certificate that cannot be used is not put in place: the request is made again, with another key.
"""

import asyncio
import fcntl
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography import x509
from structlog.typing import FilteringBoundLogger

from acme_api.wfe import tls
from acme_api.wfe.certificate_store import CertificateStore
from acme_api.wfe.certificates import pem_chain
from acme_api.wfe.notifier import Notifier
from acme_api.wfe.orders import ISSUANCE_CHANNEL
from acme_api.wfe.tls import TlsFiles
from acme_api.wfe.waiters import Waiters, wait_for
from ca.pki.object_id import object_id
from ca.process.ambient import Ambient

_WAIT_FOR_OTHERS_S: Final = 0.25
_POLL_S: Final = 1.0
_PATIENCE_S: Final = 60.0
_FIRST_BACK_OFF_S: Final = 0.5
_LONGEST_BACK_OFF_S: Final = 60.0


class ServiceCertificate:
    """Keeps `context` with a certificate for `names`; with no names the files are somebody else's to renew."""

    def __init__(
        self, *, context: ssl.SSLContext, files: TlsFiles, names: list[str], certificates: CertificateStore,
        waiters: Waiters, notifier: Notifier, ambient: Ambient, log: FilteringBoundLogger, look_s: float,
    ) -> None:
        self._context = context
        self._files = files
        self._names = names
        self._certificates = certificates
        self._waiters = waiters
        self._notifier = notifier
        self._ambient = ambient
        self._log = log
        self._look_s = look_s
        self._loaded: x509.Certificate | None = None
        self.usable = asyncio.Event()

    async def run(self) -> None:
        """Looks, renews and loads until it is cancelled. Sets `usable` when there is a certificate to serve with."""
        back_off_s = _FIRST_BACK_OFF_S
        while True:
            try:
                settled = await self._look()
            except Exception as fault:
                # The database, the disk, the CA: none of it may end what keeps the certificate alive.
                self._log.warning("service certificate", fault=str(fault) or type(fault).__name__,
                                  retry_in_s=back_off_s)
                await asyncio.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, _LONGEST_BACK_OFF_S)
                continue
            back_off_s = _FIRST_BACK_OFF_S
            await asyncio.sleep(self._look_s if settled else _WAIT_FOR_OTHERS_S)

    async def _look(self) -> bool:
        """Loads what is new in the files, and sees to a certificate that is due. False: another process sees to it."""
        certificate = self._load()
        if not self._names or not tls.is_due(certificate, self._ambient.now(), self._names):
            return True
        with self._lock() as is_ours:
            if not is_ours:
                return False
            # Whoever had the lock before may just have done it.
            if tls.is_due(self._load(), self._ambient.now(), self._names):
                await self._renew()
                self._load()
        return True

    def _load(self) -> x509.Certificate | None:
        certificate = tls.read_certificate(self._files)
        if certificate is not None and certificate != self._loaded:
            tls.load(self._context, self._files)
            self._loaded = certificate
            self._log.info("TLS certificate loaded", serial=f"{certificate.serial_number:x}",
                           not_after=certificate.not_valid_after_utc.isoformat())
        # What an operator manages is served as it is.
        if certificate is not None and (not self._names or tls.is_usable(certificate, self._ambient.now())):
            self.usable.set()
        return certificate

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Whether this process is the one that renews. The kernel frees the lock when it dies."""
        self._files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._files.key.with_suffix(".lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    async def _renew(self) -> None:
        """Asks the CA with a new key, and puts the pair in place. Raises RuntimeError when there is nothing usable."""
        now = self._ambient.now()
        key = tls.make_key()
        request_id = object_id(now, self._ambient.random_bytes(16))
        with self._waiters.waiting_for(request_id) as changed:
            await self._certificates.request_service_certificate(request_id, tls.make_csr(key, self._names), now=now)
            self._notifier.notify(ISSUANCE_CHANNEL)
            chain = await self._wait(request_id, changed)
        certificate = x509.load_der_x509_certificate(chain[0])
        if not tls.is_usable(certificate, self._ambient.now()) or tls.names_of(certificate) != set(self._names):
            raise RuntimeError("the certificate that was issued is not valid now, or for other names")
        probe = TlsFiles(certificate=self._files.certificate.with_name(".probe.certificate.pem"),
                         key=self._files.key.with_name(".probe.key.pem"))
        try:
            tls.write_pair(probe, certificate_pem=pem_chain(chain), key_pem=key)
            if tls.read_certificate(probe) is None:
                raise RuntimeError("the certificate that was issued does not go with its key")
        finally:
            probe.certificate.unlink(missing_ok=True)
            probe.key.unlink(missing_ok=True)
        tls.write_pair(self._files, certificate_pem=pem_chain(chain), key_pem=key)

    async def _wait(self, request_id: bytes, changed: asyncio.Event) -> tuple[bytes, ...]:
        """The chain that the CA issued. Raises RuntimeError when it refuses or takes too long."""
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + _PATIENCE_S
        while loop.time() < give_up_at_s:
            result = await self._certificates.service_result(request_id)
            if result.refusal is not None:
                raise RuntimeError(f"the CA refuses the service certificate: {result.refusal.get('detail')}")
            if result.chain is not None:
                return result.chain
            await wait_for(changed, timeout_s=_POLL_S)
        raise RuntimeError("the CA has not issued the service certificate yet")
