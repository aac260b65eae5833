"""Server-sent events of one payment: its state at once, each change as it comes, and an end.

An event's id is the tag of the document it carries. It is made of the rows, so any process can go on where another
stopped. Source: WHATWG HTML, server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from payfirst.api.documents import Seen
from payfirst.api.problems import NO_STORE, Header, NotFound
from payfirst.api.respond import NO_PAYMENT, id_in_path
from payfirst.api.runtime import Runtime
from payfirst.api.waiting import Waiter
from payfirst.lifecycle import PaymentStatus

KEEP_ALIVE_S = 15.0
# Then the client comes again with the id of its last event: no stream is for ever.
STREAM_S_MAX = 3_600.0
RECONNECT_MS = 2_000

# The last: the client need not come back. It carries the document once more.
END = "end"
# A change of units only.
MINT = "mint"

STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream"),
    NO_STORE,
    (b"x-accel-buffering", b"no"),  # nginx would gather events into larger pieces
)


def event_name(before: Seen | None, now: Seen) -> str:
    """`mint` when only units changed; else the payment's status."""
    if before is None or before.payment.status is not PaymentStatus.COMPLETED:
        return now.payment.status
    return MINT if now.payment.status is PaymentStatus.COMPLETED else now.payment.status


def event(name: str, now: Seen) -> bytes:
    """One event on the wire; the document is one line of JSON."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (now.tag.encode(), name.encode(), now.body)


class Events:
    """`GET /api/payment/{id}/events`, as an ASGI application: a stream has no response object."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the last event, the client's end or ours. Raises refusals before the stream begins only."""
        request = Request(scope)
        with self._runtime.waiting.watch(id_in_path(request, "a payment's")) as waiter, waiter.until_hung_up(receive):
            now = await waiter.first()
            if now is None:
                raise NotFound(NO_PAYMENT)
            last_id = request.headers.get("last-event-id", "")
            if now.is_last and now.tag == last_id:
                # What an EventSource takes for: do not come again.
                await Response(status_code=204)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            if request.method != "HEAD":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STREAM_S_MAX):
                        await _stream(waiter, now, send, last_id=last_id)
            await send({"type": "http.response.body", "body": b""})


async def _stream(waiter: Waiter, now: Seen, send: Send, *, last_id: str) -> None:
    text = b"retry: %d\n\n" % RECONNECT_MS
    before = now if now.tag == last_id else None
    while True:
        if before is None or now.tag != before.tag:
            text += event(event_name(before, now), now)
        if now.is_last:
            text += event(END, now)
        if text:
            await send({"type": "http.response.body", "body": text, "more_body": True})
        if now.is_last or waiter.is_over:
            return
        before, text = now, b""
        if not await waiter.news(within_s=KEEP_ALIVE_S):
            text = b":\n\n"
        now = waiter.seen or now
