"""A certificate that nobody signed, and TLS in front of a server that speaks none."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    files = ["-keyout", str(path), "-out", f"{path}.crt"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    uses = ["-addext", "keyUsage=digitalSignature,keyCertSign"]
    openssl(*request.split(), *names, *uses, *files)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


class TlsProxy:
    """Takes TLS connections and passes their bytes on to a port of 127.0.0.1."""

    def __init__(self, target: int, certificate: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _address = self._listener.accept()
                threading.Thread(target=self._connect, args=(connection,), daemon=True).start()

    def _connect(self, connection: socket.socket) -> None:
        with suppress(OSError):
            here = self._context.wrap_socket(connection, server_side=True)
            there = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=_pass_on, args=(there, here), daemon=True).start()
            _pass_on(here, there)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)
