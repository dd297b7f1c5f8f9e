"""`chancery order`: the status that the subscriber sees, and the reason with its evidence."""

from datetime import timedelta
from typing import Any

import pytest

from ca.pki.object_id import ObjectId, to_text
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import DAY, Seed, bytes_of

_REFUSED = {"type": "urn:ietf:params:acme:error:connection", "detail": "connection refused by 192.0.2.7:80",
            "status": 400}
_CAA = {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA of a.example permits only other.example",
        "status": 403}


async def _order(seed: Seed, *, name: str = "a.example", validated: bool = False, problem: object = None,
                 expires: timedelta = DAY) -> tuple[ObjectId, ObjectId, ObjectId]:
    """Account, authorization and order for one name."""
    account = await seed.account()
    authorization = await seed.authorization(account, name, expires=expires)
    if validated or problem:
        await seed.validation(authorization, account, name, problem=problem)
    return account, authorization, await seed.order(account, [name], [authorization], expires=expires)


async def _queue(seed: Seed, kind: str, challenge_type: str, authorization: bytes, account: bytes) -> None:
    """The WFE asks the VA for something."""
    await seed.run("acme_wfe", "INSERT INTO validation_requests (id, kind, authorization_id, account_id,"
                   " challenge_type, thumbprint, requested_at) VALUES ($1, $2, $3, $4, $5, '', $6)", seed.new_id(),
                   kind, authorization, account, challenge_type, seed.now)


async def _explain(command_line: CommandLine, order: ObjectId) -> Any:
    return await command_line.json("order", "explain", to_text(order))


async def test_pending(seed: Seed, command_line: CommandLine) -> None:
    """The client has to answer a challenge, and then the VA has to look."""
    account, authorization, order = await _order(seed)
    document = await _explain(command_line, order)
    assert (document["status"], document["error"]) == ("pending", None)
    assert document["why"] == "the client has still to answer a challenge for a.example"
    await _queue(seed, "challenge", "dns-01", authorization, account)
    document = await _explain(command_line, order)
    assert document["why"] == "the VA has still to validate a.example"
    assert document["authorizations"][0]["queued_type"] == "dns-01"


async def test_ready(seed: Seed, command_line: CommandLine) -> None:
    """Everything is proven; the client has to finalize."""
    _, _, order = await _order(seed, validated=True)
    document = await _explain(command_line, order)
    assert document["status"] == "ready"
    assert document["authorizations"][0]["status"] == "valid"
    assert document["authorizations"][0]["validation"]["evidence"]["status"] == 200


async def test_processing_names_who_has_it(seed: Seed, command_line: CommandLine) -> None:
    """The CA's queue, then a CAA check of the VA, then the half-made certificate, CT logs, then the pre-signer."""
    await seed.issuer()
    account, authorization, order = await _order(seed, validated=True)
    await seed.finalization(order, queued=True)
    document = await _explain(command_line, order)
    assert document["status"] == "processing"
    assert document["why"].startswith("the CA has the order for")
    await _queue(seed, "caa", "http-01", authorization, account)
    assert "look at CAA of a.example again" in (await _explain(command_line, order))["why"]
    certificate = await seed.certificate(order, account, ["a.example"], signed=False)
    assert "the serial number is decided" in (await _explain(command_line, order))["why"]
    await seed.run("ca_issuer", "INSERT INTO precertificate_signatures VALUES ($1, $2, $3)", bytes_of(certificate),
                   seed.now, certificate.signature)
    assert "no logs answered so far" in (await _explain(command_line, order))["why"]
    await seed.run("ca_publisher", "INSERT INTO scts VALUES ($1, $2, $3, $4)", bytes_of(certificate), b"log", seed.now,
                   b"sct")
    document = await _explain(command_line, order)
    assert "1 log answered so far" in document["why"]
    assert document["scts"] == 1
    await seed.run("ca_issuer", "INSERT INTO certificate_signatures VALUES ($1, $2, $3)", bytes_of(certificate),
                   seed.now, certificate.signature)
    await seed.ocsp_request(bytes_of(certificate), 0)
    document = await _explain(command_line, order)
    assert document["status"] == "processing"
    assert "its first OCSP response waits for the pre-signer" in document["why"]


async def test_valid(seed: Seed, command_line: CommandLine) -> None:
    """The certificate with its URL."""
    await seed.issuer()
    account, _, order = await _order(seed, validated=True)
    await seed.finalization(order, queued=False)
    serial = bytes_of(await seed.certificate(order, account, ["a.example"])).hex()
    url = f"https://localhost:14000/acme/order/{to_text(order)}"
    document = await command_line.json("order", "show", url)
    assert (document["status"], document["serial"], document["url"]) == ("valid", serial, url)
    text = "".join((await command_line.run("order", "show", f"{url}/finalize")).stdout.split())
    assert f"https://localhost:14000/acme/cert/{serial}/{to_text(order)}" in text


async def test_invalid_by_validation(seed: Seed, command_line: CommandLine) -> None:
    """The problem that the client got, and what the VA saw."""
    _, _, order = await _order(seed, problem=_REFUSED)
    document = await _explain(command_line, order)
    assert document["status"] == "invalid"
    assert document["error"]["type"] == _REFUSED["type"]
    assert "connection refused by 192.0.2.7:80" in document["why"]
    text = (await command_line.run("order", "explain", to_text(order))).stdout
    assert "http-01 failed" in text
    assert "http://a.example/.well-known/acme-challenge/t" in text


async def test_invalid_by_refusal(seed: Seed, command_line: CommandLine) -> None:
    """The CA's own no, though everything was proven."""
    _, _, order = await _order(seed, validated=True)
    await seed.finalization(order, queued=False)
    await seed.refusal(order, _CAA)
    document = await _explain(command_line, order)
    assert (document["status"], document["error"]) == ("invalid", _CAA)
    assert document["why"] == f"the CA refused: {_CAA['detail']}"
    assert {"subject": "CA", "evidence": _CAA} .items() <= document["story"][-1].items()


async def test_invalid_by_expiry_and_by_closed_account(seed: Seed, command_line: CommandLine) -> None:
    """Both are told from the same rule as the subscriber is."""
    _, _, order = await _order(seed, expires=-DAY)
    assert "expired" in (await _explain(command_line, order))["why"]
    account, _, second = await _order(seed, name="b.example")
    await seed.run("ca_admin", "UPDATE accounts SET revoked_at = $2 WHERE id = $1", account, seed.now)
    document = await _explain(command_line, second)
    assert document["status"] == "invalid"
    assert document["story"][0]["text"].startswith("revoked by an operator")


async def test_caa_rechecks_are_told(seed: Seed, command_line: CommandLine) -> None:
    """Each later look at CAA with what was seen."""
    _, authorization, order = await _order(seed, validated=True)
    await seed.run("acme_va", "INSERT INTO caa_checks VALUES ($1, $2, $3, $4)", authorization, seed.now, _CAA,
                   {"set": ['0 issue "other.example"'], "at": "a.example"})
    text = (await command_line.run("order", "explain", to_text(order))).stdout
    assert "CAA looked at again" in text
    assert 'set: 0 issue "other.example"' in text


async def test_su1_one_authorization_for_several_names(seed: Seed, command_line: CommandLine) -> None:
    """SU1: it is told once, as one for the names below it, and each look at CAA by the name that it is for."""
    await seed.issuer()
    account = await seed.account()
    authorization = await seed.authorization(account, "example.com", subdomains=True)
    await seed.validation(authorization, account, "example.com", subdomains=True)
    order = await seed.order(account, ["a.example.com", "*.b.example.com"], [authorization] * 2)
    await seed.finalization(order, queued=True)
    for name in ("a.example.com", "*.b.example.com"):
        await seed.run("acme_wfe", "INSERT INTO validation_requests (id, kind, authorization_id, account_id,"
                       " challenge_type, thumbprint, requested_at, caa_name) VALUES ($1, 'caa', $2, $3, 'dns-01', '',"
                       " $4, $5)", seed.new_id(), authorization, account, seed.now, name)
    await seed.run("acme_va", "INSERT INTO caa_checks (authorization_id, caa_name, checked_at, problem, evidence)"
                   " VALUES ($1, 'x.example.com', $2, $3, '{}')", authorization, seed.now, _CAA)
    document = await _explain(command_line, order)
    assert "look at CAA of *.b.example.com, a.example.com again" in document["why"]
    told, = document["authorizations"]
    assert (told["subdomains"], told["caa_checks"][0]["name"]) == (True, "x.example.com")
    story = [(step["subject"], step["text"]) for step in document["story"]]
    assert len([text for _, text in story if "for the names below it too" in text]) == 1
    assert any(subject == "x.example.com" and "CAA looked at again" in text for subject, text in story)
    show = (await command_line.run("order", "show", to_text(order))).stdout
    assert "a.example.com  valid" in show
    assert "*.b.example.com  valid" in show
    record = (await command_line.run("validation", "show", "example.com")).stdout
    assert "example.com and all names below it" in record


async def test_wildcards_and_several_names(seed: Seed, command_line: CommandLine) -> None:
    """Each identifier has its own status, in the order of the request."""
    account = await seed.account()
    first = await seed.authorization(account, "example.com")
    second = await seed.authorization(account, "example.com", wildcard=True)
    await seed.validation(second, account, "example.com")
    order = await seed.order(account, ["example.com", "*.example.com"], [first, second])
    text = (await command_line.run("order", "show", to_text(order))).stdout
    assert "example.com  pending" in text
    assert "*.example.com  valid" in text
    assert "challenge for example.com" in text


@pytest.mark.parametrize("verb", ["show", "explain"])
async def test_unknown_and_wrong_ids(seed: Seed, command_line: CommandLine, verb: str) -> None:
    """3 for an order that is not there, 2 for what is no id; an authorization's URL is no order."""
    missing = await command_line.run("order", verb, to_text(seed.new_id()), exit_code=3)
    assert missing.stderr.startswith("chancery: there is no order")
    await command_line.run("order", verb, "nonsense", exit_code=2)
    await command_line.run("order", verb, exit_code=2)


async def test_hostile_evidence_stays_text(seed: Seed, command_line: CommandLine) -> None:
    """What a web server answered cannot move the operator's cursor, nor widen the table."""
    account = await seed.account()
    authorization = await seed.authorization(account, "a.example")
    await seed.validation(authorization, account, "a.example", problem=_REFUSED,
                          evidence={"body": "\x1b[2J\x1b]0;pwned\x07[red]x[/red]" + "y" * 300})
    order = await seed.order(account, ["a.example"], [authorization])
    text = (await command_line.run("order", "explain", to_text(order))).stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in "".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
