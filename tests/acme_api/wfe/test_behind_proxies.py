"""Behind nginx and HAProxy as `deploy/` configures them: whose request it is reaches limits and logs, if the proxy is
one that is listed."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from acme_api.wfe import tls
from acme_api.wfe.tls import TlsFiles
from ca.process.limit_settings import LimitsSettings, RateSettings
from tests.acme_api.wfe.certificates import self_signed_pair
from tests.acme_api.wfe.proxies import coming_from, expecting_proxy_header, haproxy, nginx
from tests.acme_api.wfe.running import OtherProcesses, RunningWfe, issued
from tests.acme_client import JOSE_JSON
from tests.ports import free_port

_Start = Callable[..., Awaitable[RunningWfe]]
_ONE_EACH = LimitsSettings(accounts_per_address=RateSettings(burst=1, period_s=36_000))
_FORWARDED = (r"proxy_set_header X-Forwarded-For \$remote_addr;", 'proxy_set_header Forwarded "for=$remote_addr";')
_LOGGED = re.compile(r"from=(\S+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


async def _register(wfe: RunningWfe, address: str, port: int, files: TlsFiles, **headers: str) -> int:
    """The status when a new subscriber at that address registers."""
    async with coming_from(wfe, address, port, files) as reached:
        client = reached.client()
        body = await client.signed("/acme/new-account", {"termsOfServiceAgreed": True}, jwk=client.key.jwk)
        answer = await client.send("POST", "/acme/new-account", data=body, headers=JOSE_JSON | headers)
        if answer.status == 429:
            assert answer.json["detail"].startswith("accounts-per-address: "), answer.json
        return answer.status


def _refused(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """From where the refused requests came by the log since the last look."""
    return _LOGGED.findall(_COLOUR.sub("", "".join(capsys.readouterr())))


@pytest.mark.parametrize("form", ["x-forwarded-for", "forwarded"])
async def test_e7_nginx_that_is_listed(start: _Start, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       form: str) -> None:
    """Row E7: each client has its own limit and its own address in the log, and what it says of itself is nothing."""
    wfe = await start(client_address=form, trusted_proxies=["127.0.0.1"], limits=_ONE_EACH)
    files, port = self_signed_pair(tmp_path / "tls", "localhost"), free_port()
    changes = [_FORWARDED] if form == "forwarded" else []
    async with nginx(tmp_path / "nginx", port, files=files, front_end=wfe.address.removeprefix("http://"),
                     changes=changes):
        assert await _register(wfe, "127.0.0.2", port, files) == 201
        _refused(capsys)
        assert await _register(wfe, "127.0.0.2", port, files) == 429
        for spoof in ({"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}):
            assert await _register(wfe, "127.0.0.2", port, files, **spoof) == 429
        assert _refused(capsys) == ["127.0.0.2"] * 3
        assert await _register(wfe, "127.0.0.3", port, files) == 201


async def test_e7_nginx_that_is_not_listed(start: _Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row E7: the word of a proxy that is not listed is nothing; all that comes through it is its own."""
    wfe = await start(client_address="x-forwarded-for", trusted_proxies=["192.0.2.0/24"], limits=_ONE_EACH)
    files, port = self_signed_pair(tmp_path / "tls", "localhost"), free_port()
    async with nginx(tmp_path / "nginx", port, files=files, front_end=wfe.address.removeprefix("http://")):
        assert await _register(wfe, "127.0.0.2", port, files) == 201
        _refused(capsys)
        assert await _register(wfe, "127.0.0.3", port, files) == 429
        assert _refused(capsys) == ["127.0.0.1"]


async def test_haproxy_that_is_listed(start: _Start, others: OtherProcesses, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    """HAProxy passes TLS through and names each client by PROXY v2: limits and log are the client's, headers are not
    looked at, whole orders go through two front ends, and when one has stopped no connection is lost."""
    first = await start(client_address="proxy-protocol", trusted_proxies=["127.0.0.1"], limits=_ONE_EACH)
    second = await start(client_address="proxy-protocol", trusted_proxies=["127.0.0.1"], limits=_ONE_EACH)
    files, port = self_signed_pair(tmp_path / "tls", "localhost"), free_port()
    context = tls.new_context()
    tls.load(context, files)
    async with AsyncExitStack() as stack, expecting_proxy_header(first, "127.0.0.1", context) as port_1:
        port_2 = await stack.enter_async_context(expecting_proxy_header(second, "127.0.0.1", context))
        front_ends = [f"127.0.0.1:{inner}" for inner in (port_1, port_2)]
        async with haproxy(tmp_path / "haproxy", port, front_ends=front_ends):
            async with coming_from(first, "127.0.0.4", port, files) as reached:
                done, _ = await issued(await reached.subscriber(), others, "a.example.com")
                assert done.json["status"] == "valid"
            assert await _register(first, "127.0.0.2", port, files) == 201
            _refused(capsys)
            for headers in ({}, {"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}):
                assert await _register(first, "127.0.0.2", port, files, **headers) == 429
            assert _refused(capsys) == ["127.0.0.2"] * 3
            await stack.aclose()
            for number in range(10, 16):
                assert await _register(first, f"127.0.0.{number}", port, files) == 201


async def test_haproxy_that_is_not_listed(start: _Start, others: OtherProcesses, tmp_path: Path) -> None:
    """A PROXY header of a stranger is no TLS: HAProxy finds no front end that is well, and nothing gets through."""
    wfe = await start(client_address="proxy-protocol", trusted_proxies=["192.0.2.0/24"], limits=_ONE_EACH)
    files, port = self_signed_pair(tmp_path / "tls", "localhost"), free_port()
    context = tls.new_context()
    tls.load(context, files)
    async with (expecting_proxy_header(wfe, "192.0.2.0/24", context) as inner,
                haproxy(tmp_path / "haproxy", port, front_ends=[f"127.0.0.1:{inner}"])):
        with pytest.raises(aiohttp.ClientError):
            await _register(wfe, "127.0.0.2", port, files)
        assert await others.count("accounts") == 0
