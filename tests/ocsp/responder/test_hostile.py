"""Every form of a request that the specification names, through HTTP: what is hostile is refused as it says, what is
odd is answered as if it were not, and the next request on the same connection is answered as ever (spec 5.2, 5.5)."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ocsp.protocol.request import MAX_PATH_BYTES, MAX_REQUEST_BYTES
from ocsp.protocol.response import MALFORMED_REQUEST, UNAUTHORIZED, CertStatus
from tests.ca.pki.authority import authority
from tests.ocsp.protocol import reference
from tests.ocsp.protocol.test_request import IGNORED, LOCATOR, MALFORMED, OWN, SERIAL, cid
from tests.ocsp.responder.serving import Reply, get, post, read_reply, request_for, serving
from tests.ocsp.signing import TIMES, serial_of, signed

OTHER = authority(ec.generate_private_key(ec.SECP256R1()), serials=(7, 8))
REQUEST = request_for(OWN, SERIAL)
# Of SHA-384, which nobody can answer here: whose certificate it is about is not known.
_SHA384 = reference.certid("sha1", OWN.issuer.subject_der, OWN.issuer.key_bits, SERIAL,
                           alg=bytes.fromhex("300d06096086480165030402020500"))


def of_other(serial: bytes) -> bytes:
    """A CertID of another issuer of this responder."""
    return reference.certid("sha1", OTHER.issuer.subject_der, OTHER.issuer.key_bits, serial)


def padded(octets: int) -> bytes:
    """A request of just so many octets, in which an extension that is ignored takes the room."""
    for room in range(octets):
        made = reference.request([cid()], extensions=[reference.extension(LOCATOR, bytes(room))])
        if len(made) == octets:
            return made
    raise AssertionError("no request has this length")


async def test_every_hostile_request_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    """By GET and POST, all behind each other on one connection, a clean one after each: 400 and malformedRequest, not
    to be cached. What is longer than its bound ends the connection, and no other."""
    async with serving(tmp_path, OWN) as service:
        service.store([signed(OWN, SERIAL)])
        clean, = await service.ask(get(REQUEST))
        reader, writer = await service.connect()
        for form, request in MALFORMED.items():
            for raw in (get(request), post(request)):
                bound = MAX_PATH_BYTES if raw.startswith(b"GET") else MAX_REQUEST_BYTES
                if len(base64.b64encode(request) if raw.startswith(b"GET") else request) > bound:
                    answer = await service.raw(raw + get(REQUEST))
                    assert answer.startswith(b"HTTP/1.1 41%d " % (4 if bound == MAX_PATH_BYTES else 3)), form
                    assert answer.endswith(b"\r\n\r\n" + MALFORMED_REQUEST), form
                    continue
                writer.write(raw + get(REQUEST))
                refused, answered = await read_reply(reader), await read_reply(reader)
                assert (refused.status, refused.body) == (400, MALFORMED_REQUEST), form
                assert refused.headers["Cache-Control"] == "max-age=0, no-cache", form
                assert answered == clean, form
        writer.close()


async def test_every_odd_request_gets_the_bytes_of_the_plain_one(tmp_path: Path) -> None:
    """Requestor, signature, nonces and extensions that are not critical, absent parameters: by GET and POST."""
    async with serving(tmp_path, OWN) as service:
        service.store([signed(OWN, SERIAL)])
        clean, = await service.ask(get(REQUEST))
        for form, request in IGNORED.items():
            for reply in await service.ask(get(request), post(request), get(request, escaped=True)):
                assert reply == clean, form


@pytest.mark.parametrize("own_first", [True, False])
async def test_several_cert_ids_are_answered_for_one_certificate_alone(tmp_path: Path, own_first: bool) -> None:
    """SHA-1 and SHA-256 of one certificate, or the same twice: the answer to the first. Another serial number, the same
    one of another issuer, or a CertID of which nobody knows whose it is: unauthorized, whichever comes first."""
    async with serving(tmp_path, OWN, OTHER) as service:
        service.store([signed(OWN, SERIAL), signed(OWN, serial_of(2))])
        first, = await service.ask(post(REQUEST))
        by_sha256, = await service.ask(post(request_for(OWN, SERIAL, "sha256")))
        for cids, expected in (([cid(), cid("sha256")], first), ([cid(), cid()], first),
                               ([cid("sha256"), cid()], by_sha256)):
            for reply in await service.ask(post(reference.request(cids)), get(reference.request(cids))):
                assert reply.body == expected.body
        for other in (cid(serial=serial_of(2)), cid(serial=serial_of(3)), of_other(SERIAL), _SHA384):
            pair = reference.request([cid(), other] if own_first else [other, cid()])
            for reply in await service.ask(post(pair), get(pair)):
                assert (reply.status, reply.body) == (200, UNAUTHORIZED)


async def test_the_bounds_are_the_last_ones_that_are_taken(tmp_path: Path) -> None:
    """1,000 characters of a path, query and prefix apart, and 10,000 octets of a body; one more is refused."""
    async with serving(tmp_path, OWN) as service:
        service.store([signed(OWN, SERIAL)])
        clean, = await service.ask(get(REQUEST))
        longest = get(padded(MAX_PATH_BYTES // 4 * 3))
        path = longest.split(b" ")[1]
        assert len(path) == 1 + MAX_PATH_BYTES
        for raw in (longest, longest.replace(path, b"/ocsp" + path), longest.replace(path, path + b"?" + b"q" * 5_000),
                    post(padded(MAX_REQUEST_BYTES))):
            reply, = await service.ask(raw)
            assert (reply.status, reply.body) == (200, clean.body)
        for raw, status in ((longest.replace(path, b"/" + path), 414), (post(padded(MAX_REQUEST_BYTES + 1)), 413)):
            reply, = await service.ask(raw)
            assert (reply.status, reply.body) == (status, MALFORMED_REQUEST)


async def test_a_slash_at_the_end_is_data_if_it_belongs_to_the_request(tmp_path: Path) -> None:
    """A request whose base64 ends with one, as it is, with another one behind it, and escaped (A.2)."""
    # 105 octets, the last six bits all set.
    serial = SERIAL[:-3] + b"\xff\xff\xff"
    request = next(made for made in (reference.request([cid(serial=serial)], before=reference.tlv(
        0xA1, reference.tlv(0xA4, reference.tlv(0x30, bytes(room))))) for room in range(3)) if len(made) % 3 == 0)
    text = base64.b64encode(request)
    assert text.endswith(b"/")
    async with serving(tmp_path, OWN) as service:
        service.store([signed(OWN, serial)])
        clean, = await service.ask(get(request_for(OWN, serial)))
        for path in (text, text + b"/", text.replace(b"/", b"%2F"), text.replace(b"/", b"%2f") + b"/"):
            reply, = await service.ask(b"GET /" + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (reply.status, reply.body) == (200, clean.body)


async def test_who_names_another_response_gets_the_one_of_now(tmp_path: Path) -> None:
    """The other hash, another certificate, a later signature, a revocation: each has an ETag of its own. A date says
    less: thisUpdate may be that of a `good` of the same minute, so by it alone nobody knows that one is revoked."""
    async with serving(tmp_path, OWN) as service:
        etags: list[str] = []

        async def look(serial: bytes, name: str = "sha1") -> Reply:
            request = request_for(OWN, serial, name)
            reply, = await service.ask(get(request, *([f"If-None-Match: {', '.join(etags)}"] if etags else [])))
            assert reply.status == 200
            etags.append(reply.headers["ETag"])
            again, = await service.ask(get(request, f"If-None-Match: {etags[-1]}"))
            assert again.status == 304
            return reply

        service.store([signed(OWN, SERIAL), signed(OWN, serial_of(2))])
        for name in ("sha1", "sha256"):
            await look(SERIAL, name)
        await look(serial_of(2))
        service.store([signed(OWN, SERIAL)], batch_id=2)
        good = await look(SERIAL)
        service.store([signed(OWN, SERIAL, CertStatus(revoked_at_s=TIMES.this_update_s + 9, reason=1), version=1)],
                      batch_id=3)
        since = f"If-Modified-Since: {good.headers['Last-Modified']}"
        revoked, = await service.ask(get(REQUEST, since))
        assert revoked.status == 200
        assert revoked.headers["Last-Modified"] == good.headers["Last-Modified"]
        assert await look(SERIAL) == revoked
        other, = await service.ask(get(request_for(OWN, serial_of(2)), since))
        assert other.status == 304
    assert len(set(etags)) == 5
