"""`chancery run wfe`: the ACME server's process, wired from the settings."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from acme_api.protocol.account import TermsRule
from acme_api.protocol.directory import directory_object
from acme_api.protocol.dns_persist import issuer_domain_names
from acme_api.protocol.new_order import OrderPolicy
from acme_api.protocol.nonce import MIN_KEY_BYTES
from acme_api.protocol.order import Lives
from acme_api.wfe import tls
from acme_api.wfe.accept import ProxyProtocol
from acme_api.wfe.account_store import AccountStore
from acme_api.wfe.app import App
from acme_api.wfe.authorization_store import AuthorizationStore
from acme_api.wfe.certificate_store import CertificateStore
from acme_api.wfe.context import Context, ForwardedHeader
from acme_api.wfe.limit_store import LimitStore
from acme_api.wfe.limits import LIMITS_CHANNEL, Limits, limit_policy, limits_page
from acme_api.wfe.notifier import Notifier
from acme_api.wfe.renewal_store import RenewalStore
from acme_api.wfe.server import Listening
from acme_api.wfe.service_certificate import ServiceCertificate
from acme_api.wfe.store import READ_OPTIONS, WRITE_OPTIONS, Store
from acme_api.wfe.waiters import Waiters
from ca.pki.domain_control import PerspectivePolicy
from ca.pki.identifier import Identifier, NamePolicy, registered_domain, require_permitted
from ca.pki.profile import offered_profiles
from ca.process.ambient import Ambient, system_ambient
from ca.process.client_address import parse_networks
from ca.process.http import inherited_or_bound, raise_descriptor_limit
from ca.process.lifecycle import StartupError, ready, run_process
from ca.process.postgres import UNAVAILABLE, Listener, Pool, PostgresError, create_pool
from ca.process.sessions import Sessions
from ca.process.settings import AcmeSettings, Settings
from ca.process.worker import wait_any

ROLE: Final = "acme_wfe"
SESSIONS: Final = 8
"""Of each kind, in each process; the pool of writes has some more for transactions."""
TRANSACTIONS: Final = 2
_DRAIN_S: Final = 5.0
_DRAIN_IDLE_S: Final = 2.0
_OTHER_DESCRIPTORS: Final = 200
_FORWARDED_HEADERS: Final = {"forwarded": "Forwarded", "x-forwarded-for": "X-Forwarded-For"}


def main(settings: Settings) -> int:
    """Serves until it is told to stop; the exit code."""
    return run_process("wfe", lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    ambient = system_ambient()
    log = structlog.get_logger()
    nonce_key = read_nonce_key(settings.acme.nonce_key)
    sockets = inherited_or_bound(settings.acme.listen)
    async with AsyncExitStack() as stack:
        for each in sockets:
            stack.callback(each.close)
        reads = await create_pool(settings.database, ROLE, process="wfe", max_size=SESSIONS, options=READ_OPTIONS)
        stack.callback(reads.terminate)
        writes = await create_pool(settings.database, ROLE, process="wfe", max_size=SESSIONS + TRANSACTIONS,
                                   options=WRITE_OPTIONS)
        stack.callback(writes.terminate)
        context = make_context(settings, ambient, log, nonce_key=nonce_key, reads=reads, writes=writes)
        await start_background(stack, settings, context)
        tls_context = await _start_tls(settings, context, stack, stop) if settings.acme.tls else None
        if stop.is_set():
            return
        await until_nonces_hold(context)
        listening = Listening.start(
            App(context), sockets, tls_context, read_timeout_s=settings.acme.read_timeout_s,
            max_connections=min(settings.acme.max_connections, raise_descriptor_limit() - _OTHER_DESCRIPTORS),
            proxy_protocol=proxy_protocol(settings.acme))
        ready()
        await stop.wait()
        await listening.drain(timeout_s=_DRAIN_S, idle_s=_DRAIN_IDLE_S)


async def start_background(stack: AsyncExitStack, settings: Settings, context: Context) -> None:
    """What goes on beside the requests, until `stack` ends: wake-ups in both directions, overrides of limits."""
    await stack.enter_async_context(Listener(settings.database, ROLE, "wfe", {
        "changed": on_change(context), LIMITS_CHANNEL: context.limits.changed}))
    _run_beside(stack, context.notifier.run())
    await context.limits.refresh()
    _run_beside(stack, context.limits.keep_fresh())


def _run_beside(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until `stack` ends, which waits for its end: the sessions that it uses are closed after it."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.wait([task])

    stack.push_async_callback(end)


def proxy_protocol(acme: AcmeSettings) -> ProxyProtocol | None:
    """Whether connections of listed proxies begin with a PROXY header."""
    if acme.client_address != "proxy-protocol":
        return None
    return ProxyProtocol(trusted=parse_networks(acme.trusted_proxies))


def read_nonce_key(path: Path) -> bytes:
    """The key that all servers of one CA share. Raises StartupError when it is missing or short."""
    try:
        key = path.read_bytes()
    except OSError as fault:
        raise StartupError(f"the nonce key cannot be read: {fault}") from fault
    if len(key.strip()) < MIN_KEY_BYTES:
        raise StartupError(f"{path}: the nonce key needs at least {MIN_KEY_BYTES} random bytes")
    return key


def terms_rule(acme: AcmeSettings) -> TermsRule | None:
    """When the operator insists that changed terms are agreed to again."""
    if acme.terms_agreed_since is None:
        return None
    return TermsRule(url=acme.terms_of_service, agreed_since=acme.terms_agreed_since,
                     instructions=acme.terms_instructions or acme.terms_of_service)


def make_context(
    settings: Settings, ambient: Ambient, log: FilteringBoundLogger, *, nonce_key: bytes, reads: Pool, writes: Pool
) -> Context:
    """Everything that the settings say to the handlers."""
    acme = settings.acme
    try:
        profiles = offered_profiles(settings.ca.profiles)
    except ValueError as fault:
        raise StartupError(f"ca.profiles: {fault}") from fault
    warm_up()
    names = NamePolicy(
        internal_suffixes=tuple(settings.ca.internal_suffixes), public=settings.policy == "public",
        internal_prefixes=tuple(settings.va.allowed_prefixes), allow_loopback=settings.va.allow_loopback)
    directory = directory_object(
        acme.base_url, terms_of_service=acme.terms_of_service, website=acme.website,
        caa_identities=settings.va.caa_identities, external_account_required=acme.external_account_required,
        pre_authorization=acme.pre_authorization, subdomains=settings.va.subdomains,
        profiles={name: profile.description for name, profile in profiles.items()})
    read_sessions, write_sessions = Sessions(reads, size=SESSIONS), Sessions(writes, size=SESSIONS)
    store = Store(reads=read_sessions, writes=write_sessions)
    limits = limit_policy(settings)
    header = _FORWARDED_HEADERS.get(acme.client_address)
    return Context(
        base_url=acme.base_url, issuer_names=issuer_domain_names(settings.va.caa_identities),
        dns_persist_profiles=frozenset(settings.va.dns_persist_profiles),
        perspectives=PerspectivePolicy(public=settings.policy == "public",
                                       least_corroborated=settings.ca.least_corroborated),
        directory=msgspec.json.encode(directory), nonce_key=nonce_key,
        order_policy=OrderPolicy(names=names, default_profile=settings.ca.default_profile, profiles=profiles,
                                 subdomains=settings.va.subdomains),
        lives=Lives(order=timedelta(seconds=acme.order_life_s),
                    authorization=timedelta(seconds=acme.authorization_life_s)),
        terms_of_service=acme.terms_of_service, terms_rule=terms_rule(acme), pre_authorization=acme.pre_authorization,
        only_own_replaced=acme.only_own_replaced,
        external_account_required=acme.external_account_required, finalize_wait_s=acme.finalize_wait_ms / 1000,
        validation_wait_s=acme.validation_wait_ms / 1000, just_in_time_s=acme.just_in_time_ms / 1000,
        max_body_bytes=acme.max_body_bytes, max_in_flight=acme.max_in_flight, read_timeout_s=acme.read_timeout_s,
        limits=Limits(limits, LimitStore(reads=read_sessions, transactions=writes), log),
        limits_page=limits_page(limits),
        forwarded=None if header is None else ForwardedHeader(
            header=header, trusted=parse_networks(acme.trusted_proxies)),
        ambient=ambient, store=store,
        accounts=AccountStore(reads=read_sessions, writes=write_sessions),
        authorizations=AuthorizationStore(reads=read_sessions, writes=write_sessions),
        certificates=CertificateStore(reads=read_sessions, writes=write_sessions, transactions=writes),
        renewals=RenewalStore(reads=read_sessions), waiters=Waiters(), notifier=Notifier(store, log), log=log)


def warm_up() -> None:
    """Loads the public suffix lists, half a second that no request should wait for."""
    registered_domain("a.example")
    require_permitted(Identifier(type="dns", value="a.example"), NamePolicy(internal_suffixes=("*",), public=False))


def on_change(context: Context) -> Callable[[str], None]:
    """What a notification on `changed` does. The first "" says that we listen, a later one that we did not."""
    listening = False
    noting: set[asyncio.Task[None]] = set()

    def callback(payload: str) -> None:
        nonlocal listening
        if not payload and listening:
            context.store.refuse_nonces_before(context.ambient.now())
            task = asyncio.create_task(_note_timeline(context))
            noting.add(task)
            task.add_done_callback(noting.discard)
        listening = True
        context.waiters.wake(payload)

    return callback


async def _note_timeline(context: Context) -> None:
    """The database was away: it may be another one now."""
    try:
        await context.store.note_timeline(context.ambient.now())
    except (PostgresError, *UNAVAILABLE) as fault:
        # Whoever starts next does it.
        context.log.warning("the timeline of the database was not noted", fault=str(fault) or type(fault).__name__)


async def until_nonces_hold(context: Context) -> None:
    """Returns when a nonce that is made now will be taken. Nonces count whole seconds, and those of the second in which
    the database started are refused, so that a first request right after a start would be."""
    start = (await context.store.no_nonce_before(context.ambient.now())).replace(microsecond=0) + timedelta(seconds=1)
    await asyncio.sleep(min(max((start - context.ambient.now()).total_seconds(), 0), 1))


async def _start_tls(
    settings: Settings, context: Context, stack: AsyncExitStack, stop: asyncio.Event
) -> ssl.SSLContext:
    """A TLS context with a certificate, which is then kept fresh. Waits for the first one, or for the stop.

    Raises StartupError when the files are somebody else's to make and cannot be used.
    """
    acme = settings.acme
    if acme.tls_certificate is None or acme.tls_key is None:
        raise StartupError("acme.tls_certificate and acme.tls_key: expected two file paths, because acme.tls is true")
    files = tls.TlsFiles(certificate=acme.tls_certificate, key=acme.tls_key)
    if not acme.service_names and tls.read_certificate(files) is None:
        way_out = ("put in a certificate for the host of acme.base_url that was validated like any other, or end TLS "
                   "in a proxy (acme.tls = false)" if settings.policy == "public" else
                   "name the server in acme.service_names to have them made")
        raise StartupError(f"{files.certificate} and {files.key} are not a certificate and its key: {way_out}")
    tls_context = tls.new_context()
    keeper = ServiceCertificate(
        context=tls_context, files=files, names=acme.service_names, certificates=context.certificates,
        waiters=context.waiters, notifier=context.notifier, ambient=context.ambient, log=context.log,
        look_s=acme.tls_look_s)
    _run_beside(stack, keeper.run())
    await wait_any(keeper.usable, stop)
    return tls_context
