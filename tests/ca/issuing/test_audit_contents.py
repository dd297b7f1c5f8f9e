"""What the audit log of a CA says (BR 5.4.1): one life of a process, from its start to its end, read from the files."""

import asyncio
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from ca.process.audit_reader import AuditRecord, read_chain, summarize
from tests.ca.admin.conftest import CommandLine, write_config
from tests.ca.issuing.running import ca_process, until, write_settings
from tests.ca.issuing.world import EC_ISSUER, SHARDS, World, spki_sha256


def _of(records: Sequence[AuditRecord], event: str, **values: object) -> list[AuditRecord]:
    return [record for record in records if record.event == event
            and all(record.values.get(name) == value for name, value in values.items())]


async def test_the_log_of_one_life(world: World, tmp_path: Path) -> None:
    """BR 5.4.1: certificates and CRLs signed and refused, revocations, keys blocked, what operators did and why, kill
    switches, start and end; each with its time, in one chain that is verified without the database (5.4.1: date and
    time, identity, description)."""
    (tmp_path / "operator").mkdir()
    operator = CommandLine(config=write_config(tmp_path / "operator", world.database.settings))
    name = world.authorities[EC_ISSUER].name
    begun = datetime.now(UTC)
    settings = write_settings(tmp_path, world)
    async with ca_process(settings) as ca:
        key = ec.generate_private_key(ec.SECP256R1())
        first, second = await world.ordered("a.example.com", leaf=key), await world.ordered("b.example.com")
        await world.run("acme_wfe", "NOTIFY issuance")
        await until(world, "(SELECT count(*) = 2 FROM certificate_signatures)")
        serials = [await world.serial(each.id) for each in (first, second)]

        # The kill switch: within a second, of a process that runs.
        await operator.run("issuer", "disable", name, "--comment", "key in doubt", "--yes")
        await asyncio.sleep(1)
        refused = await world.ordered("c.example.com")
        await world.run("acme_wfe", "NOTIFY issuance")
        await until(world, "EXISTS (SELECT FROM refusals)")
        assert "no active issuer" in (await world.refusal(refused.id) or {})["detail"]
        assert await world.certificate(refused.id) is None
        await operator.run("issuer", "enable", name, "--yes")

        await world.revocation_request(serials[1], 4)
        await world.revocation_request(serials[0], 1, "certificate_key")
        await world.run("acme_wfe", "NOTIFY revocation")
        await until(world, "(SELECT count(*) = 2 FROM revocations)")
        await until(world, "NOT EXISTS (SELECT FROM operator_acts WHERE recorded_at IS NULL)")
        await until(world, f"(SELECT count(*) > {2 * SHARDS} FROM crls)")
        assert await ca.stop() == 0
    records = list(read_chain(tmp_path / "audit" / "ca.0"))

    [opened] = _of(records, "opened")
    assert opened.values["token"]["token_label"] == world.softhsm.settings.token_label
    assert records[-1].event == "closed"
    for serial in serials:
        [announced] = [each for each in _of(records, "signing", kind="certificate", key=name)
                       if serial.hex() in str(each.values["subject"])]
        [made] = _of(records, "signed", kind="certificate", tbs_sha256=announced.values["tbs_sha256"])
        assert announced.number < made.number
    [no] = _of(records, "refused")
    assert "no active issuer" in str(no.values["detail"])
    assert {(each.values["serial"], each.values["reason"], each.values["authority"])
            for each in _of(records, "revoked")} == {(serials[0].hex(), 1, "certificate_key"),
                                                     (serials[1].hex(), 4, "account")}
    [blocked] = _of(records, "key blocked")
    assert blocked.values["spki_sha256"] == spki_sha256(key).hex()
    acts = _of(records, "operator act")
    assert [(each.values["act"], each.values["subject"]) for each in acts] == [
        ("disable issuer", name), ("enable issuer", name)]
    assert acts[0].values["detail"]["comment"] == "key in doubt"
    assert "@" in acts[0].values["operator"]
    assert len(_of(records, "signed", kind="crl")) > 2 * SHARDS
    times = [datetime.fromisoformat(record.at) for record in records]
    assert begun <= times[0] <= times[-1] <= datetime.now(UTC)
    assert times == sorted(times)

    # Kept apart from what it is about: a copy of the files is verified with nothing else there.
    shutil.copytree(tmp_path / "audit", tmp_path / "copy")
    summary, _ = summarize(tmp_path / "copy" / "ca.0")
    assert summary.without_intent == []
    assert summary.asked == summary.signed
