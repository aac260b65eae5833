"""HTTP/1.1 with one client: what httptools parses is given to the ASGI application, one request after another.

The parser is Node's (llhttp, by httptools), strict, as it comes; what is written here is what stands between it and the
application. An HTTP server made for all purposes takes a fifth of the time of an API process (`benchmarks/README.md`).
Sources: RFC 9110, RFC 9112; ASGI 3.0.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp

from payfirst.api import problems
from payfirst.api.exchange import STATUS_LINES, Exchange
from payfirst.api.problems import Answer, Header
from payfirst.ops.log import get_logger

# The payment header and the body's limit, with room for what browsers and proxies add.
HEAD_BYTES_MAX: Final = 65_536
HEAD_TIMEOUT_S: Final = 10.0
# Longer than the proxies of the field keep theirs (60 s): they, not we, end a connection that may be used that moment.
IDLE_S: Final = 75.0
# How much of a body waits here for the application to ask for it.
BODY_KEPT_BYTES: Final = 65_536
# After an answer that came before the body's end: so much more is taken, and for so long, before the connection is cut.
# Cut at once, the client's system would throw the answer away with the rest of what it had not read.
LINGER_BYTES: Final = 262_144
LINGER_S: Final = 2.0
HEADERS_MAX: Final = 256
# A client that has read nothing for so long reads no more: what it was owed is thrown away.
STALLED_S: Final = 30.0
# Requests of one client that are parsed ahead of the one that is answered: then no more is read; and of one read.
AHEAD_MAX: Final = 16
AHEAD_OF_ONE_READ_MAX: Final = 256
# Connections beyond the limit that are told so, at once; others are cut without a word.
REFUSED_MAX: Final = 100

NOT_HTTP = "This is no HTTP/1.1 request: {}. Send it again as RFC 9112 has it."
HEAD_TOO_LARGE = f"The head of a request may have {HEAD_BYTES_MAX} bytes. Send only the headers that are needed."
TOO_FAR_AHEAD = "More requests were sent ahead than are kept: read the answers first, and send the rest again."
OTHER_VERSION = "its version is another"
TOO_MANY = "Too many connections at once. Nothing was taken. Send the request again in 1 s."

log = get_logger(role="api")

_VERSIONS = frozenset({"1.0", "1.1"})
_ASGI = {"version": "3.0", "spec_version": "2.4"}


class _Refused(Exception):
    """What the parser would read, and we do not."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Connections:
    """What the connections of a process share."""

    def __init__(self, app: ASGIApp, *, connections_max: int) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()  # beyond the limit: each ends once it has been told
        self.connections_max = connections_max
        self.is_stopping = False
        self._date = (0, b"")

    def date_line(self) -> bytes:
        """The `Date` header of this second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
        return self._date[1]

    def look(self) -> None:
        """End the connections whose head is late, or on which nothing has come for long."""
        now = self.loop.time()
        for connection in (*self.connections, *self.refused):
            connection.look(now)

    def stop(self) -> None:
        """Each connection ends with the answers it owes, those that owe none now."""
        self.is_stopping = True
        for connection in list(self.connections):
            connection.end_when_idle()
        for connection in list(self.refused):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client. Its requests are answered in the order in which they came."""

    def __init__(self, all_: Connections) -> None:
        self._all = all_
        self.loop = all_.loop
        self.is_paused = False  # the client does not read what is written
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer: tuple[str, int] | None = None
        self._here: tuple[str, int] | None = None
        self._exchanges: deque[Exchange] = deque()  # the first is being answered
        self._read: Exchange | None = None  # whose body comes now
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._refusal: Answer | None = None  # once the requests before it are answered
        self._is_reading = True
        self._is_deaf = False  # what comes now is not read as a request
        self._is_lingering = False
        self._lingered_bytes = 0
        self._since = self.loop.time()  # when this connection, or its last answer, was made; or the head begun
        self._is_idle = False  # between two requests
        self._stalled_since = 0.0  # when the client was last seen to have too much to read, or we closed
        # Of the head that is read:
        self._url = b""
        self._headers: list[Header] = []
        self._head_is_open = False
        self._head_is_new = False  # it began in the last read
        self._expects = False
        self._has_coding = False
        self._is_large_read = False
        self._made_nothing_bytes = 0  # that were read and made no head, no piece of a body and no end of one

    # ---- the transport's calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport  # type: ignore[assignment]  # TCP's is a Transport
        self._peer = _address(transport.get_extra_info("peername"))
        self._here = _address(transport.get_extra_info("sockname"))
        everyone = self._all
        if len(everyone.connections) >= everyone.connections_max:
            if len(everyone.refused) >= REFUSED_MAX:
                self.abort()
                return
            everyone.refused.add(self)
            self._refuse(problems.problem(503, "not_now", TOO_MANY, headers=[problems.retry_after(1)]))
            return
        everyone.connections.add(self)
        if everyone.is_stopping:
            self._close()

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended, by whomever."""
        self._all.connections.discard(self)
        self._all.refused.discard(self)
        self._transport = None
        self._read = None
        del self._parser  # which refers to us, as what it read does
        self._end_of_client()
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read: whoever owes it an answer is told, and answers."""
        self._end_of_client()
        return bool(self._exchanges) and not self._is_lingering

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self.is_paused = True
        self._stalled_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up, or gone."""
        self.is_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse, and begin with the first request that has none before it."""
        if self._is_deaf:
            self._throw_away(data)
            return
        was_open, self._head_is_new = self._head_is_open, False
        self._made_nothing_bytes += len(data)
        self._is_large_read = len(data) > HEAD_BYTES_MAX
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # To no other protocol: it is answered as HTTP/1.1, and what comes behind it is not read.
            self._exchanges[-1].keeps_alive = False
            self._is_deaf = True
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise  # a fault of ours: the event loop logs it and ends the connection
            self._parsing_failed(error.__context__.answer)
        except httptools.HttpParserError as error:
            self._parsing_failed(problems.problem(400, "invalid_request", NOT_HTTP.format(error)))
        if self._head_is_open and (self._head_is_new or not was_open):
            self._since = self.loop.time()
        if self._made_nothing_bytes > HEAD_BYTES_MAX and not self._is_deaf:
            self._parsing_failed(_head_too_large())
        if self._task is None and self._exchanges:
            self._begin()
        self._pause_if_full()

    # ---- httptools' calls --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        self._url = b""
        self._headers = []
        self._made_nothing_bytes = 0
        self._head_is_open = self._head_is_new = True
        self._expects = self._has_coding = False

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer after a body in chunks, which nobody asked for."""
        if not self._head_is_open:
            return
        name = name.lower()
        value = value.rstrip(b" \t")  # before it there is none left
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        elif name == b"transfer-encoding":
            self._has_coding = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: there is a request."""
        self._head_is_open = self._is_idle = False
        self._made_nothing_bytes = 0
        parser = self._parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise _Refused(problems.problem(400, "invalid_request", NOT_HTTP.format(OTHER_VERSION)))
        if len(self._headers) > HEADERS_MAX or (self._is_large_read and _bytes_of(self._headers) > HEAD_BYTES_MAX):
            raise _Refused(_head_too_large())
        if len(self._exchanges) >= AHEAD_OF_ONE_READ_MAX:
            raise _Refused(problems.problem(400, "invalid_request", TOO_FAR_AHEAD))
        path, query = _target(self._url)
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": parser.get_method().decode(),
            "scheme": "http",
            "path": path,
            "raw_path": self._url.partition(b"?")[0],
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._peer,
            "server": self._here,
        }
        is_new = version == "1.1"
        # What an HTTP/1.0 proxy made of a coding it does not know may end anywhere (RFC 9112, 6.1).
        keeps_alive = parser.should_keep_alive() and (is_new or not self._has_coding)
        exchange = Exchange(self, scope, keeps_alive=keeps_alive, expects=self._expects and is_new)
        self._read = exchange
        self._exchanges.append(exchange)

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        assert self._read is not None  # noqa: S101 - the parser calls in this order
        self._made_nothing_bytes = 0
        self._read.feed(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        assert self._read is not None  # noqa: S101 - the parser calls in this order
        self._made_nothing_bytes = 0
        self._read.is_whole = True
        self._read.wake()
        self._read = None

    # ---- the exchange's calls ----------------------------------------------------------------------

    @property
    def is_last(self) -> bool:
        """We stop: no other request is taken."""
        return self._all.is_stopping

    def date_line(self) -> bytes:
        """The `Date` header."""
        return self._all.date_line()

    def write(self, data: bytes) -> None:
        """Send, if there is still anybody."""
        transport = self._open_transport()
        if data and transport is not None:
            transport.write(data)

    async def until_writable(self) -> None:
        """Return when the client has read enough of what was written, or has gone."""
        while self.is_paused:
            self._writable = self.loop.create_future()
            await self._writable

    def go_on_reading(self) -> None:
        """There is room again for what the client sends."""
        transport = None if self._is_reading else self._open_transport()
        if transport is not None:
            self._is_reading = True
            transport.resume_reading()

    # ---- its course --------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End it if its head is late, nothing has come for long, or nothing is read of what is owed."""
        if now - self._stalled_since > STALLED_S and (self.is_paused or self._open_transport() is None):
            self.abort()
        if self._exchanges or self._is_lingering:
            return
        if now - self._since > (IDLE_S if self._is_idle and not self._head_is_open else HEAD_TIMEOUT_S):
            self._close()

    def end_when_idle(self) -> None:
        """We stop: now if no answer is owed, else after it, as it says itself."""
        if not self._exchanges:
            self._close()

    def abort(self) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        exchange = self._exchanges[0]
        # Kept by the connection, which is kept until it has ended and by the task itself.
        self._task = self.loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._all.app(exchange.scope, exchange.receive, exchange.send)
            if not exchange.is_answered:
                raise RuntimeError("the application returned without an answer")
        except Exception as error:
            log.exception("http_server", message=f"A request was not answered to its end: {type(error).__name__}")
            self.abort()
        except asyncio.CancelledError:  # the process ends, and has waited for it
            self.abort()
            raise
        finally:
            self._task = None
            self._answered(exchange)

    def _answered(self, exchange: Exchange) -> None:
        self._exchanges.popleft()
        self._since = self.loop.time()
        self._is_idle = True
        exchange.wake()
        if self._open_transport() is None:
            self._exchanges.clear()  # nobody would have the answers
        elif not exchange.keeps_alive:
            self._exchanges.clear()
            may_send = not exchange.is_whole or self._is_deaf or not self._is_reading
            if may_send and not exchange.is_gone:
                self._linger()
            else:
                self._close()
        elif self._exchanges:
            self._begin()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif exchange.is_gone or self._all.is_stopping:
            self._close()
        else:
            self.go_on_reading()

    # ---- the ends ----------------------------------------------------------------------------------

    def _end_of_client(self) -> None:
        for exchange in self._exchanges:
            exchange.is_gone = True
            exchange.wake()

    def _parsing_failed(self, refusal: Answer) -> None:
        """Nothing more can be read. Who waits for a body's end waits in vain; the requests before are answered."""
        self._head_is_open = False
        self._is_deaf = True
        if self._read is not None:
            self._read.is_gone = True
            self._read.keeps_alive = False
            self._read.wake()
            self._read = None
        if self._exchanges:
            self._refusal = refusal
        else:
            self._refuse(refusal)

    def _refuse(self, answer: Answer) -> None:
        """Answer what was never a request of the application's, and end."""
        lines: Iterable[Header] = (
            *answer.headers, (b"content-length", b"%d" % len(answer.body)), (b"connection", b"close"),
        )  # fmt: skip
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        self.write(b"%b%b%b\r\n%b" % (STATUS_LINES[answer.status], head, self.date_line(), answer.body))
        self._linger()

    def _linger(self) -> None:
        """No more is written; what the client still sends is thrown away, within limits."""
        self._is_lingering = self._is_deaf = True
        self._head_is_open = False
        self._read = None
        transport = self._open_transport()
        if transport is None:
            return
        transport.write_eof()
        self.go_on_reading()
        self.loop.call_later(LINGER_S, self._close)

    def _throw_away(self, data: bytes) -> None:
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self._pause_reading()

    def _pause_if_full(self) -> None:
        kept_bytes = 0 if self._read is None else self._read.kept_bytes
        is_full = len(self._exchanges) > AHEAD_MAX or kept_bytes > BODY_KEPT_BYTES
        if is_full:
            self._pause_reading()

    def _pause_reading(self) -> None:
        transport = self._open_transport() if self._is_reading else None
        if transport is not None:
            self._is_reading = False
            transport.pause_reading()

    def _open_transport(self) -> asyncio.Transport | None:
        """None once it is being closed: uvloop's does nothing more then, but raise."""
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    def _close(self) -> None:
        transport = self._open_transport()
        if transport is not None:
            self._stalled_since = self.loop.time()
            transport.close()


def _head_too_large() -> Answer:
    return problems.problem(431, "header_too_large", HEAD_TOO_LARGE)


def _bytes_of(headers: Iterable[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None


def _target(url: bytes) -> tuple[str, bytes]:
    """Path, decoded, and query of a request's target, which may name scheme and host before them."""
    if not url.startswith((b"/", b"*")):
        try:
            parts = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            return "", b""  # CONNECT's host and port: no path of ours
        url = (parts.path or b"/") + (b"" if parts.query is None else b"?" + parts.query)
    raw, _, query = url.partition(b"#")[0].partition(b"?")
    path = raw.decode("ascii")  # the parser takes nothing else
    return (unquote(path) if "%" in path else path), query
