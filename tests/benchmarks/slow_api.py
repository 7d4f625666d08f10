"""An HTTP server that counts POST requests and answers each after so many milliseconds.

Usage: ``python slow_api.py PORT MILLISECONDS``. It understands no more of HTTP than a benchmark
says.
"""

from __future__ import annotations

import asyncio
import sys

try:
    from uvloop import run
except ImportError:
    from asyncio import run

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server(asyncio.Protocol):
    """One connection."""

    requests = 0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            Server.requests += 1
            if head.startswith(b"get"):
                text = str(Server.requests).encode()
                self._answer(_OK.replace(b": 0", b": %d" % len(text)) + text)
            elif self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._answer, _OK)
            else:
                self._answer(_OK)

    def _answer(self, content: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(content)


async def serve(port: int, milliseconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Server(milliseconds / 1000), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    run(serve(int(sys.argv[1]), float(sys.argv[2])))
