"""The DNS server of the tests is a program that hook scripts can drive."""

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.fixtures_dns import DnsProgram


def ask(program: DnsProgram, name: str, rdtype: str) -> dns.message.Message:
    host, _, port = program.address.rpartition(":")
    return dns.query.udp_with_fallback(dns.message.make_query(name, rdtype), host, port=int(port), timeout=5)[0]


def test_program_is_driven_by_its_control_api(mock_dns_program: DnsProgram) -> None:
    """Records, a default answer, a failure and the list of questions are all reachable by HTTP."""
    mock_dns_program.post("set", name="_acme-challenge.a.example", type="TXT", values=["one"])
    mock_dns_program.post("add", name="_acme-challenge.a.example", type="TXT", values=["two"])
    assert len(ask(mock_dns_program, "_acme-challenge.a.example", "TXT").answer[0]) == 2
    assert ask(mock_dns_program, "whatever.example", "A").answer[0][0].to_text() == "127.0.0.1"
    mock_dns_program.post("misbehave", name="a.example", type="CAA", kind="servfail")
    assert ask(mock_dns_program, "a.example", "CAA").rcode() == dns.rcode.SERVFAIL
    mock_dns_program.post("clear")
    assert not ask(mock_dns_program, "_acme-challenge.a.example", "TXT").answer
    assert {"name": "a.example", "type": "CAA", "transport": "udp"} in mock_dns_program.queries()


@pytest.mark.parametrize("size", [10, 5000])
def test_long_answers_come_by_tcp(mock_dns_program: DnsProgram, size: int) -> None:
    """An answer larger than the datagram allows is truncated, and whole by TCP."""
    mock_dns_program.post("set", name="a.example", type="TXT", values=["x" * size])
    strings = ask(mock_dns_program, "a.example", "TXT").answer[0][0].strings
    assert len(b"".join(strings)) == size
