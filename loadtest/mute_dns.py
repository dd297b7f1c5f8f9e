"""A resolver that takes questions and never answers: what a name with dead name servers looks like from outside."""

import asyncio


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
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Sink(self), local_addr=("127.0.0.1", 0))
        port = self._udp.get_extra_info("sockname")[1]
        self._tcp = await loop.create_server(asyncio.Protocol, "127.0.0.1", port)
        self.address = f"127.0.0.1:{port}"

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
