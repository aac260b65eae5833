"""HTTP/1.1 with one client: each request is given to the ASGI application, one after another, and each end is kept.

An HTTP server made for all purposes takes a fifth of the time of an API process (`benchmarks/README.md`).
Sources: RFC 9110, RFC 9112; ASGI 3.0.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from email.utils import formatdate
from typing import Any, Final

from starlette.types import ASGIApp

from payfirst.api import problems
from payfirst.api.exchange import Exchange, response_head
from payfirst.api.problems import Answer
from payfirst.api.request_reader import NotRead, Peer, RequestReader
from payfirst.api.turns import REFUSED_IN_A_ROW, Turns
from payfirst.ops.log import get_logger

HEAD_TIMEOUT_S: Final = 10.0
# Longer than the proxies of the field keep theirs (60 s): they, not we, end a connection that may be used that moment.
IDLE_S: Final = 75.0
# How much of a body waits here for the application to ask for it.
BODY_KEPT_BYTES: Final = 65_536
# After an answer that came before the body's end: so much more is taken, and for so long, before the connection is cut.
# Cut at once, the client's system would throw the answer away with the rest of what it had not read.
LINGER_BYTES: Final = 262_144
LINGER_S: Final = 2.0
# A client that has read nothing for so long reads no more: what it was owed is thrown away.
STALLED_S: Final = 30.0
# With more requests of one client waiting for their answers, no more of it is read.
AHEAD_MAX: Final = 16
# Connections beyond the limit that are told so, at once; others are cut without a word.
REFUSED_MAX: Final = 100

TOO_MANY = "Too many connections at once. Nothing was taken. Send the request again in 1 s."

log = get_logger(role="api")


class Connections:
    """What the connections of a process share."""

    def __init__(self, app: ASGIApp, *, connections_max: int) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()  # beyond the limit: each ends once it has been told
        self.connections_max = connections_max
        self.is_stopping = False
        self.turns = Turns(self.loop)
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
        self.turns.stop()
        for connection in list(self.connections):
            connection.end_when_idle()
        for connection in list(self.refused):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client. Its requests are answered in the order in which they came."""

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self.loop = shared.loop
        self.is_paused = False  # the client does not read what is written
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[Exchange] = deque()  # the first is being answered
        self._reader: RequestReader  # from the moment the client has connected
        self._task: asyncio.Task[None] | None = None
        self._awaits_turn = False  # the first has not been begun
        self._refused_in_a_row = 0  # answers, up to the last
        self._writable: asyncio.Future[None] | None = None
        self._refusal: Answer | None = None  # once the requests before it are answered
        self._is_reading = True
        self._is_deaf = False  # what comes now is not read as a request
        self._is_lingering = False
        self._lingered_bytes = 0
        self._since = self.loop.time()  # when this connection, or its last answer, was made; or the head begun
        self._is_idle = False  # between two requests
        self._stalled_since = 0.0  # when the client was last seen to have too much to read, or we closed

    # ---- the transport's calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport  # type: ignore[assignment]  # TCP's is a Transport
        client, server = (_address(transport.get_extra_info(name)) for name in ("peername", "sockname"))
        self._reader = RequestReader(self, self._exchanges, client=client, server=server)
        everyone = self._shared
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
        self._shared.connections.discard(self)
        self._shared.refused.discard(self)
        self._transport = None
        self._reader.close()
        self._end_of_client()
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read: whoever owes it an answer is told, and answers."""
        self._end_of_client()
        if self._exchanges and not self._is_lingering:
            return True
        self._close()  # once what is written has been read
        return True

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
        reader = self._reader
        had_open_head = reader.has_open_head
        try:
            reader.feed(data)
        except NotRead as error:
            self._reading_failed(error.answer)
        else:
            self._is_deaf = reader.is_over
            if reader.has_open_head and (reader.began_a_head or not had_open_head):
                self._since = self.loop.time()
        if self._task is None and self._exchanges and not self._awaits_turn:
            self._take_turn()
        self._pause_if_full()

    # ---- the exchange's calls ----------------------------------------------------------------------

    @property
    def is_last(self) -> bool:
        """We stop: no other request is taken."""
        return self._shared.is_stopping

    def date_line(self) -> bytes:
        """The `Date` header."""
        return self._shared.date_line()

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
        if now - self._since > (IDLE_S if self._is_idle and not self._reader.has_open_head else HEAD_TIMEOUT_S):
            self._close()

    def end_when_idle(self) -> None:
        """We stop: now if no answer is owed, else after it, as it says itself."""
        if not self._exchanges:
            self._close()

    def abort(self) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()

    def _take_turn(self) -> None:
        self._awaits_turn = True
        self._shared.turns.take(self._begin, is_behind=self._is_behind)

    @property
    def _is_behind(self) -> bool:
        return self._refused_in_a_row >= REFUSED_IN_A_ROW

    def _begin(self) -> None:
        self._awaits_turn = False
        exchange = self._exchanges[0]
        # Kept by the connection, which is kept until it has ended and by the task itself.
        self._task = self.loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._shared.app(exchange.scope, exchange.receive, exchange.send)
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
        if not self._is_behind:
            self._shared.turns.ended()
        self._refused_in_a_row = self._refused_in_a_row + 1 if exchange.is_refused else 0
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
            self._take_turn()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif exchange.is_gone or self._shared.is_stopping:
            self._close()
        else:
            self.go_on_reading()

    # ---- the ends ----------------------------------------------------------------------------------

    def _end_of_client(self) -> None:
        for exchange in self._exchanges:
            exchange.is_gone = True
            exchange.wake()

    def _reading_failed(self, refusal: Answer) -> None:
        """Who waits for a body's end waits in vain; the requests before are answered."""
        self._is_deaf = True
        broken, self._reader.unfinished = self._reader.unfinished, None
        if broken is not None:
            broken.is_gone = True
            broken.keeps_alive = False
            broken.wake()
        if self._exchanges:
            self._refusal = refusal
        else:
            self._refuse(refusal)

    def _refuse(self, answer: Answer) -> None:
        """Answer what was never a request of the application's, and end."""
        headers = (*answer.headers, (b"content-length", b"%d" % len(answer.body)), (b"connection", b"close"))
        self.write(response_head(answer.status, headers, self.date_line()) + answer.body)
        self._linger()

    def _linger(self) -> None:
        """No more is written; what the client still sends is thrown away, within limits."""
        self._is_lingering = self._is_deaf = True
        self._reader.unfinished = None
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
        unfinished = self._reader.unfinished
        kept_bytes = 0 if unfinished is None else unfinished.kept_bytes
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


def _address(name: Any) -> Peer | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
