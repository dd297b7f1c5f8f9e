"""Listening sockets: opened before anything else is done, shared by the workers of one role; and how many clients there
can be on them."""

import errno
import os
import resource
import socket
from collections.abc import Sequence

from ca.process.lifecycle import StartupError

SOCKETS_VARIABLE = "CHANCERY_LISTEN_FDS"
_BACKLOG = 4096
_MOST_DESCRIPTORS = 65_536
_FIRST_SYSTEMD_FD = 3


def parse_listen(address: str) -> tuple[str, int]:
    """('127.0.0.1', 14000) of '127.0.0.1:14000', ('::1', 14000) of '[::1]:14000'. Raises StartupError otherwise."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartupError(f"listen address {address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def raise_descriptor_limit() -> int:
    """As many open files as the system lets us have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def _bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def bind_sockets(listen: Sequence[str], *, reuse_port: bool = True) -> list[socket.socket]:
    """Listening sockets for `HOST:PORT` addresses; an IPv6 address is left out on a machine without IPv6.

    Raises StartupError, which says what to do, when an address is taken or none can be had.
    """
    sockets: list[socket.socket] = []
    try:
        for address in listen:
            host, port = parse_listen(address)
            try:
                listener = _bind(host, port, reuse_port=reuse_port)
            except OSError as fault:
                if ":" in host and fault.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                raise StartupError(_bind_message(address, fault)) from fault
            listener.listen(_BACKLOG)
            sockets.append(listener)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    if not sockets:
        raise StartupError(f"no listen address is usable on this machine: {', '.join(listen)}")
    return sockets


def inherited_or_bound(listen: Sequence[str]) -> list[socket.socket]:
    """Listening sockets for `HOST:PORT` addresses: those that the supervisor, or systemd, opened for us, else new ones.

    A socket that its opener holds loses no connection while processes come and go. systemd's are taken in the order of
    `listen` (sd_listen_fds(3)); ours are named by the address. Raises StartupError.
    """
    inherited = os.environ.get(SOCKETS_VARIABLE)
    if inherited is not None:
        pairs = [pair.rpartition("=") for pair in inherited.split()]
        passed = [socket.socket(fileno=int(number)) for address, _, number in pairs if address in listen]
        if not passed:
            raise StartupError(f"the supervisor listens on other addresses than {', '.join(listen)}: restart it, "
                               "because the configuration has changed")
        return passed
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = int(os.environ.get("LISTEN_FDS", "0"))
        if count != len(listen):
            raise StartupError(f"systemd passes {count} sockets, and {len(listen)} addresses are configured: "
                               f"{', '.join(listen)}")
        found = [socket.socket(fileno=_FIRST_SYSTEMD_FD + number) for number in range(count)]
        for each in found:
            each.setblocking(False)
        return found
    return bind_sockets(listen)


def socket_names(listen: Sequence[str], sockets: Sequence[socket.socket]) -> str:
    """What SOCKETS_VARIABLE says of sockets that were bound for (some of) these addresses."""
    names = {parse_listen(address): address for address in listen}
    return " ".join(f"{names[each.getsockname()[:2]]}={each.fileno()}" for each in sockets)


def require_free(listen: Sequence[str]) -> None:
    """Raises StartupError when another program listens on one of the addresses (SO_REUSEPORT would hide it)."""
    for address in listen:
        host, port = parse_listen(address)
        try:
            _bind(host, port, reuse_port=False).close()
        except OSError as fault:
            if ":" in host and fault.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            raise StartupError(_bind_message(address, fault)) from fault


def _bind_message(address: str, fault: OSError) -> str:
    if fault.errno == errno.EADDRINUSE:
        return f"{address} is in use by another program: stop it, or choose other ports (demo: --port-base N)"
    if fault.errno == errno.EACCES:
        return f"{address} may not be opened by this user: choose a port above 1023, or run as root"
    return f"{address} cannot be opened: {fault.strerror}"
