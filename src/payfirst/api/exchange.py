"""One HTTP/1.1 request and its answer, as ASGI has them: what came of the body, and the bytes of the answer.

Sources: RFC 9110, RFC 9112; ASGI 3.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message, Scope

from payfirst.api.problems import Header

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})


def response_head(status: int, headers: Iterable[Header], date_line: bytes) -> bytes:
    """Status line and headers on the wire, with their empty line. Raises ValueError for a line break in a header."""
    lines = list(map(b": ".join, headers))
    head = b"\r\n".join((_STATUS_LINES[status], *lines, date_line))
    if head.count(b"\n") != len(lines) + 2:
        raise ValueError("a header of the answer has a line break in it")
    return head + b"\r\n"


class Wire(Protocol):
    """The connection, as an exchange uses it."""

    loop: asyncio.AbstractEventLoop
    is_paused: bool  # the client reads more slowly than we write

    @property
    def is_last(self) -> bool:
        """Whether no other request is taken on it."""

    def date_line(self) -> bytes:
        """The `Date` header."""

    def write(self, data: bytes) -> None:
        """Send, if there is still anybody."""

    async def until_writable(self) -> None:
        """Return when the client has read enough."""

    def go_on_reading(self) -> None:
        """There is room for more of the body."""


class Exchange:
    """One request and its answer; `receive` and `send` are the application's."""

    __slots__ = (
        "_asked", "_body", "_connection", "_expects", "_has_body", "_is_begun", "_is_chunked", "_is_given", "_is_head",
        "_start", "is_answered", "is_gone", "is_refused", "is_whole", "keeps_alive", "scope",
    )  # fmt: skip

    def __init__(self, connection: Wire, scope: Scope, *, keeps_alive: bool, expects: bool) -> None:
        self.scope = scope
        self.keeps_alive = keeps_alive
        self._expects = expects  # 100 (Continue) before it sends the body
        self._is_head = scope["method"] == "HEAD"
        self.is_whole = False  # its body has come
        self.is_gone = False  # the client has ended its side, or the connection
        self._is_begun = False  # the answer's head is written
        self.is_answered = False
        self.is_refused = False  # a 4xx: the request was not what it has to be
        self._start: Message | None = None
        self._connection = connection
        self._body = b""
        self._is_given = False  # the application has all of the body
        self._has_body = True  # the answer
        self._is_chunked = False
        self._asked: asyncio.Future[None] | None = None  # the application waits for what comes next

    @property
    def kept_bytes(self) -> int:
        """How much of the body has come and was not asked for."""
        return len(self._body)

    def feed(self, data: bytes) -> None:
        """More of the body."""
        self._body += data
        self.wake()

    def wake(self) -> None:
        """Something has happened that the application may wait for."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    async def receive(self) -> Message:
        """The body, in one piece if it has come; then, once it is so, that the client has gone."""
        while True:
            if not self._is_given:
                if self.is_whole or self._body:
                    body, self._body = self._body, b""
                    self._is_given = self.is_whole
                    if not self.is_whole:
                        self._connection.go_on_reading()
                    return {"type": "http.request", "body": body, "more_body": not self.is_whole}
                if self._expects and not self.is_gone and not self._is_begun:
                    self._expects = False
                    self._connection.write(CONTINUE)
            if self.is_gone or self.is_answered:
                return {"type": "http.disconnect"}
            self._asked = self._connection.loop.create_future()
            try:
                await self._asked
            finally:
                self._asked = None

    async def send(self, message: Message) -> None:
        """The answer: its start, and its body in one piece or several."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is None or self.is_answered:
            raise RuntimeError(f"{message['type']} out of order")
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        if not self._is_begun:
            self._is_begun = True
            out = self._begin(self._start, body, is_last=is_last)
        else:
            out = self._piece(body, is_last=is_last)
        self.is_answered = is_last
        self._connection.write(out)
        if self._connection.is_paused:
            await self._connection.until_writable()

    def _begin(self, start: Message, body: bytes, *, is_last: bool) -> bytes:
        status: int = start["status"]
        self.is_refused = 400 <= status < 500
        self._has_body = status not in _NO_BODY and not self._is_head
        headers: list[Header] = list(start["headers"])
        if status not in _NO_BODY and b"content-length" not in dict(headers):
            if is_last:
                headers.append((b"content-length", b"%d" % len(body)))
            elif self.scope["http_version"] == "1.1":
                headers.append((b"transfer-encoding", b"chunked"))
                self._is_chunked = self._has_body
            else:
                self.keeps_alive = False  # the end of the connection is the end of the body
        if not self.is_whole or self._connection.is_last:
            self.keeps_alive = False
        if not self.keeps_alive:
            headers.append((b"connection", b"close"))
        elif self.scope["http_version"] == "1.0":
            headers.append((b"connection", b"keep-alive"))
        head = response_head(status, headers, self._connection.date_line())
        return head + self._piece(body, is_last=is_last)

    def _piece(self, body: bytes, *, is_last: bool) -> bytes:
        if not self._has_body:
            return b""
        if not self._is_chunked:
            return body
        piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return piece + b"0\r\n\r\n" if is_last else piece
