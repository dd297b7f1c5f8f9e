"""The cache in front of responders: the configuration that is shipped, with its addresses replaced."""

import asyncio
import base64
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from ocsp.protocol.response import MALFORMED_REQUEST
from ocsp.responder.memory import encode_issuers
from tests.acceptance.ocsp_site import ISSUERS, MAX_AGE_S, Responder, cache_in_front, curl
from tests.ocsp.processes import until
from tests.ocsp.responder.serving import ISSUER_ID, request_for, serving
from tests.ocsp.signing import TIMES, serial_of, signed


@pytest.fixture
def cached_port(responder: Responder, tmp_path: Path) -> Iterator[int]:
    """That of the cache in front."""
    with cache_in_front(tmp_path, responder.port) as port:
        yield port


async def test_the_cache_in_front_answers_the_repeats(responder: Responder, cached_port: int, tmp_path: Path) -> None:
    """GET and POST: the first is the responder's, the repeats are nginx's, byte for byte, with its headers."""
    site = responder.sites["ec"]
    request = request_for(site.own, site.serial)
    body = tmp_path / "request.der"
    body.write_bytes(request)
    path = "/" + base64.b64encode(request).decode()
    by_post = ("-H", "Content-Type: application/ocsp-request", "--data-binary", f"@{body}")
    for target, options in ((path, ()), ("/", by_post)):
        direct, expected = curl(responder.port, target, *options)
        headers, answer = curl(cached_port, target, *options)
        assert (headers["x-cache-status"], answer) == ("MISS", expected)
        made_at = headers["date"]
        give_up_at = time.monotonic() + 30
        # Kept for two seconds, which a busy machine may miss; in the second of the Date nobody knows whose it is.
        while headers["x-cache-status"] != "HIT" or int(time.time()) == int(parsedate_to_datetime(made_at).timestamp()):
            assert time.monotonic() < give_up_at
            made_at = headers["date"] if headers["x-cache-status"] != "HIT" else made_at
            headers, answer = curl(cached_port, target, *options)
            assert answer == expected
        assert headers["date"] == made_at, "a cache further out knows how old the answer is already"
        for name in ("content-type", "etag", "last-modified", "expires", "cache-control"):
            assert headers[name] == direct[name]
    known, _ = curl(cached_port, path, "-H", f"If-None-Match: {direct['etag']}")
    assert known["status"] == "304"
    known, _ = curl(cached_port, path, "-H", f"If-Modified-Since: {direct['last-modified']}")
    assert known["status"] == "200", "a date does not tell a good answer from the revoked one of the same minute"
    doubled = "//" + base64.b64encode(request).decode().replace("/", "%2F").replace("+", "%2B")
    assert curl(cached_port, doubled)[1] == expected
    wrong, _ = curl(cached_port, "/junk")
    assert (wrong["status"], wrong["x-cache-status"]) == ("400", "MISS")
    assert curl(cached_port, "/junk")[0]["x-cache-status"] == "MISS"
    other = responder.sites["rsa"]
    body.write_bytes(request_for(other.own, other.serial))
    assert curl(cached_port, "/", *by_post)[1] == curl(responder.port, "/", *by_post)[1] != expected
    body.write_bytes(bytes(10_000))
    assert curl(cached_port, "/", *by_post)[1] == curl(responder.port, "/", *by_post)[1] == MALFORMED_REQUEST
    for path in ("/healthz", "/metrics"):
        assert curl(cached_port, path)[0]["status"] == "404"


async def test_answers_that_say_try_later_take_no_responder_out(tmp_path: Path) -> None:
    """Two responders behind the cache that cannot know yet what was given out, or whose queue of live answers is full,
    are not what nginx calls failed: what they know is answered all the same. When they are away nothing is given out
    that is older than it may be."""
    own, known = ISSUERS["ec"], signed(ISSUERS["ec"], serial_of(1))
    tmp_path.chmod(0o755)
    async with serving(tmp_path / "one", own) as one, serving(tmp_path / "two", own) as two:
        for service in (one, two):
            service.memory.begin_anew()
            service.memory.set_issuers(encode_issuers([(ISSUER_ID, own.issuer.certificate_der)]))
            service.server.refresh()
            service.server.look_around()
            service.store([known], is_complete=False)
        with cache_in_front(tmp_path, one.port, two.port) as port:
            await asyncio.to_thread(curl, port, "/healthz")     # it listens
            for _ in range(3):
                for serial, expected in ((serial_of(2), "503"), (known.serial, "200")):
                    path = "/" + base64.b64encode(request_for(own, serial)).decode()
                    headers, _ = await asyncio.to_thread(curl, port, path, "--retry", "0")
                    assert headers["status"] == expected
                    assert ("retry-after" in headers) is (expected == "503")
            for service in (one, two):
                service.clock.now_s = TIMES.next_update_s - 3_600 - 1
                service.server.refresh()
            path = "//" + base64.b64encode(request_for(own, known.serial)).decode()
            headers, _ = await asyncio.to_thread(curl, port, path)
            assert headers["cache-control"].startswith("max-age=1,")
            for service in (one, two):
                await service.server.stop()
            await asyncio.sleep(2.1)
            headers, _ = await asyncio.to_thread(curl, port, path, "--retry", "0")
            assert headers["status"] == "502"


async def test_a_revocation_passes_the_cache_within_max_age(responder: Responder, cached_port: int) -> None:
    """However often it is asked for: `ocsp.max_age_s` after the revocation no cached `good` is left."""
    site = responder.sites["rsa"]
    path = "/" + base64.b64encode(request_for(site.own, site.serial)).decode()

    def status(port: int) -> ocsp.OCSPCertStatus:
        return ocsp.load_der_ocsp_response(curl(port, path)[1]).certificate_status

    assert status(cached_port) is ocsp.OCSPCertStatus.GOOD
    await responder.revoke("rsa")
    await until(lambda: status(responder.port) is ocsp.OCSPCertStatus.REVOKED, patience_s=30)
    revoked_at, last_good_at = time.monotonic(), 0.0
    while True:
        asked_at = time.monotonic()
        if status(cached_port) is ocsp.OCSPCertStatus.REVOKED:
            break
        last_good_at = asked_at
        assert asked_at - revoked_at < 30
        await asyncio.sleep(0.05)
    # nginx counts whole seconds, so one more than the header says.
    assert last_good_at - revoked_at <= MAX_AGE_S + 1
