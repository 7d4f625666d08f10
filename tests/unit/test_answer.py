"""An answer is read as ``http.client`` reads it, whether quickly or not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninja_tasks.delivery.answer import Answer

HEADS = {
    "usual": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok",
    "keeps alive": b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "empty reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    "error": b"HTTP/1.1 503 Out\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    "twice the same name": b"HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 0\r\n\r\n",
    "closes": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "both": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nall that comes",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "after a 100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no content": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "folded": b"HTTP/1.1 200 OK\r\nA: 1\r\n  2\r\nContent-Length: 2\r\n\r\nok",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "bare newlines": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "Latin-1": b"HTTP/1.1 200 OK\r\nA: gr\xfc\xdfe\r\nContent-Length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1 xyz OK\r\nContent-Length: 2\r\n\r\nok",
    "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "nothing": b"",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 120 + b"Content-Length: 0\r\n\r\n",
}
QUICK = {"usual", "keeps alive", "no reason", "empty reason", "error", "twice the same name"}


class Socket:
    """Stands for a socket that has received something."""

    def __init__(self, received: bytes, piece: int) -> None:
        self._pieces = [received[at : at + piece] for at in range(0, len(received), piece)]

    def makefile(self, _mode: str, *_options: Any) -> io.BufferedReader:
        pieces: Iterator[bytes] = iter(self._pieces)

        class Raw(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, target: Any) -> int:
                data = next(pieces, b"")
                target[: len(data)] = data
                return len(data)

        return io.BufferedReader(Raw())


def read(kind: type[HTTPResponse], received: bytes, piece: int) -> Any:
    """Return all that is known of an answer, or the kind of the error."""
    answer = kind(Socket(received, piece), method="POST")  # type: ignore[arg-type]
    try:
        answer.begin()
        body = answer.read()
    except Exception as error:  # noqa: BLE001 (whatever it is, it must be the same)
        return type(error).__name__
    return (
        answer.status,
        answer.reason,
        answer.version,
        answer.headers.items(),
        answer.will_close,
        body,
    )


@pytest.mark.parametrize("piece", [8192, 7, 1])
@pytest.mark.parametrize("name", [name for name in HEADS if name != "many headers"])
def test_an_answer_is_read_as_http_client_does(name: str, piece: int) -> None:
    assert read(Answer, HEADS[name], piece) == read(HTTPResponse, HEADS[name], piece)


def test_the_status_counts_where_there_are_too_many_headers() -> None:
    assert read(HTTPResponse, HEADS["many headers"], 8192) == "HTTPException"
    assert read(Answer, HEADS["many headers"], 8192)[0] == 200


@pytest.mark.parametrize("name", HEADS)
def test_only_usual_answers_are_read_quickly(name: str) -> None:
    answer = Answer(Socket(HEADS[name], 8192), method="POST")  # type: ignore[arg-type]
    assert answer._begin_quickly() is (name in QUICK | {"Latin-1"})


NAMES = st.sampled_from(["A", "Content-Length", "content-length", "Connection", "X-Y", "X Y"])
VALUES = st.sampled_from(
    ["", "0", "2", "02", "+2", "close", "keep-alive", "a, b", "\t2 ", "é", "1\nB: 2", "1\rB"]
)


@given(
    status=st.sampled_from(["200", "100", "204", "304", "400", "999", "20", ""]),
    lines=st.lists(st.tuples(NAMES, VALUES), max_size=5),
    body=st.binary(max_size=4),
    piece=st.integers(1, 200),
)
def test_any_answer_is_read_as_http_client_does(
    status: str, lines: list[tuple[str, str]], body: bytes, piece: int
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    received = f"HTTP/1.1 {status} So\r\n{head}\r\n".encode("iso-8859-1") + body
    expected = read(HTTPResponse, received, piece)
    if expected != "HTTPException":
        assert read(Answer, received, piece) == expected
