"""Reading an answer's head: quickly where it is a usual one, and whatever of it has come.

``http.client`` reads headers by the parser for mail, which is an eighth of a delivery. The head of
a usual answer has arrived as a whole, and says how long the body is; any other is read as ever.
"""

from __future__ import annotations

from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Any

__all__ = ["Answer"]

_START = "HTTP/1.1 "
#: http.client refuses more.
_MOST_HEADERS = 100


class Answer(HTTPResponse):
    """An answer whose status is known even where its headers break off."""

    headers: Any
    chunked: Any

    def begin(self) -> None:
        """Read status and headers.

        Raises:
            OSError: if the connection is lost before the status has come.
            http.client.HTTPException: if it is no answer of HTTP.
        """
        if self.headers is not None or self._begin_quickly():
            return
        try:
            super().begin()
        except (OSError, HTTPException):
            # The version is read with the status, and is the last that is set of the two.
            if not isinstance(self.version, int):
                raise
            self.headers = self.msg = HTTPMessage()
            self.length, self.chunked, self.will_close = 0, False, True
            self._close_conn()  # type: ignore[attr-defined]

    def _begin_quickly(self) -> bool:
        """Read the head if it is a usual one; else leave it where it is."""
        head, end, _body = self.fp.peek(1).partition(b"\r\n\r\n")
        first, *lines = head.decode("iso-8859-1").split("\r\n")
        status, _space, reason = first.removeprefix(_START).partition(" ")
        is_usual = end and first.startswith(_START) and _is_number(status, digits=3)
        # Before the status there may come others; these two have no body, whatever they say.
        if not is_usual or int(status) < 200 or int(status) in (204, 304):
            return False
        message, length = HTTPMessage(), None
        for line in lines:
            name, colon, value = line.partition(":")
            if not (colon and name and name.isascii() and name.replace("-", "").isalnum()):
                return False
            value = value.strip(" \t")
            message.set_raw(name, value)
            match name.lower():
                case "content-length" if length is None and _is_number(value):
                    length = int(value)
                case "connection" if value.lower() == "keep-alive":
                    pass
                case "content-length" | "transfer-encoding" | "connection" | "upgrade":
                    return False
        # http.client ends a line at any newline.
        if length is None or len(lines) > _MOST_HEADERS or head.count(b"\n") != len(lines):
            return False
        self.fp.read(len(head) + len(end))
        self.code = self.status = int(status)
        self.reason, self.version = reason.strip(), 11
        self.headers = self.msg = message
        self.chunked, self.chunk_left, self.length, self.will_close = False, None, length, False
        return True


def _is_number(text: str, digits: int | None = None) -> bool:
    return text.isascii() and text.isdigit() and digits in (None, len(text))
