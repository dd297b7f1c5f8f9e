"""A resolver that takes questions and never answers: what a name with dead name servers looks like from outside."""

import asyncio
from typing import Final

_TRIES: Final = 20


class MuteDns:
    """Listens on UDP and TCP of one free port of 127.0.0.1; `address` is HOST:PORT."""

    def __init__(self) -> None:
        self.address = ""
        self.asked = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises OSError when no port is free for both."""
        loop = asyncio.get_running_loop()
        for tries_left in reversed(range(_TRIES)):
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Sink(self), local_addr=("127.0.0.1", 0))
            port = self._udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await loop.create_server(asyncio.Protocol, "127.0.0.1", port)
            except OSError:
                # What is free for UDP may be somebody's for TCP.
                self._udp.close()
                if not tries_left:
                    raise
            else:
                self.address = f"127.0.0.1:{port}"
                return

    def stop(self) -> None:
        """Closes both sockets."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()


class _Sink(asyncio.DatagramProtocol):
    def __init__(self, server: MuteDns) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._server.asked += 1
