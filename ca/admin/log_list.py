"""Brings a list of CT logs onto this machine: fetched or from a file, checked, and put in place as a whole.

Only this command and the publisher talk to the outside; the CA sees a file change (spec/pki.md 3.2: refreshed daily).
"""

import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from ca.pki.ct_log_list import LogList, LogListError, parse_log_list, require_signed

_TIMEOUT_S: Final = 30.0
_MOST_BYTES: Final = 8 * 1024 * 1024
_CHUNK_BYTES: Final = 65_536
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_MODE: Final = 0o644


class FetchFault(Exception):
    """The list cannot be had; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A list that may be installed: its bytes as they were published, and the detached signature if there is one."""

    data: bytes
    signature: bytes | None


def signature_url(url: str) -> str:
    """Where the detached signature of the list at a URL is: `log_list.sig` beside `log_list.json`."""
    return (url.removesuffix(".json") if url.endswith(".json") else url) + ".sig"


async def fetch(url: str, *, user_agent: str, signed: bool) -> Candidate:
    """The list at a URL, with its signature when `signed`. Raises FetchFault.

    http only from this machine, or when a signature says that nobody has changed the list on its way.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and (signed or parts.hostname in _LOOPBACK)):
        raise FetchFault(f"{url} is not an https URL, and without ct.log_list_key nothing would show a changed list")
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False, headers={"User-Agent": user_agent}) as session:
        data = await _read(session, url)
        return Candidate(data=data, signature=await _read(session, signature_url(url)) if signed else None)


async def _read(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise FetchFault(f"{url}: HTTP status {response.status}")
            found = bytearray()
            async for part in response.content.iter_chunked(_CHUNK_BYTES):
                found += part
                if len(found) > _MOST_BYTES:
                    raise FetchFault(f"{url}: more than {_MOST_BYTES} bytes")
            return bytes(found)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
        raise FetchFault(f"{url} cannot be read: {str(fault) or type(fault).__name__}") from fault


def accepted(candidate: Candidate, *, key_pem: bytes | None) -> LogList:
    """The list in a candidate, signed by the publisher where his key is known. Raises LogListError."""
    if key_pem is not None:
        if candidate.signature is None:
            raise LogListError("ct.log_list_key is set, and the list comes without a signature")
        require_signed(candidate.data, candidate.signature, key_pem)
    return parse_log_list(candidate.data)


def installed(path: Path) -> LogList | None:
    """The list that is in place. None: there is none, or none that can be used, so that anything is better."""
    try:
        return parse_log_list(path.read_bytes())
    except (OSError, ValueError):
        return None


def install(path: Path, data: bytes) -> None:
    """Puts the list in place as a whole and on disk: whoever reads sees the old one or the new one. Raises OSError."""
    target = path.resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = _MODE
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)      # whatever the umask: the CA and the publisher have other users
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def age(logs: LogList, now: datetime) -> timedelta:
    """How old a list is; never less than nothing."""
    return max(timedelta(), now - logs.made_at)
