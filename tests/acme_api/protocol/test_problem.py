"""Problem documents (rows P1 to P4)."""

import pytest

from acme_api.protocol import problem
from acme_api.protocol.problem import STATUS_OF_TYPE, Problem, Subproblem, from_subproblems, problem_from_refusal
from ca.pki.identifier import Identifier
from ca.pki.refusal import IdentifierRefusal, Refusal, RefusalReason

_P4 = {
    400: "accountDoesNotExist alreadyRevoked badCSR badNonce badPublicKey badRevocationReason badSignatureAlgorithm "
         "invalidContact invalidProfile malformed unsupportedContact unsupportedIdentifier connection dns tls "
         "incorrectResponse compound",
    403: "unauthorized caa externalAccountRequired orderNotReady rejectedIdentifier userActionRequired",
    409: "alreadyReplaced",
    429: "rateLimited",
    500: "serverInternal",
}


def test_p4_the_status_table() -> None:
    """Row P4: each type has the status of the conventions."""
    assert {kind: status for status, kinds in _P4.items() for kind in kinds.split()} == STATUS_OF_TYPE
    for kind, status in STATUS_OF_TYPE.items():
        document = Problem(kind, "x").to_json()
        assert document == {"type": f"urn:ietf:params:acme:error:{kind}", "detail": "x", "status": status}


def test_p4_the_two_that_differ() -> None:
    """A closed account is 401, a missing object is 404."""
    assert problem.account_closed("x").to_json()["status"] == 401
    assert problem.not_found("x").to_json()["status"] == 404


def test_n4_the_words_that_acme_sh_looks_for() -> None:
    """Row N4, SH1."""
    assert "JWS has an invalid anti-replay nonce" in problem.bad_nonce("used").detail


def _fault(kind: str) -> Subproblem:
    return Subproblem(type=kind, detail=f"{kind}!", identifier_type="dns", identifier_value="a.example")


@pytest.mark.parametrize(("kinds", "top"), [
    (["malformed"], "malformed"), (["dns", "dns"], "dns"), (["malformed", "rejectedIdentifier"], "rejectedIdentifier"),
    (["malformed", "unsupportedIdentifier"], "compound")])
def test_p3_one_problem_of_many(kinds: list[str], top: str) -> None:
    """Row P3: the identifier stands in subproblems alone."""
    document = from_subproblems("several", [_fault(kind) for kind in kinds]).to_json()
    assert document["type"].endswith(f":{top}")
    assert "identifier" not in document
    named = [part["identifier"] for part in document["subproblems"]]
    assert named == [{"type": "dns", "value": "a.example"}] * len(kinds)
    assert document["detail"] == ("malformed!" if len(kinds) == 1 else "several")


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_refusal_has_a_problem(reason: RefusalReason) -> None:
    """No reason of policy is without an ACME type; identifiers become subproblems."""
    part = IdentifierRefusal(identifier=Identifier(type="dns", value="a.example"), reason=reason, detail="y")
    found = problem_from_refusal(Refusal(reason, "x", (part,)))
    assert found.type in STATUS_OF_TYPE
    assert found.detail == "x"
    assert found.subproblems[0].type == found.type


def test_details_are_bounded() -> None:
    """What a stranger wrote into a name never makes an answer large."""
    assert len(str(Problem("malformed", "x" * 10_000).to_json())) < 1_300
