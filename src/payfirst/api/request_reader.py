"""Bytes of one connection become requests, or are not read at all: httptools parses, the bounds are ours.

The parser is Node's (llhttp), strict, as it comes. Sources: RFC 9110, RFC 9112.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

import httptools

from payfirst.api import problems
from payfirst.api.exchange import Exchange, Wire
from payfirst.api.problems import Answer, Header

# The payment header and the body's limit, with room for what browsers and proxies add.
HEAD_BYTES_MAX: Final = 65_536
HEADERS_MAX: Final = 256
# One read may hold many small requests: so many may wait for their answers.
AHEAD_OF_ONE_READ_MAX: Final = 256

NOT_HTTP = "This is no HTTP/1.1 request: {}. Send it again as RFC 9112 has it."
OTHER_VERSION = "its version is another"
ONE_HOST = "it names no host or several, where one Host header is due"
HEAD_TOO_LARGE = f"The head of a request may have {HEAD_BYTES_MAX} bytes. Send only the headers that are needed."
TOO_FAR_AHEAD = "More requests were sent ahead than are kept: read the answers first, and send the rest again."

Peer = tuple[str, int]

_VERSIONS = frozenset({"1.0", "1.1"})
_ASGI = {"version": "3.0", "spec_version": "2.4"}


class NotRead(Exception):
    """Nothing that comes on this connection can be read any more; `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class RequestReader:
    """Appends each request to `exchanges` once its head is whole, and feeds it its body."""

    def __init__(self, wire: Wire, exchanges: deque[Exchange], *, client: Peer | None, server: Peer | None) -> None:
        self.unfinished: Exchange | None = None  # whose body comes now
        self.has_open_head = False
        self.began_a_head = False  # in the last read, which did not end it if it is open
        self.is_over = False  # another protocol begins: what comes is not for us
        self._wire = wire
        self._exchanges = exchanges
        self._client = client
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._is_large_read = False
        self._made_nothing_bytes = 0  # that were read and made no head, no piece of a body and no end of one
        # Of the head that is read:
        self._url = b""
        self._headers: list[Header] = []

    def close(self) -> None:
        """No more is fed. What refers to us, or to the connection that has us, is let go: no cycle is left."""
        self.unfinished = None
        del self._parser, self._wire

    def feed(self, data: bytes) -> None:
        """What was received. Raises NotRead; requests before that are in `exchanges` all the same."""
        self.began_a_head = False
        self._made_nothing_bytes += len(data)
        self._is_large_read = len(data) > HEAD_BYTES_MAX
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # It is answered as HTTP/1.1, and what comes behind it is not read.
            self._exchanges[-1].keeps_alive = False
            self.is_over = True
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, NotRead):
                raise error.__context__ from None
            raise  # a fault of ours: the event loop logs it and ends the connection
        except httptools.HttpParserError as error:
            raise NotRead(problems.problem(400, "invalid_request", NOT_HTTP.format(error))) from error
        if self._made_nothing_bytes > HEAD_BYTES_MAX and not self.is_over:
            raise NotRead(_head_too_large())

    # ---- httptools' calls --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A head begins."""
        self._url = b""
        self._headers = []
        self._made_nothing_bytes = 0
        self.has_open_head = self.began_a_head = True

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer after a body in chunks, which nobody asked for."""
        if self.has_open_head:
            self._headers.append((name.lower(), value.rstrip(b" \t")))  # before it there is none left

    def on_headers_complete(self) -> None:
        """The head is whole: there is a request."""
        self.has_open_head = False
        self._made_nothing_bytes = 0
        parser = self._parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise NotRead(problems.problem(400, "invalid_request", NOT_HTTP.format(OTHER_VERSION)))
        is_new = version == "1.1"
        headers = self._headers
        names = [name for name, _ in headers]
        hosts = names.count(b"host")
        if hosts > 1 or (is_new and not hosts):
            # A proxy may have gone by another of them than whoever reads it here (RFC 9112, 3.2).
            raise NotRead(problems.problem(400, "invalid_request", NOT_HTTP.format(ONE_HOST)))
        if len(headers) > HEADERS_MAX or (self._is_large_read and _bytes_of(headers) > HEAD_BYTES_MAX):
            raise NotRead(_head_too_large())
        if len(self._exchanges) >= AHEAD_OF_ONE_READ_MAX:
            raise NotRead(problems.problem(400, "invalid_request", TOO_FAR_AHEAD))
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
            "headers": headers,
            "client": self._client,
            "server": self._server,
        }
        # What an HTTP/1.0 proxy made of a coding it does not know may end anywhere (RFC 9112, 6.1).
        keeps_alive = parser.should_keep_alive() and (is_new or b"transfer-encoding" not in names)
        expects = is_new and b"expect" in names and _expects_continue(headers)
        exchange = Exchange(self._wire, scope, keeps_alive=keeps_alive, expects=expects)
        self.unfinished = exchange
        self._exchanges.append(exchange)

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        assert self.unfinished is not None  # noqa: S101 - the parser calls in this order
        self._made_nothing_bytes = 0
        self.unfinished.feed(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        assert self.unfinished is not None  # noqa: S101 - the parser calls in this order
        self._made_nothing_bytes = 0
        self.unfinished.is_whole = True
        self.unfinished.wake()
        self.unfinished = None


def _head_too_large() -> Answer:
    return problems.problem(431, "header_too_large", HEAD_TOO_LARGE)


def _expects_continue(headers: Iterable[Header]) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def _bytes_of(headers: Iterable[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


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
