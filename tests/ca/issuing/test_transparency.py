"""Issuance with Certificate Transparency: real logs over HTTP, the publisher, the cycle, what the logs then know."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ca.pki.serial import serial_from_int
from tests.ca.issuing.transparent import Killed, transparent
from tests.ca.issuing.world import EC_ISSUER, World
from tests.ct_embedded import verify_embedded
from tests.ct_log import Log, personalities


async def test_a_certificate_with_two_scts(world: World) -> None:
    """Precertificate, logs, final certificate: EC and RSA issuer; SCTs of two operators, one log of RFC 6962 among
    them, verified by other code; the final certificate reaches a log, too."""
    async with transparent(world, personalities(4)) as ct:
        orders = [await world.ordered("www.example.com"),
                  await world.ordered("rsa.example.com", leaf=rsa.generate_private_key(65_537, 2048),
                                      profile="classic")]
        service = await world.service("localhost")
        await ct.turn(ct.ca(), ct.publisher())
        for request_id in (*(order.id for order in orders), service):
            certificate = await world.issued(request_id)
            issuer = x509.load_der_x509_certificate(world.issuers[await ct.statement(
                "SELECT issuer_id FROM certificates WHERE request_id = $1", request_id)])
            names = verify_embedded(certificate, issuer, ct.logs)
            assert len(names) == 2
            assert {ct.logs[name].operator for name in names} == {"Alder", "Birch"}
            assert not all(ct.logs[name].tiled for name in names)
            with pytest.raises(x509.ExtensionNotFound):
                certificate.extensions.get_extension_for_class(x509.PrecertPoison)
            assert serial_from_int(certificate.serial_number) == await world.serial(request_id)
        assert await ct.statement("SELECT count(*) FROM ct_submissions") == 0
        assert sum(log.entry_count for log in ct.logs) >= 3 * 2 + 3, "each precertificate twice, each certificate once"
        kinds = [event["kind"] for event in world.events if event["event"] == "signing"]
        assert sorted(kinds) == ["certificate"] * 3 + ["precertificate"] * 3
        await world.check()


@pytest.mark.parametrize(("manners", "issued"), [
    ({"log3": "down", "log4": "drop"}, True),
    ({"log1": "down", "log2": "drop"}, True),
    ({"log1": "bad-signature"}, True),
    ({"log1": "wrong-id", "log2": "garbage"}, True),
    ({"log3": "future", "log4": "refuse"}, True),
    ({"log1": "slow"}, True),
    ({"log1": "down", "log2": "down", "log3": "down"}, False),
    ({"log1": "bad-signature", "log2": "wrong-id", "log3": "garbage"}, False),
    ({"log1": "down", "log3": "down", "log2": "slow", "log4": "bad-signature"}, False),
], ids=lambda value: str(value))
async def test_logs_that_fail(world: World, manners: dict[str, str], issued: bool) -> None:
    """Two of four may be away, slow or lying; with fewer than two operators nothing is signed and the order goes on
    being processed; once the logs are well again the same serial number becomes the certificate."""
    async with transparent(world, personalities(4)) as ct:
        for name, mode in manners.items():
            ct.logs[name].mode = mode
            ct.logs[name].delay_s = 30.0
        order = await world.ordered("www.example.com")
        ca, publisher = ct.ca(), ct.publisher(race_s=30.0 if issued else 1.0)
        await ct.turn(ca, publisher)
        serial = await world.serial(order.id)
        if not issued:
            assert await world.certificate(order.id) is None
            assert await ct.statement("SELECT count(*) FROM final_certificates") == 0, "no final is begun without SCTs"
            assert await world.refusal(order.id) is None
            assert await world.queued() == 1
            for log in ct.logs:
                log.mode = "ok"
            await ct.let_pauses_pass()
            await ct.turn(ca, ct.publisher())
        certificate = await world.issued(order.id)
        assert serial_from_int(certificate.serial_number) == serial
        issuer = x509.load_der_x509_certificate(world.issuers[1])
        names = verify_embedded(certificate, issuer, ct.logs)
        liars = {name for name, mode in manners.items() if mode != "slow"} if issued else set()
        assert not liars & set(names)
        assert await ct.statement("SELECT count(*) FROM precertificate_signatures") == 1
        await world.check()


async def test_patience_ends(world: World) -> None:
    """Logs that stay away: after the patience the order is invalid with serverInternal; its precertificate is stored,
    can be revoked, and no certificate follows even when the logs come back."""
    async with transparent(world, personalities(2)) as ct:
        for log in ct.logs:
            log.mode = "down"
        order = await world.ordered("www.example.com")
        ca, publisher = ct.ca(), ct.publisher()
        await ct.turn(ca, publisher)
        world.clock_s = 601.0
        await ct.let_pauses_pass()
        await ct.turn(ca, publisher)
        problem = await world.refusal(order.id)
        assert problem is not None
        assert problem["type"].endswith(":serverInternal")
        assert problem["status"] == 500
        assert await world.queued() == 0
        for log in ct.logs:
            log.mode = "ok"
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        assert await world.certificate(order.id) is None
        serial = await world.serial(order.id)
        assert await ct.statement("SELECT count(*) FROM precertificate_signatures WHERE serial = $1", serial) == 1
        assert await ct.statement("SELECT count(*) FROM ocsp_requests WHERE serial = $1", serial) == 1
        assert await ct.statement("SELECT count(*) FROM ct_submissions") == 0


async def test_a_kill_switch_ends_the_waiting(world: World) -> None:
    """An order with a precertificate whose issuer is disabled waits unsigned, even with all SCTs there; enabled within
    the patience it is finished, else it is invalid with serverInternal, for good, and its precertificate revocable.
    Another issuer's orders and what was begun with a disabled profile go on."""
    async with transparent(world, personalities(4)) as ct:
        rsa_key = rsa.generate_private_key(65_537, 2048)
        orders = {"enabled": await world.ordered("a.example.com"), "rsa": await world.ordered(
            "r.example.com", leaf=rsa_key, profile="classic")}
        ca, publisher = ct.ca(), ct.publisher()
        await ct.turn_once(ca)
        await world.run("ca_admin", "UPDATE issuers SET disabled_at = now() WHERE id = $1", EC_ISSUER)
        await world.run("ca_admin", "INSERT INTO disabled_profiles VALUES ('classic', now(), 'ada', '')")
        world.clock_s = 599.0
        await ct.let_pauses_pass()
        await ct.turn(ca, publisher)
        await ct.scts_of(orders["rsa"].id)
        assert await ct.statement("SELECT count(*) FROM scts WHERE serial = $1",
                                  await world.serial(orders["enabled"].id)) >= 2
        assert await world.certificate(orders["enabled"].id) is None
        assert await world.refusal(orders["enabled"].id) is None
        await world.run("ca_admin", "UPDATE issuers SET disabled_at = NULL")
        world.clock_s = 600.0
        await ct.let_pauses_pass()
        await ct.turn(ca, publisher)
        await world.issued(orders["enabled"].id)

        late = await world.ordered("late.example.com")
        await ct.turn_once(ca)
        await world.run("ca_admin", "UPDATE issuers SET disabled_at = now() WHERE id = $1", EC_ISSUER)
        world.clock_s = 1202.0
        await ct.let_pauses_pass()
        await ct.turn(ca, publisher)
        problem = await world.refusal(late.id) or {}
        assert (problem["type"].rpartition(":")[2], problem["status"]) == ("serverInternal", 500)
        assert "switched off" in problem["detail"]
        assert [event["reason"] for event in world.events if event["event"] == "refused"] == ["issuer-disabled"]
        assert await world.queued() == 0
        await world.run("ca_admin", "UPDATE issuers SET disabled_at = NULL")
        await ct.let_pauses_pass()
        await ct.turn(ca, publisher)
        assert await world.certificate(late.id) is None
        assert await ct.statement("SELECT count(*) FROM ocsp_requests WHERE serial = $1", await world.serial(late.id))
        await world.check()


async def test_retry_after_is_honoured(world: World) -> None:
    """A log that says 503 with Retry-After is not asked again before, by none of the submissions."""
    async with transparent(world, personalities(4)) as ct:
        for name in ("log1", "log3"):
            ct.logs[name].mode = "down"
            ct.logs[name].retry_after_s = 300
        publisher, ca = ct.publisher(), ct.ca()
        for number in range(4):
            order = await world.ordered(f"n{number}.example.com")
            await ct.turn(ca, publisher)
            assert await world.certificate(order.id) is None, "the other two are of one operator"
        assert [ct.logs[name].submissions for name in ("log1", "log3")] == [1, 1]
        await world.check()


async def test_the_same_precertificate_has_one_entry(world: World) -> None:
    """A publisher that dies after the logs answered asks again, and gets the SCTs that the logs already gave."""
    async with transparent(world, personalities(2)) as ct:
        order = await world.ordered("www.example.com")
        ca, dying = ct.ca(), ct.publisher("dying")

        async def die(step: int) -> None:
            if step == 9:
                raise Killed

        dying.after_step = die
        await ct.turn_once(ca)
        await dying.step()
        with pytest.raises(Killed):
            await dying.settle()
        assert [log.entry_count for log in ct.logs] == [1, 1]
        assert await ct.statement("SELECT count(*) FROM scts") == 0
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        await world.issued(order.id)
        assert sum(log.entry_count for log in ct.logs) == 3, "two for the precertificate, one for the certificate"


async def test_the_publishers_rows_are_not_believed(world: World) -> None:
    """SCTs that a captured publisher invents, takes from another certificate, or has of a log that the CA does not
    know: none is embedded, the CA says so, and asks for others."""
    async with transparent(world, personalities(4)) as ct:
        first, second = await world.ordered("a.example.com"), await world.ordered("b.example.com")
        ca = ct.ca()
        await ct.turn_once(ca)
        await ct.turn(ca, ct.publisher())
        other = await ct.statement("SELECT serial FROM issuances WHERE request_id = $1", first.id)
        third = await world.ordered("c.example.com")
        await ct.turn_once(ca)
        serial = await world.serial(third.id)
        for row in await ct.world.owner.fetch("SELECT log_id, sct FROM scts WHERE serial = $1", other):
            await ct.pool.execute("INSERT INTO scts VALUES ($1, $2, now(), $3)", serial, row["log_id"], row["sct"])
        await ct.pool.execute("INSERT INTO scts VALUES ($1, $2, now(), $3)", serial, b"x" * 32, b"\x00" + b"x" * 60)
        await ct.pool.execute("DELETE FROM ct_submissions")
        await ct.let_pauses_pass()
        await ct.turn_once(ca)
        assert await world.certificate(third.id) is None
        assert await ct.statement("SELECT count(*) FROM ct_submissions") == 1, "the publisher is asked again"
        assert [event for event in world.events if event["event"] == "a stored SCT is not used"]
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        await world.issued(third.id)
        await world.issued(second.id)
        await world.check()


@pytest.mark.parametrize("fault", ["stale", "too few", "unreadable"])
async def test_no_list_no_serial_number(world: World, fault: str) -> None:
    """With a list that browsers would not go by, or whose logs cannot give enough SCTs, nothing is begun; the request
    waits, and is refused when its patience is over."""
    async with transparent(world, [Log(name="a", operator="Alder"), Log(name="b", operator="Alder")]
                           if fault == "too few" else personalities(2)) as ct:
        def unreadable() -> None:
            raise OSError("no such file")

        ca = ct.ca(log_list=unreadable) if fault == "unreadable" else ct.ca()
        order = await world.ordered("www.example.com")
        world.clock_s = 71 * 86_400.0 if fault == "stale" else 0.0
        if fault == "stale":
            await world.owner.execute("UPDATE validations SET validated_at = now() + interval '70 days',"
                                      " caa_checked_at = now() + interval '71 days', valid_until = now() + interval"
                                      " '90 days'")
            await world.owner.execute("UPDATE issuance_requests SET requested_at = now() + interval '71 days'")
        await ct.turn_once(ca)
        assert await ct.statement("SELECT count(*) FROM issuances") == 0
        assert await world.refusal(order.id) is None
        world.clock_s += 601
        await ct.let_pauses_pass()
        await ct.turn_once(ca)
        assert ((await world.refusal(order.id)) or {})["status"] == 500
        assert await ct.statement("SELECT count(*) FROM issuances") == 0


async def test_a_log_that_left_the_list(world: World) -> None:
    """SCTs of a log that was retired between submission and signing do not count: another log is asked."""
    async with transparent(world, personalities(4)) as ct:
        ct.logs["log3"].state = ct.logs["log4"].state = "retired"
        order = await world.ordered("www.example.com")
        ca = ct.ca()
        await ct.turn_once(ca)
        publisher = ct.publisher()
        await publisher.step()
        await publisher.settle()
        assert await ct.statement("SELECT count(*) FROM scts") == 2
        ct.logs["log1"].state = "retired"
        ct.logs["log3"].state = "usable"
        ct.logs["log4"].state = "qualified"
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        await ct.let_pauses_pass()
        await ct.turn(ca, ct.publisher())
        names = verify_embedded(await world.issued(order.id), x509.load_der_x509_certificate(world.issuers[1]), ct.logs)
        assert "log1" not in names
        assert len(names) == 2


async def test_off_again(world: World) -> None:
    """CT switched off between precertificate and certificate: the order that was begun with it is finished with it,
    new ones have no precertificate."""
    async with transparent(world, personalities(2)) as ct:
        begun = await world.ordered("a.example.com")
        await ct.turn_once(ct.ca())
        off = ct.ca(enabled=False)
        new = await world.ordered("b.example.com")
        await ct.turn(off, ct.publisher())
        await ct.scts_of(begun.id)
        certificate = await world.issued(new.id)
        with pytest.raises(x509.ExtensionNotFound):
            certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        assert await ct.statement("SELECT count(*) FROM precertificate_signatures") == 1


async def test_what_a_log_refuses(world: World) -> None:
    """The test log itself: a chain of another root, a certificate in the wrong call, a wrong shard are refused."""
    async with transparent(world, [Log(name="a", operator="Alder", end=world.now() + timedelta(days=30)),
                                   Log(name="b", operator="Birch"), Log(name="c", operator="Cedar")]) as ct:
        order = await world.ordered("www.example.com")
        await ct.turn(ct.ca(), ct.publisher())
        assert ct.logs["a"].submissions == 0, "its shard ends before the certificate"
        certificate = await world.issued(order.id)
        chain = [certificate.public_bytes(Encoding.DER), world.issuers[1]]
        with pytest.raises(Exception, match="poison missing"):
            ct.logs["b"].add(chain, precertificate=True)
        with pytest.raises(Exception, match="outside of the shard"):
            ct.logs["a"].add(chain, precertificate=False)
        ct.logs["b"].roots = (certificate,)
        with pytest.raises((Exception, InvalidSignature), match="unknown root"):
            ct.logs["b"].add(chain, precertificate=False)
