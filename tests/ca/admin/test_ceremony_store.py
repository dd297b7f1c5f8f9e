"""What a ceremony made gets into the database once, and nothing there is ever replaced by something else."""

from dataclasses import replace

import pytest
from cryptography import x509

from ca.admin.ceremony.errors import RecordError
from ca.admin.ceremony.store import record_ceremony
from tests.fixtures_hsm import DemoCeremony
from tests.fixtures_postgres import TestDatabase


async def test_issuers_chains_and_files(database: TestDatabase, demo_ceremony: DemoCeremony) -> None:
    """As ca_admin: issuer 1 is RSA, 2 is EC, with their chains; roots, cross-sign and CRLs at their URL paths."""
    result = demo_ceremony.result
    [cross] = result.cross_signs
    r1, e1 = result.intermediates
    connection = await database.connect("ca_admin")
    try:
        written = await record_ceremony(connection, result)
        assert len(written) == 2 + 3 + 2
        issuers = await connection.fetch("SELECT * FROM issuers ORDER BY id")
        assert [(row["id"], row["name"], row["key_type"], row["crl_shards"], row["active"]) for row in issuers] == [
            (1, "Chancery Demo R1", "rsa", 8, True), (2, "Chancery Demo E1", "ec", 8, True)]
        assert issuers[1]["certificate"] == e1.certificate
        chains = await connection.fetch("SELECT * FROM issuer_chains ORDER BY issuer_id, position")
        assert [(row["issuer_id"], row["position"], row["certificates"]) for row in chains] == [
            (1, 0, [r1.certificate]), (2, 0, [e1.certificate, cross.certificate]), (2, 1, [e1.certificate])]
        files = {row["path"]: row for row in await connection.fetch("SELECT * FROM published_files")}
        assert {path: row["content_type"] for path, row in files.items()} == {
            "/chancery-demo-root-x1.crt": "application/pkix-cert",
            "/chancery-demo-root-x2.crt": "application/pkix-cert",
            "/chancery-demo-root-x2-by-chancery-demo-root-x1.crt": "application/pkix-cert",
            "/chancery-demo-root-x1.crl": "application/pkix-crl",
            "/chancery-demo-root-x2.crl": "application/pkix-crl",
        }
        assert files["/chancery-demo-root-x1.crt"]["body"] == result.roots[0].certificate
        for each in (*result.intermediates, cross):     # every AIA and CRL URL in a certificate has its file
            certificate = x509.load_der_x509_certificate(each.certificate)
            [access] = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
            [point] = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            for name in (access.access_location, *(point.full_name or [])):
                assert name.value.removeprefix("http://localhost:14002") in files
        assert await record_ceremony(connection, result) == []
        assert await connection.fetch("SELECT * FROM issuers ORDER BY id") == issuers
    finally:
        await connection.close()


async def test_another_certificate_under_the_same_name_is_refused(
    database: TestDatabase, demo_ceremony: DemoCeremony
) -> None:
    """An issuer or a published certificate is never exchanged; the refused ceremony leaves nothing behind."""
    result = demo_ceremony.result
    connection = await database.connect("ca_admin")
    try:
        await record_ceremony(connection, result)
        other = replace(result.intermediates[0], certificate=result.intermediates[1].certificate)
        with pytest.raises(RecordError, match="has another issuer 'Chancery Demo R1'"):
            await record_ceremony(connection, replace(result, intermediates=(other,)))
        stranger = replace(result.intermediates[0], name="Chancery Demo R9")
        root = replace(result.roots[0], certificate=result.roots[1].certificate)
        with pytest.raises(RecordError, match=r"/chancery-demo-root-x1\.crt is published with another certificate"):
            await record_ceremony(connection, replace(result, intermediates=(stranger,), roots=(root,)))
        assert await connection.fetchval("SELECT count(*) FROM issuers") == 2
    finally:
        await connection.close()


async def test_a_newer_crl_replaces_an_older_one_alone(database: TestDatabase, demo_ceremony: DemoCeremony) -> None:
    """Root CRLs go forward by their number, whatever the order of recording."""
    result = demo_ceremony.result
    connection = await database.connect("ca_admin")
    try:
        await record_ceremony(connection, result)
        older = replace(result, crls=(replace(result.crls[0], der=_with_number(result.crls[0].der, -1)),))
        newer = replace(result, crls=(replace(result.crls[0], der=_with_number(result.crls[0].der, 1)),))
        assert await record_ceremony(connection, older) == []
        assert await record_ceremony(connection, newer) == ["file /chancery-demo-root-x1.crl"]
        assert await record_ceremony(connection, result) == []
        body = await connection.fetchval("SELECT body FROM published_files WHERE path = '/chancery-demo-root-x1.crl'")
        assert body == newer.crls[0].der
    finally:
        await connection.close()


def _with_number(crl: bytes, difference: int) -> bytes:
    """The CRL with another cRLNumber of the same length (its signature does not matter here)."""
    number = x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    old, new = (value.to_bytes(7, "big") for value in (number, number + difference))
    assert crl.count(old) == 1
    return crl.replace(old, new)
