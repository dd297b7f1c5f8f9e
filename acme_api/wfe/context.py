"""What every handler is given: wired once at start, never changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from acme_api.protocol.account import TermsRule
from acme_api.protocol.new_order import OrderPolicy
from acme_api.protocol.order import Lives
from acme_api.wfe.account_store import AccountStore
from acme_api.wfe.authorization_store import AuthorizationStore
from acme_api.wfe.certificate_store import CertificateStore
from acme_api.wfe.limits import Limits
from acme_api.wfe.notifier import Notifier
from acme_api.wfe.renewal_store import RenewalStore
from acme_api.wfe.store import Store
from acme_api.wfe.waiters import Waiters
from ca.pki.domain_control import PerspectivePolicy
from ca.process.ambient import Ambient
from ca.process.client_address import IpNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedHeader:
    """The header in which listed proxies say whose request it is."""

    header: str
    trusted: Sequence[IpNetwork]

    @property
    def rfc_7239(self) -> bool:
        """Whether it has the form of Forwarded, or that of X-Forwarded-For."""
        return self.header == "Forwarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Configuration, the world, and the database of one WFE process."""

    base_url: str
    issuer_names: tuple[str, ...]
    dns_persist_profiles: frozenset[str]
    perspectives: PerspectivePolicy
    directory: bytes
    nonce_key: bytes
    order_policy: OrderPolicy
    lives: Lives
    terms_of_service: str
    terms_rule: TermsRule | None
    pre_authorization: bool
    only_own_replaced: bool
    external_account_required: bool
    finalize_wait_s: float
    validation_wait_s: float
    just_in_time_s: float
    max_body_bytes: int
    max_in_flight: int
    read_timeout_s: float
    limits_page: bytes
    forwarded: ForwardedHeader | None
    ambient: Ambient
    store: Store
    accounts: AccountStore
    authorizations: AuthorizationStore
    certificates: CertificateStore
    limits: Limits
    renewals: RenewalStore
    waiters: Waiters
    notifier: Notifier
    log: FilteringBoundLogger
