"""The damage that is done, and what counts as an answer to it; a smaller run against a responder in the test."""

import random
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from loadtest.http_connection import Origin
from loadtest.ocsp_load import Subject
from loadtest.program import ProgramFault
from loadtest.scenario_fuzz import (
    _exchange,
    check_answers_to_noise,
    conversation,
    requests_about,
    require_answers,
)
from ocsp.protocol.response import TRY_LATER, HashName, ResponseTemplate
from tests.ca.pki.authority import authority
from tests.ocsp.responder.serving import get, request_for, serving
from tests.ocsp.signing import TIMES, serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))


async def test_thousands_of_damaged_requests_leave_it_answering(tmp_path: Path) -> None:
    """Every answer is one of the kinds that there are, about certificates that exist; at the end all is as before."""
    source, seen = random.Random(20261125), Counter[str]()
    records = [signed(OWN, serial_of(number)) for number in range(4)]
    certificate = x509.load_der_x509_certificate(OWN.issuer.certificate_der)
    subjects = [Subject(serial=int.from_bytes(one.serial, "big"), issuer=certificate) for one in records]
    known = {subject.serial for subject in subjects}
    async with serving(tmp_path, OWN) as service:
        service.store(records)
        origin = Origin(scheme="http", host="localhost", port=service.port, address="127.0.0.1")
        requests = requests_about(subjects)
        for _ in range(200):
            data = conversation(source, requests, 20)
            check_answers_to_noise(await _exchange(origin, data), known, seen)
        reply, = await service.ask(get(request_for(OWN, records[0].serial)))
    assert reply.status == 200
    assert {"200 OK", "400 Bad Request"} <= set(seen)
    require_answers(seen, 200 * 19)
    with pytest.raises(ProgramFault, match="could be read"):
        require_answers(seen, 200 * 20 + 1)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 299 Odd\r\n\r\n", b"junk\r\n\r\n", b"HTTP/1.1 200\x00 OK\r\n\r\n"])
def test_what_is_no_answer_is_noticed(answer: bytes) -> None:
    """The check itself can fail."""
    with pytest.raises(ProgramFault):
        check_answers_to_noise(answer, set(), Counter())


def test_an_answer_about_a_stranger_is_noticed() -> None:
    """A good answer for what was never issued is the worst that could happen."""
    record = signed(OWN, serial_of(9))
    body = ResponseTemplate(OWN.issuer, HashName.SHA1).response(record.serial, record.status, TIMES,
                                                               record.signatures[0])
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    check_answers_to_noise(answer, {int.from_bytes(record.serial, "big")}, Counter())
    with pytest.raises(ProgramFault, match="never issued"):
        check_answers_to_noise(answer, {1}, Counter())
    check_answers_to_noise(b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\n" + TRY_LATER, set(), Counter())
