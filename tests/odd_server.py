"""An HTTP server of which a test writes the answers byte by byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[socket.socket], None]


@contextmanager
def server(handle: Handler) -> Iterator[str]:
    """Run what is done with each connection, after its request has come."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def serve(peer: socket.socket) -> None:
            with peer:
                try:
                    while _takes_request(peer):
                        handle(peer)
                except OSError:
                    return

        def accept() -> None:
            while not ended.is_set():
                try:
                    peer, _address = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=serve, args=(peer,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def trickling(start: bytes, drop: bytes) -> Handler:
    """Send the start at once, and then drop after drop without end."""

    def handle(peer: socket.socket) -> None:
        peer.sendall(start)
        while True:
            time.sleep(0.1)
            peer.sendall(drop)

    return handle


def _takes_request(peer: socket.socket) -> bool:
    """Read a request, whose body has one brace at its end."""
    received = b""
    while not received.endswith(b"}"):
        data = peer.recv(65536)
        received += data
        if not data or received.startswith(b"CONNECT"):
            break
    return bool(received)
