"""HTTP/1.1 as clients and proxies of every kind speak it, over TCP, with a small application behind it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from payfirst.api import connection as http
from payfirst.api import request_reader, server, turns
from payfirst.api.turns import Turns

from .shop import until

WITHIN_S = 10
PLAIN = (b"content-type", b"text/plain")

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Says what it was asked, as JSON; some paths do something else."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.has_ended = False
        self.may_answer = asyncio.Event()
        self.messages: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.may_answer.set()
            self.has_ended = True
            return
        self.scopes.append(scope)
        handle: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {
            "/late": self._late, "/pieces": self._pieces, "/unread": self._unread, "/broken": self._broken,
            "/split": self._split, "/silent": self._silent, "/nothing": self._nothing, "/large": self._large,
            "/watch": self._watch, "/answering": self._answering,
            "/nothing-in-pieces": self._nothing_in_pieces, "/refused": self._refused, "/not-now": self._not_now,
        }  # fmt: skip
        await handle.get(scope["path"], self._echo)(receive, send)

    async def _echo(self, receive: Receive, send: Send) -> None:
        body = b""
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            self.messages.append(message)
            body += message.get("body", b"")
        scope = self.scopes[-1]
        said = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode()}
        await answer(send, json.dumps({**said, "body": body.decode()}).encode())

    async def _late(self, receive: Receive, send: Send) -> None:
        await self.may_answer.wait()
        await answer(send, b"late")

    async def _pieces(self, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _unread(self, _receive: Receive, send: Send) -> None:
        await answer(send, b"unread", status=413)

    async def _broken(self, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError("the application's own fault")

    async def _silent(self, _receive: Receive, _send: Send) -> None:
        pass

    async def _split(self, _receive: Receive, send: Send) -> None:
        await answer(send, b"", headers=[(b"location", b"/\r\nset-cookie: a=b")])

    async def _nothing(self, _receive: Receive, send: Send) -> None:
        await answer(send, b"", status=204)

    async def _refused(self, _receive: Receive, send: Send) -> None:
        await answer(send, b"", status=402)

    async def _not_now(self, _receive: Receive, send: Send) -> None:
        await answer(send, b"", status=503)

    async def _nothing_in_pieces(self, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 304, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"not to be sent"})

    async def _large(self, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
        while not self.may_answer.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            self.messages.append({"type": "sent"})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    async def _answering(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()
        await send({"type": "http.response.body", "body": b"b"})

    async def _watch(self, receive: Receive, send: Send) -> None:
        self.messages += [await receive(), await receive()]
        self.may_answer.set()
        await answer(send, b"watched")


class Said:
    """A log that is read here."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def exception(self, _event: str, *, message: str) -> None:
        """One fault."""
        self.messages.append(message)


async def answer(
    send: Send, body: bytes, *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """All of it."""
    await send({"type": "http.response.start", "status": status, "headers": [PLAIN, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server, and clients of it."""

    def __init__(self, app: App, port: int, stop: asyncio.Event) -> None:
        self.app = app
        self.stop = stop
        self._port = port

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """One connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def until_asked(self) -> None:
        """Return when a request has reached the application."""

        async def is_asked() -> bool:
            return bool(self.app.scopes)

        await until(is_asked)

    async def serves(self) -> bool:
        """Whether a new connection is answered."""
        return (await self.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")

    async def say(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """Everything that is answered until the server ends the connection; the client's side stays open."""
        async with self.client() as (reader, writer), asyncio.timeout(WITHIN_S):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause_s)
            return await reader.read()


@contextlib.asynccontextmanager
async def running(*, connections_max: int = 100) -> AsyncIterator[Running]:
    """A server on loopback; it stops at the end, if not before."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    app, stop = App(), asyncio.Event()
    task = asyncio.create_task(server.serve(app, listener, stop=stop, connections_max=connections_max))
    try:
        yield Running(app, listener.getsockname()[1], stop)
    finally:
        stop.set()
        async with asyncio.timeout(WITHIN_S):
            assert await task
        assert app.has_ended


@pytest.fixture
async def served() -> AsyncIterator[Running]:
    """A server that takes a hundred at once."""
    async with running() as started:
        yield started


async def one_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next one: status, headers by lower-case name, body."""
    async with asyncio.timeout(WITHIN_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


CLOSE = b"Connection: close\r\n\r\n"


async def test_one_connection_serves_many(served: Running) -> None:
    """In one piece, byte by byte, and several at once, answered in their order; HTTP dates, no name of a server."""
    get = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nX-Spaced: \t y \t\r\n\r\n"
    post = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    async with served.client() as (reader, writer):
        writer.write(get)
        status, headers, body = await one_answer(reader)
        assert (status, json.loads(body)) == (200, {"method": "GET", "path": "/a b", "query": "c=d", "body": ""})
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
        assert not {"server", "connection"} & set(headers)
        for byte in post:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)
        assert json.loads((await one_answer(reader))[2])["body"] == "hello"
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n" + post + get)
        served.app.may_answer.set()
        bodies = [(await one_answer(reader))[2] for _ in range(3)]
    assert bodies[0] == b"late"
    assert [json.loads(body)["path"] for body in bodies[1:]] == ["/p", "/a b"]
    assert (b"x-spaced", b"y") in served.app.scopes[0]["headers"]
    assert served.app.scopes[0]["client"][0] == "127.0.0.1"


async def test_more_than_is_parsed_ahead_is_answered(served: Running) -> None:
    """A client that sends two hundred before it reads one answer gets all of them."""
    many = 200
    async with served.client() as (reader, writer):
        for number in range(many):
            writer.write(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            await asyncio.sleep(0)
        paths = [json.loads((await one_answer(reader))[2])["path"] for _ in range(many)]
    assert paths == [f"/{number}" for number in range(many)]


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE, b"connection: close"),
        (b"GET / HTTP/1.0\r\n\r\n", b"connection: close"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\n",
            b"connection: close",
        ),
    ],
)
async def test_the_connection_ends_when_the_client_says_so(served: Running, said: bytes, ends: bytes) -> None:
    """By header, by version, or because it would speak something else; it is told."""
    answered = await served.say(said)
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ends in answered
    assert answered.count(b"HTTP/1.1") == 1


async def test_http_1_0_may_keep_its_connection(served: Running) -> None:
    """Asked for, and confirmed; a body of unknown length ends with the connection."""
    async with served.client() as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            _status, headers, _body = await one_answer(reader)
            assert headers["connection"] == "keep-alive"
    answered = await served.say(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answered.endswith(b"\r\n\r\nonetwo")
    assert b"chunked" not in answered


async def test_an_answer_in_pieces_is_chunked(served: Running) -> None:
    """An empty piece does not end it; a HEAD has its head only, and the connection goes on."""
    answered = await served.say(b"GET /pieces HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    assert answered.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    async with served.client() as (reader, writer):
        for path, length in ((b"/pieces", None), (b"/", "56")):
            writer.write(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            async with asyncio.timeout(WITHIN_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert ("transfer-encoding: chunked" in head) == (length is None)
            assert (f"content-length: {length}" in head) == (length is not None)
        writer.write(b"GET /nothing-in-pieces HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await one_answer(reader))[0] == 304
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = await one_answer(reader)
        assert (status, "content-length" in headers) == (204, False)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await one_answer(reader))[0] == 200


async def test_a_body_in_chunks_is_put_together(served: Running) -> None:
    """With an extension and a trailer, which nobody asked for."""
    chunks = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n"
    answered = await served.say(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + CLOSE + chunks)
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["body"] == "abcde"
    assert all(name != b"x-trailer" for name, _ in served.app.scopes[-1]["headers"])


async def test_100_continue_comes_when_the_body_is_asked_for(served: Running) -> None:
    """And not where it is refused unread, nor to who sent it at once."""
    asks = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with served.client() as (reader, writer):
        writer.write(asks)
        async with asyncio.timeout(WITHIN_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi" + asks + b"ho")
        for body in ("hi", "ho"):
            status, _headers, said = await one_answer(reader)
            assert (status, json.loads(said)["body"]) == (200, body)
    refused = await served.say(asks.replace(b"/", b"/unread", 1))
    assert refused.startswith(b"HTTP/1.1 413 ")


async def test_who_is_answered_before_the_end_of_a_body_reads_the_answer(served: Running) -> None:
    """Though it goes on sending for a while; then the connection ends, as it was told."""
    body = b"x" * 100_000
    answered = await served.say(
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (4 * len(body)), body, body, pause_s=0.05
    )
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answered
    assert answered.endswith(b"unread")


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "two hosts, HTTP/1.0": b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "version 2 by its line": b"GET / HTTP/2.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_http_is_refused_in_so_many_words(served: Running, said: bytes) -> None:
    """400, a problem document, and the end: nothing after it is read as a request (RFC 9112, 11.2)."""
    answered = await served.say(said + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == "invalid_request"
    assert not served.app.scopes


async def test_a_request_before_a_malformed_one_is_answered_first(served: Running) -> None:
    """In their order."""
    async with served.client() as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\nhello\r\n\r\n")
        await served.until_asked()
        served.app.may_answer.set()
        assert [(await one_answer(reader))[0] for _ in range(2)] == [200, 400]
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""


async def test_a_chunk_that_is_none_ends_the_body(served: Running) -> None:
    """The application is told that the rest will not come, and what it says is the answer."""
    answered = await served.say(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n", pause_s=0.1
    )
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert served.app.messages[-1]["type"] == "http.disconnect"
    assert answered.count(b"HTTP/1.1") == 1


class Recorded:
    """What connections told Turns: for each request whether it comes behind, and how many of the others have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind: list[bool] = []
        self.ended = 0
        take, ended = Turns.take, Turns.ended

        def recorded_take(turns: Turns, begin: Callable[[], None], *, is_behind: bool) -> None:
            self.behind.append(is_behind)
            take(turns, begin, is_behind=is_behind)

        def recorded_ended(turns: Turns) -> None:
            self.ended += 1
            ended(turns)

        monkeypatch.setattr(Turns, "take", recorded_take)
        monkeypatch.setattr(Turns, "ended", recorded_ended)

    async def until_all_have_ended(self) -> None:
        """Each of those that are not behind, once."""

        async def have_ended() -> bool:
            return self.ended == self.behind.count(False)

        await until(have_ended)


async def test_who_was_refused_takes_its_turn_behind_others(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals in a row are counted for each connection; what is our own fault is none, and each success ends them."""
    recorded = Recorded(monkeypatch)
    paths = [b"/refused", b"/refused", b"/refused", b"/", b"/refused", b"/refused", b"/not-now", b"/"]
    async with served.client() as (reader, writer):
        for path in paths[:3]:
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            await one_answer(reader)
        writer.write(b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths[3:]))
        for _ in paths[3:]:
            await one_answer(reader)
    assert recorded.behind == [False, False, True, True, False, False, True, False]
    await recorded.until_all_have_ended()


async def test_what_was_begun_has_ended_however_it_ends(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or those behind would wait their longest for ever: the client hangs up, the application fails, or we stop."""
    recorded = Recorded(monkeypatch)
    monkeypatch.setattr(http, "log", Said())
    async with served.client() as (_reader, writer):
        writer.write(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.until_asked()
    await recorded.until_all_have_ended()
    for path in (b"/broken", b"/silent", b"/split"):
        with contextlib.suppress(ConnectionResetError):
            await served.say(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    await recorded.until_all_have_ended()
    served.app.may_answer.clear()
    async with served.client() as (reader, writer):
        begun = len(recorded.behind)
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")

        async def is_begun() -> bool:
            return len(recorded.behind) > begun

        await until(is_begun)
        served.stop.set()
        await one_answer(reader)
    await recorded.until_all_have_ended()
    assert len(recorded.behind) >= 5
    assert not any(recorded.behind)


async def test_more_than_are_begun_at_once_are_all_answered(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four clients send their requests in one moment, half of them refused twice before."""
    monkeypatch.setattr(turns, "BEGUN_A_ROUND", 1)
    clients = 64
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(served.client()) for _ in range(clients)]
        for path in (b"/refused", b"/refused", b"/"):
            for number, (_, writer) in enumerate(opened):
                writer.write(b"GET " + (path if number % 2 else b"/") + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses = [(await one_answer(reader))[0] for reader, _ in opened]
            assert statuses == [402 if path == b"/refused" and number % 2 else 200 for number in range(clients)]


async def test_who_ended_its_side_is_still_answered(served: Running) -> None:
    """The application learns that nobody will send more; nothing is owed an answer that has no request."""
    for said in (
        b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
    ):
        async with served.client() as (reader, writer), asyncio.timeout(WITHIN_S):
            writer.write(said)
            writer.write_eof()
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        assert served.app.messages[-1]["type"] == "http.disconnect"
    async with served.client() as (reader, writer), asyncio.timeout(WITHIN_S):
        writer.write(b"GET / HTT")
        writer.write_eof()
        assert await reader.read() == b""


async def test_who_hangs_up_is_noticed(served: Running) -> None:
    """By an application that waits for it; its answer goes nowhere, and harms nobody."""
    async with served.client() as (_reader, writer):
        writer.write(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.until_asked()
        assert not served.app.may_answer.is_set()
    async with asyncio.timeout(WITHIN_S):
        await served.app.may_answer.wait()
    assert [message["type"] for message in served.app.messages] == ["http.request", "http.disconnect"]
    assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", [b"/broken", b"/silent", b"/split"])
async def test_a_fault_of_the_application_cuts_its_connection_only(
    served: Running, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half of an answer is taken for a whole one, and no header splits it in two; the log has the fault."""
    said = Said()
    monkeypatch.setattr(http, "log", said)
    with contextlib.suppress(ConnectionResetError):
        assert await served.say(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path) == b""
    assert [message.partition(":")[0] for message in said.messages] == ["A request was not answered to its end"]
    assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")


async def test_who_does_not_read_is_not_written_to_for_ever(served: Running) -> None:
    """The application waits for a slow reader, and goes on when it reads."""
    async with served.client() as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n" + CLOSE)
        count = -1
        while count != len(served.app.messages):
            count = len(served.app.messages)
            await asyncio.sleep(0.3)
        assert count * 65_536 < 16_000_000
        served.app.may_answer.set()
        async with asyncio.timeout(WITHIN_S):
            received = await reader.read()
    assert received.endswith(b"\r\n0\r\n\r\n")
    assert len(received) > count * 65_536


async def test_a_head_has_its_limits(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """431 for one that is too large; the end for one that comes too slowly, and for who connects and says nothing."""
    too_large = (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * request_reader.HEAD_BYTES_MAX, b"a")
    answered = await served.say(*too_large, pause_s=0.05)
    assert answered.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["code"] == "header_too_large"
    monkeypatch.setattr(http, "HEAD_TIMEOUT_S", 1.0)
    assert await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n", b"Z: ", pause_s=0.1) == b""
    assert await served.say() == b""
    async with served.client() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await one_answer(reader))[0] == 200
        writer.write(b"GET / HT")
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""
    assert not [scope for scope in served.app.scopes if scope["path"] != "/"]


LARGE = b"y" * 30_000
ENDLESS = {
    "a trailer": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", LARGE),
    "a chunk's extension": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=", LARGE),
    "line ends": (b"\r\n", b"\r\n" * 15_000),
    "a header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", LARGE),
    "requests ahead": (b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000),
}


@pytest.mark.parametrize(("first", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_nothing_endless_is_kept(served: Running, first: bytes, more: bytes) -> None:
    """However it is dressed: the client is told and cut off, and what came before is answered."""
    served.app.may_answer.set()
    sent = 0
    async with served.client() as (_reader, writer), asyncio.timeout(WITHIN_S):
        writer.write(first)
        with contextlib.suppress(OSError):
            while sent < 50_000_000:
                writer.write(more)
                sent += len(more)
                await writer.drain()
                await asyncio.sleep(0)
    assert sent < 10_000_000
    assert len(served.app.scopes) <= 1 + request_reader.AHEAD_OF_ONE_READ_MAX
    assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")


async def test_many_headers_are_too_many_in_one_piece_too(served: Running) -> None:
    """Bounded by number and by bytes."""
    for headers in (
        b"X: y\r\n" * (request_reader.HEADERS_MAX + 1),
        b"X: " + b"y" * request_reader.HEAD_BYTES_MAX + b"\r\n",
    ):
        answered = await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        assert answered.startswith(b"HTTP/1.1 431 ")
    assert not served.app.scopes


async def test_a_head_behind_a_large_body_is_its_own(served: Running) -> None:
    """Read in one piece with the body before it, and with a rest that comes later."""
    body = b"z" * 2 * request_reader.HEAD_BYTES_MAX
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with served.client() as (reader, writer):
        for piece in (post[:20], post[20:] + b"GET /next HT", b"TP/1.1\r\nHost: x\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.1)
        statuses = [(await one_answer(reader))[0] for _ in range(2)]
    assert statuses == [200, 200]


async def test_who_stops_reading_is_given_up(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application hears of it: what waits for such a client holds up no stop."""
    monkeypatch.setattr(http, "STALLED_S", 0.3)
    async with served.client() as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(3)
        served.app.may_answer.set()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(WITHIN_S):
                while piece := await reader.read(1 << 20):
                    received = piece
    assert not received.endswith(b"0\r\n\r\n")
    assert len(served.app.messages) > 100  # it was not held up any more


async def test_nothing_of_a_connection_is_left(served: Running) -> None:
    """No cycle keeps it until a collection of garbage, of which an API process makes few."""
    gc.collect()
    gc.disable()
    try:
        for said in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na",
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\na",
            b"hello\r\n\r\n",
        ):
            async with served.client() as (reader, writer):
                writer.write(said)
                async with asyncio.timeout(WITHIN_S):
                    await reader.read(1)

        async def is_gone() -> bool:
            return not any(isinstance(one, http.Connection) for one in gc.get_objects())

        await until(is_gone)
    finally:
        gc.enable()


async def test_no_100_continue_in_the_midst_of_an_answer(served: Running) -> None:
    """An application that asks for the body after it has begun to answer."""
    asks = b"POST /answering HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    answered = await served.say(asks, b"hi", pause_s=0.2)
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert b" 100 " not in answered


async def test_an_http_1_0_message_with_a_coding_is_the_last(served: Running) -> None:
    """RFC 9112, 6.1: whoever sent it on may have read its end elsewhere."""
    answered = await served.say(
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /smuggled HTTP/1.0\r\n\r\n"
    )
    assert answered.count(b"HTTP/1.1") == 1
    assert len(served.app.scopes) == 1


async def test_an_idle_connection_ends(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests, not during one."""
    monkeypatch.setattr(http, "IDLE_S", 0.2)
    async with served.client() as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(2.5)
        served.app.may_answer.set()
        assert (await one_answer(reader))[2] == b"late"
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""


async def test_too_many_at_once_are_told_so() -> None:
    """503 with `Retry-After`; one that leaves makes room."""
    async with running(connections_max=2) as served:
        async with served.client() as (reader, writer), served.client():
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await one_answer(reader))[0] == 200
            refused = await served.say()
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in refused
            told = [served.say() for _ in range(3)]  # they linger, and take nobody's place
            assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in await asyncio.gather(*told))
        await until(served.serves)


async def test_a_stop_ends_idle_connections_and_answers_the_others(served: Running) -> None:
    """What is owed is answered, with the word that the connection ends."""
    async with served.client() as (idle_reader, _), served.client() as (reader, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        await served.until_asked()
        served.stop.set()
        async with asyncio.timeout(WITHIN_S):
            assert await idle_reader.read() == b""
        status, headers, body = await one_answer(reader)
        assert (status, headers["connection"], body) == (200, "close", b"late")
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""


async def test_a_stop_answers_who_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application ends after it: a request that nothing would begin is begun when we stop."""
    monkeypatch.setattr(turns, "BEGUN_A_ROUND", 0)
    async with running() as served, served.client() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.3)
        assert not served.app.scopes
        served.stop.set()
        status, headers, _ = await one_answer(reader)
        assert (status, headers["connection"]) == (200, "close")


async def test_a_stop_ends_a_start_that_takes_long() -> None:
    """An application that has not started yet is not waited for."""
    listener, stop = socket.socket(), asyncio.Event()
    with listener:

        async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
            await receive()
            stop.set()
            await asyncio.sleep(600)

        async with asyncio.timeout(WITHIN_S):
            assert await server.serve(app, listener, stop=stop, connections_max=1)


async def test_an_application_that_cannot_start_is_not_served() -> None:
    """False, so that the process ends with an error."""
    with socket.socket() as listener:

        async def app(_scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no"})

        async with asyncio.timeout(WITHIN_S):
            assert not await server.serve(app, listener, stop=asyncio.Event(), connections_max=1)


async def test_the_target_may_name_its_host(served: Running) -> None:
    """As proxies send it; CONNECT, which names nothing else, is refused by the application like any unknown path."""
    answered = await served.say(b"GET http://shop.example/a?b=c HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    said = json.loads(answered.partition(b"\r\n\r\n")[2])
    assert (said["path"], said["query"]) == ("/a", "b=c")
    answered = await served.say(b"CONNECT shop.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["path"] == ""
