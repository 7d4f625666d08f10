"""The API of a benchmark: HTTP servers in processes of their own that answer 200 and count."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from stack import free_port

__all__ = ["Api", "AsyncioApi", "NginxApi", "fast_api", "has_nginx"]

_NGINX = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format moment $msec;
    access_log {log};
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location = /count {{ stub_status; access_log off; }}
        location / {{ return 200; }}
    }}
}}
"""


class Api:
    """A server on the loopback interface; a context manager.

    Attributes:
        url: to be given to a contender.
        name: of the server, for the report.
    """

    name = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = Path(tempfile.mkdtemp(prefix="bench-api-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.count()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"the HTTP server {self.name} did not start") from None
                time.sleep(0.02)
            else:
                return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self._directory)

    def count(self) -> int:
        """Return how many goals were posted since the start."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/count")
            words = connection.getresponse().read().split()
        finally:
            connection.close()
        self._asked += 1
        return self._requests(words) - self._asked

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _requests(self, words: list[bytes]) -> int:
        raise NotImplementedError


class NginxApi(Api):
    """nginx, which answers at once.

    Args:
        keeps_moments: whether it writes down when each goal was posted.
    """

    name = "nginx"

    def __init__(self, *, keeps_moments: bool = False) -> None:
        super().__init__()
        self._moments = self._directory / "moments"
        self._keeps_moments = keeps_moments

    def moments(self) -> list[float]:
        """Return when goals were posted, in seconds; those of the last second may be missing."""
        return [float(line) for line in self._moments.read_text().split()]

    def _command(self) -> list[str]:
        configuration = self._directory / "nginx.conf"
        log = f"{self._moments} moment buffer=64k flush=1s" if self._keeps_moments else "off"
        configuration.write_text(_NGINX.format(directory=self._directory, port=self.port, log=log))
        return [_nginx() or "nginx", "-c", str(configuration), "-p", str(self._directory)]

    def _requests(self, words: list[bytes]) -> int:
        # "Active connections: 1 server accepts handled requests 3 3 7 Reading: ..."
        return int(words[9])


class AsyncioApi(Api):
    """A small server in Python, which can take its time.

    Args:
        milliseconds: after which it answers.
    """

    name = "asyncio"

    def __init__(self, milliseconds: float = 0) -> None:
        super().__init__()
        self._milliseconds = milliseconds

    def _command(self) -> list[str]:
        script = Path(__file__).with_name("slow_api.py")
        return [sys.executable, str(script), str(self.port), str(self._milliseconds)]

    def _requests(self, words: list[bytes]) -> int:
        return int(words[0])


def fast_api() -> Api:
    """Return nginx, installed from Debian if need be, else the server in Python."""
    return NginxApi() if has_nginx() else AsyncioApi()


def has_nginx() -> bool:
    """Return whether there is nginx, after it was installed from Debian if need be."""
    if _nginx() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in ("update", "install --yes --no-install-recommends nginx-light"):
            subprocess.run(
                ["apt-get", "--quiet", *words.split()],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    return _nginx() is not None


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
