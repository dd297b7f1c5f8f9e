"""What a profile means, as facts to read and to compare, and what a certification request would become under it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca.admin.issuer_store import StoredIssuer
from ca.pki import der
from ca.pki.crl import ca_issuers_url, shard_url
from ca.pki.csr import Csr
from ca.pki.identifier import Identifier
from ca.pki.issuer import Issuer, read_issuer
from ca.pki.lint import Finding, allowances, lint_certificate
from ca.pki.policy import DAY_S, HOUR_S, limits_at, schedule
from ca.pki.precertificate import with_poison
from ca.pki.profile import Profile
from ca.pki.serial import serial_number, shard
from ca.pki.tbs import StatusUrls, assemble, tbs_certificate
from ca.pki.validity import validity
from ca.process.settings import CaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A certificate that was made for a trial and is signed by nobody."""

    issuer: str
    parsed: x509.Certificate
    findings: Sequence[Finding]
    allowed: Mapping[str, str]

    @property
    def objections(self) -> list[Finding]:
        """The findings that would stop it."""
        return [finding for finding in self.findings if finding.code not in self.allowed]


def length(seconds: int) -> str:
    """A length in the largest unit that says it exactly: '90 d', '160 h'."""
    if seconds % DAY_S == 0:
        return f"{seconds // DAY_S} d"
    return f"{seconds // HOUR_S} h" if seconds % HOUR_S == 0 else f"{seconds} s"


def facts(profile: Profile, *, now: datetime) -> list[tuple[str, str]]:
    """Everything that the profile says about a certificate, in the order of its fields."""
    def yes(flag: bool) -> str:
        return "yes" if flag else "no"

    lengths = [f"{length(min(profile.length_s, limits_at(now).recommended_validity_s))} now"]
    lengths += [f"{length(min(profile.length_s, limits.recommended_validity_s))} from {limits.signed_from:%Y-%m-%d}"
                for limits in schedule() if limits.signed_from > now
                and limits.recommended_validity_s < profile.length_s]
    key_encipherment = ", keyEncipherment for RSA keys" if profile.rsa_key_encipherment else ""
    return [
        ("name", profile.name), ("description", profile.description), ("validity", "; ".join(lengths)),
        ("names", f"1 to {profile.max_names}"), ("IP addresses", yes(profile.ip_addresses)),
        ("subject", "the first name that fits, as common name" if profile.common_name else "empty"),
        ("keyUsage", f"critical: digitalSignature{key_encipherment}"), ("extendedKeyUsage", "serverAuth"),
        ("basicConstraints", "critical: no CA"), ("subjectKeyIdentifier", yes(profile.subject_key_identifier)),
        ("authorityKeyIdentifier", "the issuer's"),
        ("authorityInfoAccess", "OCSP, caIssuers" if profile.ocsp else "caIssuers"),
        ("subjectAltName", "critical when the subject is empty"), ("certificatePolicies", "2.23.140.1.2.1 (DV)"),
        ("cRLDistributionPoints", "one, of the serial number's shard"),
    ]


def allowed(profile: Profile, *, public: bool) -> list[tuple[str, str]]:
    """What lint would object to and does not stop the certificate: code and reason."""
    return sorted(allowances(profile, public=public).items())


def difference(first: Iterable[tuple[str, str]], second: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """(what, the one, the other) where two lists of facts differ; '-' where one has none."""
    one, other = dict(first), dict(second)
    return [(what, one.get(what, "-"), other.get(what, "-")) for what in {**one, **other}
            if one.get(what) != other.get(what)]


def newest_issuer(issuers: Iterable[StoredIssuer], kind: str) -> StoredIssuer | None:
    """The issuer that would certify a key of this kind, as the CA chooses it."""
    fitting = [one for one in issuers if one.state == "active" and one.key_type == kind]
    return max(fitting, key=lambda one: one.id, default=None)


def trial(
    profile: Profile, csr: Csr, identifiers: Sequence[Identifier], stored: StoredIssuer, urls: CaSettings, *,
    now: datetime, random16: bytes, precertificate: bool, public: bool,
) -> Trial:
    """The certificate that the CA would sign, under a key that is forgotten. Raises Refusal as the CA would."""
    issuer = read_issuer(stored.certificate)
    serial = serial_number(now, random16)
    tbs = tbs_certificate(
        profile=profile, issuer=issuer, serial=serial, identifiers=identifiers, key=csr.key,
        validity=validity(now, length_s=profile.length_s, issuer=issuer.validity),
        urls=StatusUrls(ocsp=urls.ocsp_url, ca_issuers=ca_issuers_url(urls.aia_base_url, stored.name),
                        crl=shard_url(urls.crl_base_url, stored.name, shard(serial, stored.crl_shards))))
    certificate = assemble(tbs, _signature(tbs, issuer))
    findings = lint_certificate(certificate, issuer)
    if precertificate:
        poisoned = with_poison(tbs)
        findings += [finding for finding in lint_certificate(assemble(poisoned, _signature(poisoned, issuer)), issuer)
                     if finding not in findings]
    return Trial(issuer=stored.name, parsed=x509.load_der_x509_certificate(certificate), findings=findings,
                 allowed=allowances(profile, public=public))


def _signature(tbs: bytes, issuer: Issuer) -> bytes:
    """Of the issuer's kind, by a key that nobody has: what comes out is accepted by nothing."""
    public = issuer.public_key
    if isinstance(public, rsa.RSAPublicKey):
        return rsa.generate_private_key(65_537, 2048).sign(tbs, padding.PKCS1v15(), hashes.SHA256())
    algorithm = hashes.SHA256() if public.curve.key_size == 256 else hashes.SHA384()
    return ec.generate_private_key(public.curve).sign(tbs, ec.ECDSA(algorithm))


def request_der(data: bytes) -> bytes:
    """The DER of a request in PEM or DER. Raises ValueError."""
    if b"-----BEGIN" in data:
        return x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
    der.read_only(data, der.SEQUENCE)
    return data


def trial_facts(made: Trial) -> list[tuple[str, str]]:
    """The certificate's fields for people."""
    parsed = made.parsed
    last = parsed.not_valid_after_utc - parsed.not_valid_before_utc + timedelta(seconds=1)
    return [
        ("issuer", made.issuer), ("subject", parsed.subject.rfc4514_string() or "empty"),
        ("names", ", ".join(_names(parsed))),
        ("validity", f"{parsed.not_valid_before_utc.astimezone(UTC):%Y-%m-%d %H:%M:%SZ} to "
                     f"{parsed.not_valid_after_utc.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}, "
                     f"{length(round(last.total_seconds()))}"),
        ("extensions", ", ".join(f"{extension.oid._name}{' (critical)' if extension.critical else ''}"
                                 for extension in parsed.extensions)),
        ("size", f"{len(parsed.public_bytes(Encoding.DER))} bytes"),
    ]


def _names(parsed: x509.Certificate) -> list[str]:
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]
