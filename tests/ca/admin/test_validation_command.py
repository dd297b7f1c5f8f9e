"""`chancery validation`: what was seen, by authorization and by name; a look without an order, by the real program."""

from typing import Any

import pytest

from ca.pki.object_id import to_text
from tests.acme_api.va.hostile import serve_bytes
from tests.ca.admin.conftest import CommandLine
from tests.ca.admin.seed import Seed
from tests.mock_dns import MockDns

_PROBLEM = {"type": "urn:ietf:params:acme:error:connection", "detail": "192.0.2.7 port 80: connection refused",
            "status": 400}
_SEEN = {"rules": "BR 2.2.8 3.2.2.4.19", "began_at": "2026-11-25T12:00:00.000+00:00",
         "facts": [{"ms": 3, "addresses": "a.example", "got": ["192.0.2.7"]}]}


async def test_show_by_authorization_and_by_name(seed: Seed, command_line: CommandLine) -> None:
    """BR 5.4.1, SC-099: who asked, by which method and rule, what was seen; the newest first, others left out."""
    account = await seed.account()
    ids = [await seed.authorization(account, name) for name in ("a.example", "a.example", "b.example")]
    await seed.validation(ids[0], account, "a.example", problem=_PROBLEM, evidence=_SEEN)
    await seed.validation(ids[1], account, "a.example", evidence=_SEEN)
    await seed.validation(ids[2], account, "b.example")
    base = "https://localhost:14000/acme"
    one, = (await command_line.json("validation", "show", f"{base}/authz/{to_text(ids[0])}"))["validations"]
    assert (one["problem"], one["evidence"], one["valid_until"]) == (_PROBLEM, _SEEN, None)
    assert (one["account"], one["identifier"]) == (
        f"{base}/account/{to_text(account)}", {"type": "dns", "value": "a.example"})
    found = (await command_line.json("validation", "show", "A.example"))["validations"]
    assert {each["authorization"] for each in found} == {f"{base}/authz/{to_text(each)}" for each in ids[:2]}
    assert len((await command_line.json("validation", "show", "*.a.example", "--limit", "1"))["validations"]) == 1
    text = (await command_line.run("validation", "show", to_text(ids[0]))).stdout
    for words in ("failed at", "connection refused", "BR 2.2.8 3.2.2.4.19", "got: 192.0.2.7"):
        assert words in text


async def test_show_nothing(seed: Seed, command_line: CommandLine) -> None:
    """A name without validations and an authorization that nobody has answered yet are not found."""
    authorization = await seed.authorization(await seed.account(), "a.example")
    await command_line.run("validation", "show", "nothing.example", exit_code=3)
    assert "has no validation" in (
        await command_line.run("validation", "show", to_text(authorization), exit_code=3)).stderr


@pytest.fixture
def look(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, mock_dns: MockDns) -> Any:
    """`validation test` with the test's resolver and loopback open, http-01 at a port of the test's."""
    monkeypatch.setenv("CHANCERY_VA__RESOLVER", mock_dns.address)
    monkeypatch.setenv("CHANCERY_VA__ALLOW_LOOPBACK", "true")
    monkeypatch.setenv("CHANCERY_VA__LOCALHOST_NAMES", "false")
    monkeypatch.setenv("CHANCERY_CA__INTERNAL_SUFFIXES", '["example"]')

    async def run(*arguments: str, port: int = 9, exit_code: int = 0) -> Any:
        monkeypatch.setenv("CHANCERY_VA__HTTP_01_PORT", str(port))
        return await command_line.json("validation", "test", *arguments, exit_code=exit_code)

    return run


async def test_a_look_without_an_order(look: Any, mock_dns: MockDns) -> None:
    """Addresses, the connection, what came back and CAA; reached, although no order's challenge is served."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    mock_dns.set("example", "CAA", '0 issue "chancery.example"')
    async with serve_bytes(b"HTTP/1.1 404 Not Found\r\n\r\n") as server:
        document = await look("a.example", port=server.port)
        assert server.connections == 1
    challenge, caa = document["challenge"], document["caa"]
    assert (challenge["ok"], challenge["reached"], challenge["type"]) == (False, True, "incorrectResponse")
    kinds = [kind for fact in challenge["seen"]["facts"] for kind in fact]
    assert {"addresses", "connected", "response"} <= set(kinds)
    assert caa["ok"]
    assert document["policy"]["ok"]


async def test_looks_that_fail_say_where(look: Any, mock_dns: MockDns) -> None:
    """1: not reached, the phase named; 4: CAA or the name policy forbids, whatever was reached."""
    mock_dns.set("a.example", "A", "127.0.0.1")
    document = await look("a.example", "--method", "http-01", exit_code=1)
    assert "connection refused" in document["challenge"]["detail"]
    mock_dns.set("a.example", "A", "169.254.169.254")
    assert "link-local" in (await look("a.example", exit_code=1))["challenge"]["detail"]
    mock_dns.misbehave("b.example", "servfail", rdtype="CAA")
    mock_dns.set("_acme-challenge.b.example", "TXT", "something")
    document = await look("b.example", "--method", "dns-01", exit_code=1)
    assert document["challenge"]["reached"]
    assert document["caa"]["type"] == "dns"
    mock_dns.set("c.example", "CAA", '0 issue ";"')
    assert (await look("*.c.example", exit_code=4))["caa"]["type"] == "caa"
    assert not (await look("c.elsewhere.test", exit_code=4))["policy"]["ok"]


async def test_dp2_a_persistent_record_can_be_looked_at(look: Any, mock_dns: MockDns) -> None:
    """dns-persist-01 has no token, so a dry run answers in full; accounturi is compared with the account named."""
    account = to_text(b"\x01" * 22)
    url = f"https://localhost:14000/acme/account/{account}"
    mock_dns.set("_validation-persist.a.example", "TXT", f"chancery.example; accounturi={url}")
    mock_dns.set("a.example", "CAA", f'0 issue "chancery.example; accounturi={url}"')
    document = await look("a.example", "--method", "dns-persist-01", "--account", url)
    assert (document["challenge"]["ok"], document["caa"]["ok"], document["account"]) == (True, True, url)
    other = to_text(b"\x02" * 22)
    document = await look("a.example", "--method", "dns-persist-01", "--account", other, exit_code=4)
    assert document["challenge"]["type"] == "unauthorized"
    assert not (await look("a.example", "--method", "dns-01", exit_code=4))["caa"]["ok"]


async def test_questions_that_make_no_sense(command_line: CommandLine) -> None:
    """Usage errors say what is wrong, and nothing is asked."""
    for arguments, words in ((("com",), "two labels"), (("*.a.example", "--method", "http-01"), "cannot validate"),
                             (("192.0.2.1", "--method", "dns-01"), "cannot validate"),
                             (("a.example", "--method", "dns-account-01"), "--account")):
        assert words in (await command_line.run("validation", "test", *arguments, exit_code=2)).stderr


async def test_a_perspective_that_cannot_be_asked_is_no_secret(look: Any, command_line: CommandLine) -> None:
    """A look that leaves out what is configured would mislead: the one line says which file is missing."""
    command_line.config.write_text(command_line.config.read_text() + """
[perspectives]
certificate = "va.pem"
key = "va.key"
[[perspectives.remotes]]
name = "far"
rir = "RIPE NCC"
address = "127.0.0.1:9"
distance_group = "far"
certificate = "far.pem"
""")
    said = await command_line.run("validation", "test", "a.example", exit_code=1)
    assert "va.pem" in said.stderr
    assert "expected a certificate and its key" in said.stderr
