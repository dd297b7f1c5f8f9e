"""What is answered: the quick way and the strict way agree, and no answer is given that should not be."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from ca.admin.ocsp_responders import ResponderState, WorkerState, ask_responders
from ocsp.protocol.batch import SignedStatus, encode_batch, split_batch
from ocsp.protocol.response import (
    INTERNAL_ERROR,
    MALFORMED_REQUEST,
    TRY_LATER,
    UNAUTHORIZED,
    CertStatus,
    HashName,
    ResponseTemplate,
    Times,
)
from ocsp.responder.answers import Answers, Asked, Form, Span
from ocsp.responder.http_text import Second
from ocsp.responder.memory import Mark, ResponseMemory, encode_issuers
from ocsp.responder.quick import KnownHeads, make_quick
from ocsp.responder.store import StoredIssuer
from tests.ca.pki.authority import authority
from tests.ocsp.protocol import reference
from tests.ocsp.responder.serving import Serving, get, post, request_for, serving
from tests.ocsp.responder.test_memory import in_another_process
from tests.ocsp.signing import DAY_S, NOW_S, TIMES, delegate_of, serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
RSA = authority(rsa.generate_private_key(65_537, 2048))
STRANGER = authority(ec.generate_private_key(ec.SECP256R1()), serials=(5, 6))
REVOKED = CertStatus(revoked_at_s=NOW_S - 500)
COMPROMISED = CertStatus(revoked_at_s=NOW_S - 500, reason=1)


@pytest.fixture(params=[True, False], ids=["shortcut", "lmdb"])
async def service(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    """Two issuers, an empty memory, with and without the shortcut."""
    async with serving(tmp_path, OWN, RSA, has_shortcut=request.param) as running:
        yield running


@pytest.mark.parametrize("name", ["sha1", "sha256"])
@pytest.mark.parametrize("status", [CertStatus(), REVOKED, COMPROMISED], ids=["good", "revoked", "reason"])
async def test_get_and_post_give_the_signed_response(service: Serving, name: str, status: CertStatus) -> None:
    """Byte for byte what was signed, with the hash that was asked for, first and later times alike."""
    record = signed(OWN, serial_of(1), status, version=1 if status.revoked_at_s else 0)
    service.store([record])
    expected = ResponseTemplate(OWN.issuer, HashName(name)).response(
        record.serial, status, TIMES, record.signatures[0 if name == "sha1" else 1])
    request = request_for(OWN, record.serial, name)
    for raw in (get(request), post(request), get(request, escaped=True)) * 2:
        reply, = await service.ask(raw)
        assert (reply.status, reply.body) == (200, expected)


async def test_the_quick_way_gives_the_bytes_of_the_strict_way(service: Serving) -> None:
    """Header by header: a client cannot tell which of the two answered it."""
    records = [signed(OWN, serial_of(number)) for number in range(20)]
    service.store(records)
    for name in ("sha1", "sha256"):
        for record in records:
            request = request_for(OWN, record.serial, name)
            # A header that was not seen before takes the strict way; the same bytes again take the quick one.
            raw = get(request, f"X-First: {record.serial.hex()}{name}")
            assert service.server.quick(raw) is None
            first, = await service.ask(raw)
            assert service.server.quick(raw) is not None
            second, = await service.ask(raw)
            posted, = await service.ask(post(request))
            assert service.server.quick(post(request)) is not None
            again, = await service.ask(post(request))
            escaped, = await service.ask(get(request, f"X-First: {record.serial.hex()}{name}", escaped=True))
            assert first == second == posted == again == escaped


@pytest.mark.parametrize("status", [CertStatus(), REVOKED, COMPROMISED], ids=["good", "revoked", "reason"])
async def test_what_a_delegated_responder_signed_carries_its_certificate(service: Serving, status: CertStatus) -> None:
    """Either way the same bytes; until the responder's certificate is here, nobody is told anything but tryLater."""
    delegate = delegate_of(OWN)
    record = signed(OWN, serial_of(1), status, version=1, delegate=delegate)
    service.store([record], responder_id=9)
    request = request_for(OWN, record.serial)
    reply, = await service.ask(get(request))
    assert (reply.status, reply.body) == (503, TRY_LATER)
    service.memory.set_issuers(service.memory.issuers(), encode_issuers([(9, delegate.certificate.certificate_der)]))
    for index, name in enumerate(("sha1", "sha256")):
        request = request_for(OWN, record.serial, name)
        expected = ResponseTemplate(OWN.issuer, HashName(name), delegate.certificate).response(
            record.serial, status, TIMES, record.signatures[index])
        first, = await service.ask(get(request, f"X-First: {name}"))
        assert (first.status, first.body) == (200, expected)
        assert service.server.quick(get(request, f"X-First: {name}")) is not None
        second, = await service.ask(get(request, f"X-First: {name}"))
        assert second == first
    again = signed(OWN, serial_of(1), status, version=2)
    service.store([again])
    reply, = await service.ask(get(request_for(OWN, record.serial)))
    assert not ocsp.load_der_ocsp_response(reply.body).certificates


async def test_requests_with_options_are_answered_as_without(service: Serving) -> None:
    """Nonce, version, requestor, absent parameters; the answer has no nonce (allowed by RFC 9654)."""
    record = signed(OWN, serial_of(1))
    service.store([record])
    cid = reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, record.serial)
    bare = reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, record.serial,
                            alg=bytes.fromhex("300706052b0e03021a"))
    nonce = reference.extension("2b0601050507300102", reference.tlv(4, bytes(16)))
    plain, = await service.ask(post(reference.request([cid])))
    for request in (reference.request([cid], extensions=[nonce]), reference.request([bare]),
                    reference.request([cid, reference.certid("sha256", OWN.issuer.subject_der, OWN.issuer.key_bits,
                                                             record.serial)])):
        for raw in (post(request), get(request)):
            reply, = await service.ask(raw)
            assert (reply.status, reply.body) == (200, plain.body)


@pytest.mark.parametrize("request_der", [
    request_for(OWN, serial_of(2)), request_for(RSA, serial_of(1)), request_for(STRANGER, serial_of(1)),
    request_for(OWN, serial_of(1)[:-1]), request_for(OWN, b"\x01" + serial_of(1)),
    reference.request([reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, serial_of(1)),
                       reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, serial_of(2))]),
    reference.request([reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, serial_of(1),
                                        alg=bytes.fromhex("300d06096086480165030402020500"))]),
], ids=["never-issued", "other-issuer", "unknown-issuer", "short-serial", "long-serial", "two-certificates",
        "other-hash"])
async def test_what_was_not_issued_is_unauthorized_and_never_good(service: Serving, request_der: bytes) -> None:
    """Unknown issuer, foreign or unknown serial, other hash (spec 5.5): five octets, not cached, HTTP 200."""
    service.store([signed(OWN, serial_of(1))])
    for raw in (get(request_der), post(request_der)) * 2:
        reply, = await service.ask(raw)
        assert (reply.status, reply.body) == (200, UNAUTHORIZED)
        assert reply.headers["Cache-Control"] == "max-age=0, no-cache"


@pytest.mark.parametrize("status", [CertStatus(), REVOKED], ids=["good", "revoked"])
async def test_an_expired_certificate_is_unauthorized(service: Serving, status: CertStatus) -> None:
    """From the second after notAfter on, even while its response lives; revoked ones are answered for until then."""
    record = signed(OWN, serial_of(1), status, version=1 if status.revoked_at_s else 0, not_after_s=NOW_S + 10)
    service.store([record])
    request = request_for(OWN, record.serial)
    for later_s, body in ((10, None), (11, UNAUTHORIZED)):
        service.clock.now_s = NOW_S + later_s
        service.server.refresh()
        for raw in (get(request), post(request)):
            reply, = await service.ask(raw)
            assert reply.body == (body or reply.body)
            assert (reply.body == UNAUTHORIZED) is (later_s > 10)


@pytest.mark.parametrize("status", [CertStatus(), REVOKED], ids=["good", "revoked"])
async def test_no_answer_is_given_past_its_next_update(service: Serving, status: CertStatus) -> None:
    """internalError with HTTP 500 from the second after nextUpdate on, although the quick way knew the response; the
    operator is told, by an alarm that does not fill the log and by a metric."""
    service.store([signed(OWN, serial_of(1), status, version=1 if status.revoked_at_s else 0)])
    request = request_for(OWN, serial_of(1))
    for at_s in (NOW_S, TIMES.next_update_s - 1, TIMES.next_update_s):
        service.clock.now_s = at_s
        service.server.refresh()
        for raw in (get(request), post(request)):
            reply, = await service.ask(raw)
            assert reply.status == 200
            assert ocsp.load_der_ocsp_response(reply.body).next_update_utc is not None
    service.clock.now_s = TIMES.next_update_s + 1
    service.server.refresh()
    for raw in (get(request), post(request), get(request, "If-None-Match: *")):
        reply, = await service.ask(raw)
        assert (reply.status, reply.body) == (500, INTERNAL_ERROR)
        assert reply.headers["Cache-Control"] == "max-age=0, no-cache"
    with capture_logs() as logs:
        service.server.look_around()
        await service.ask(get(request))
        service.server.look_around()
    assert [(line["event"], line["log_level"], line["count"]) for line in logs] == [
        ("answers withheld: past nextUpdate", "error", 3)]
    metrics, = await service.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b'chancery_ocsp_responder_withheld_total{worker="here:1"} 4\n' in metrics.body
    assert b"chancery_ocsp_responder_shortcut_complete %d\n" % service.has_shortcut in metrics.body


async def test_before_the_log_was_read_an_unknown_serial_is_asked_to_try_later(tmp_path: Path) -> None:
    """Nobody can know yet whether it was issued; what is there already is answered. The operator is not told a lag that
    is the age of the epoch."""
    async with serving(tmp_path, OWN) as service:
        service.memory.begin_anew()
        service.server.refresh()
        assert (await service.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))[0].status == 503
        reply, = await service.ask(get(request_for(OWN, serial_of(1))))
        assert (reply.status, reply.body, reply.headers["Retry-After"]) == (503, TRY_LATER, "5")
        address = f"127.0.0.1:{service.port}"
        workers = (WorkerState(worker="here:1", connections=1, withheld=0, live=None),)
        assert await ask_responders([address]) == [ResponderState(
            address=address, state="pending: reading the batch log", batch_id=0, lag_s=None, workers=workers)]
        service.memory.apply((), mark=Mark(), complete=True)
        service.memory.read_to_the_end(service.clock.now_s - 2)
        service.server.refresh()
        assert await ask_responders([address]) == [ResponderState(
            address=address, state="ok", batch_id=0, lag_s=2.0, workers=workers)]
        assert (await service.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))[0].body == b"ok\n"


async def test_another_generation_and_its_issuers_are_taken_up(service: Serving, tmp_path: Path) -> None:
    """Begun by another worker, because the file was damaged or of another log: within a second answers are from there,
    for the issuers of there, and nothing that only the old one knew is answered."""
    service.store([signed(OWN, serial_of(1))])
    old, new = (get(request_for(own, serial_of(1))) for own in (OWN, STRANGER))
    assert [(await service.ask(raw))[0].body == UNAUTHORIZED for raw in (old, new)] == [False, True]
    issuers = encode_issuers([(7, OWN.issuer.certificate_der), (9, STRANGER.issuer.certificate_der)])
    items = list(split_batch(encode_batch(TIMES, [signed(STRANGER, serial_of(1))]), 9))
    in_another_process(tmp_path, f"memory.begin_anew(); memory.set_issuers({issuers!r}); memory.apply({items!r},"
                       " mark=Mark(1, 1), complete=True); memory.close()")
    service.server.look_around()
    service.server.refresh()
    assert [(await service.ask(raw))[0].body == UNAUTHORIZED for raw in (old, new)] == [True, False]


async def test_cache_headers_count_down_to_the_end(service: Serving) -> None:
    """max-age is an hour, and nothing in the last hour of a response (RFC 9919 5)."""
    service.store([signed(OWN, serial_of(1))])
    request = request_for(OWN, serial_of(1))
    for left_s, expected in ((7 * DAY_S - 100, 3600), (7200, 3600), (7199, 3599), (3700, 100), (3600, 0), (5, 0)):
        service.clock.now_s = TIMES.next_update_s - left_s
        service.server.refresh()
        for raw in (get(request), get(request), post(request), get(request, "X: y")):
            reply, = await service.ask(raw)
            assert reply.headers["Cache-Control"] == f"max-age={expected}, public, no-transform, must-revalidate"


async def test_a_form_is_made_anew_when_its_minute_is_over(service: Serving) -> None:
    """What is kept for many responses does not outlive the second in which max-age starts to count."""
    service.store([signed(OWN, serial_of(1))])
    request = get(request_for(OWN, serial_of(1)))
    await service.ask(request)
    service.clock.now_s = TIMES.next_update_s - 7210
    service.server.refresh()
    assert b"max-age=3600," in (service.server.quick(request) or b"")
    service.clock.now_s = TIMES.next_update_s - 7190
    service.server.refresh()
    assert b"max-age=3590," in (service.server.quick(request) or b"")


async def test_garbage_is_malformed_in_either_method(service: Serving) -> None:
    """HTTP 400 and malformedRequest."""
    bad = base64.b64decode(b"MFEwTzBN")
    for raw in (get(bad), post(bad), post(b""), b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        reply, = await service.ask(raw)
        assert (reply.status, reply.body) == (400, MALFORMED_REQUEST)


async def test_many_batches_do_not_mix_up_their_forms(service: Serving) -> None:
    """Responses with other times or signature lengths, two issuers and hashes: each reads back with its own."""
    expected = {}
    for number in range(40):
        own = RSA if number % 4 == 0 else OWN
        this_update_s = NOW_S - 60 * (number // 3) - 60
        times = Times(produced_at_s=this_update_s + number, this_update_s=this_update_s,
                      next_update_s=NOW_S + DAY_S + number // 2)
        record = signed(own, serial_of(number), times=times)
        service.memory.apply(split_batch(encode_batch(times, [record]), 8 if own is RSA else 7), mark=Mark(number, 1))
        for index, name in enumerate(HashName):
            expected[request_for(own, record.serial, name.value)] = ResponseTemplate(own.issuer, name).response(
                record.serial, record.status, times, record.signatures[index])
    service.server.refresh()
    await service.ask(get(next(iter(expected))))        # so that its header is known
    for request, body in list(expected.items()) * 2:
        answer = service.server.quick(get(request))
        assert answer is not None
        assert answer.partition(b"\r\n\r\n")[2] == body
        assert b"Content-Length: %d\r\n" % len(body) in answer


@pytest.mark.parametrize("status", [CertStatus(), REVOKED, COMPROMISED], ids=["good", "revoked", "reason"])
async def test_every_second_of_an_hour_has_its_own_producedat(service: Serving, status: CertStatus) -> None:
    """With one form for all: the quick way's bytes are those that were signed. Times that the pre-signer does not give,
    producedAt in a later hour than thisUpdate, are left to the strict way, whichever of them is asked for first."""
    expected, hour_s = list[tuple[bytes, bytes, bool]](), NOW_S // 3_600 * 3_600 - 7_200
    for number, (this_s, after_s) in enumerate([
            (hour_s, 3_600), *((hour_s, minute * 60 + (7 * minute + 59) % 60) for minute in range(60)),
            *((hour_s + 720, second) for second in range(60)), (hour_s, 3_599), (hour_s + 3_540, 59),
            (hour_s + 3_540, 60), (hour_s + 3_599, 1), (hour_s + 1, 0), (hour_s, 9 * 3_600)]):
        times = Times(produced_at_s=this_s + after_s, this_update_s=this_s, next_update_s=NOW_S + DAY_S)
        record = signed(OWN, serial_of(number), status, times=times)
        service.store([record], times=times, batch_id=number + 1)
        expected += [(request_for(OWN, record.serial, name.value), ResponseTemplate(OWN.issuer, name).response(
            record.serial, status, times, record.signatures[index]), this_s // 3_600 == (this_s + after_s) // 3_600)
            for index, name in enumerate(HashName)]
    await service.ask(get(expected[0][0]))              # so that its header is known
    for request, body, is_plain in expected * 2:
        answer = service.server.quick(get(request))
        assert (answer is not None) is is_plain
        reply, = await service.ask(get(request))
        assert (reply.status, reply.body) == (200, body)
        if answer is not None:
            assert answer.partition(b"\r\n\r\n")[2] == body


async def test_what_a_span_shares_is_made_once_and_forgotten_a_few_at_a_time(tmp_path: Path) -> None:
    """More different producedAt than spans are kept: one is made for the same times, whatever the hash. With more spans
    than are kept those that were asked for first are forgotten, not all; and nobody is answered otherwise."""
    memory, made = ResponseMemory(tmp_path, map_size_gib=1), list[bytes]()
    answers = Answers([StoredIssuer(id=7, certificate=OWN.issuer.certificate_der)], memory, Second(NOW_S, max_age_s=60))
    answers.max_spans = 200
    make_form = answers.make_form

    def counted(asked: Asked, value: bytes, shape: bytes, times: bytes) -> tuple[Form, Span] | None:
        made.append(shape)
        return make_form(asked, value, shape, times)

    answers.make_form = counted  # type: ignore[method-assign]
    quick, head = make_quick(answers, known := KnownHeads()), b"HTTP/1.1\r\nHost: ocsp.example\r\n\r\n"
    known.remember_tail(head)
    minutes, requests, bodies = 300, list[list[bytes]](), dict[bytes, bytes]()
    for minute in range(minutes):
        requests.append([])
        for second in (0, 29, 59):
            this_s = NOW_S - 60 * minutes + 60 * minute
            times = Times(produced_at_s=this_s + second, this_update_s=this_s, next_update_s=this_s + 7 * DAY_S - 1)
            serial = serial_of(minute * 60 + second)
            record = SignedStatus(serial, 0, CertStatus(), NOW_S + DAY_S, (bytes(71), bytes(71)))
            memory.apply(split_batch(encode_batch(times, [record]), 7), mark=Mark(minute + 1, 1))
            for name in HashName:
                raw = get(request_for(OWN, serial, name.value))
                requests[-1].append(raw)
                bodies[raw] = ResponseTemplate(OWN.issuer, name).response(serial, CertStatus(), times, bytes(71))
    memory.renew()

    def ask(some: list[list[bytes]]) -> int:
        made.clear()
        for of_minute in some:
            for raw, answer in zip(of_minute, quick(of_minute), strict=True):
                assert answer is not None
                assert answer.partition(b"\r\n\r\n")[2] == bodies[raw]
        return len(made)

    assert ask(requests[:150]) == 151       # three producedAt each; one is for the other hash
    assert ask(requests[:150]) == 0
    assert ask(requests[150:]) == 150       # the first ones are given up, by and by
    assert len(answers.spans) <= 200
    assert ask(requests[150:]) == 0
    assert ask(requests[:100]) == 100
    assert ask(requests[250:]) == 0
    memory.close()


@pytest.mark.parametrize("name", ["sha1", "sha256"])
async def test_the_quick_way_takes_nothing_for_canonical_that_is_not(service: Serving, name: str) -> None:
    """An octet less, another, one more, or the begin of a second request, at every place: the quick way gives what the
    strict way gives, or leaves it to it."""
    serial = int.from_bytes(serial_of(1), "big")
    service.store([signed(OWN, (serial ^ 1 << bit).to_bytes(18, "big")) for bit in range(128)])
    service.store([signed(OWN, serial_of(1))])
    request, agreed = request_for(OWN, serial_of(1), name), 0
    for raw in (get(request), get(request, escaped=True), post(request)):
        await service.ask(raw)
        assert service.server.quick(raw) is not None
        for at in range(len(raw)):
            for damaged in (raw[:at], raw[:at] + raw[at + 1:], raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1:],
                            raw[:at] + b" " + raw[at:], raw + raw[:at + 1]):
                answer = service.server.quick(damaged)
                if answer is not None:
                    strict, = await service.ask(damaged.replace(b"\r\n", b"\r\nX-Not-Seen-Before: y\r\n", 1))
                    assert answer.partition(b"\r\n\r\n")[2] == strict.body
                    agreed += 1
    assert agreed
