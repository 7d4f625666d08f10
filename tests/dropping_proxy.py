"""TCP proxies that do what a bad network does.

They drop what is sent without closing a connection, forget idle connections, and lead new ones to
another server while old ones stay, as an address that moves does.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

_END_SECONDS = 10.0


class DroppingProxy(threading.Thread):
    """Forwards connections to a port of 127.0.0.1, until it is told to drop everything.

    What was sent while it drops is forwarded afterwards, as TCP would send it again. While it
    swallows answers, what clients send arrives, and what they are answered is lost for good.
    """

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._targets: set[socket.socket] = set()
        self._swallows = threading.Event()
        self._forwards = threading.Event()
        self._forwards.set()
        self._ended = threading.Event()
        #: Bytes at which a connection is cut, instead of being passed on.
        self.cuts_at: bytes | None = None
        self.has_cut = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._forwards.set()
        for one in tuple(self._peers):
            # The thread may be sending to somebody who does not read.
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.join(_END_SECONDS)
        assert not self.is_alive(), "the proxy does not end"
        self._selector.close()
        for one in (self._listener, *self._peers):
            one.close()

    def drop(self) -> None:
        self._forwards.clear()

    def forward(self) -> None:
        self._forwards.set()

    def swallow_answers(self) -> None:
        self._swallows.set()

    def pass_answers(self) -> None:
        self._swallows.clear()

    def lead_to(self, target: int) -> None:
        """Connect to another port from now on; open connections stay where they are."""
        self._target = target

    def run(self) -> None:
        while not self._ended.is_set():
            for key, _events in self._selector.select(0.05):
                self._forwards.wait()
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._pass_on(key.fileobj)

    def _accept(self) -> None:
        here, _address = self._listener.accept()
        try:
            there = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            here.close()
            return
        self._targets.add(there)
        for one, other in ((here, there), (there, here)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        if source not in self._peers:
            return
        try:
            data = source.recv(65536)
            if self.cuts_at is not None and self.cuts_at in data:
                data = b""
                self.has_cut.set()
            if data and not (self._swallows.is_set() and source in self._targets):
                self._peers[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            for one in (source, self._peers[source]):
                self._selector.unregister(one)
                del self._peers[one]
                one.close()


class ForgetfulProxy(DroppingProxy):
    """Forgets connections that were idle, as a router does.

    What is sent over one of them is swallowed, or answered with a reset.
    """

    def __init__(self, target: int, idle_seconds: float, *, resets: bool = False) -> None:
        super().__init__(target)
        self._idle_seconds = idle_seconds
        self._resets = resets
        self._used_at: dict[socket.socket, float] = {}
        self._forgotten: set[socket.socket] = set()
        #: How often a client used a connection that was forgotten.
        self.misses = 0
        #: How many connections were opened.
        self.opened = 0

    def _accept(self) -> None:
        before = set(self._peers)
        super()._accept()
        new = set(self._peers) - before
        self.opened += len(new) // 2
        self._used_at.update(dict.fromkeys(new, time.monotonic()))

    def _pass_on(self, source: socket.socket) -> None:
        other = self._peers.get(source)
        if other is None:
            return
        now = time.monotonic()
        if source in self._forgotten or now - self._used_at[source] > self._idle_seconds:
            self._forget(source, other)
            return
        self._used_at[source] = self._used_at[other] = now
        super()._pass_on(source)

    def _forget(self, source: socket.socket, other: socket.socket) -> None:
        self._forgotten |= {source, other}
        data = source.recv(65536)
        if data:
            self.misses += 1
        if data and not self._resets:
            return
        if self._resets:
            source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._selector.unregister(source)
        del self._peers[source]
        source.close()
