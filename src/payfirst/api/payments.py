"""What became of a payment or of one unit, and how both queues fare."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payfirst.api.conditions import is_known
from payfirst.api.conditions import wait_s as preferred_wait_s
from payfirst.api.documents import Seen, queue_document, seen, stats_document
from payfirst.api.events import Events
from payfirst.api.problems import NotFound
from payfirst.api.respond import NO_PAYMENT, authorization_in_query, document, id_in_path, tagged
from payfirst.api.runtime import Runtime
from payfirst.api.waiting import NoRoomToWait
from payfirst.errors import StoreUnavailable
from payfirst.store import payments, queue_stats
from payfirst.store.queue_stats import Queue

STATS_AGE_S = 1.0
# Rows of every status are counted, so the cost is that of the live tables: no more than a twentieth of a connection.
STATS_SHARE_MAX = 0.05
NO_SUCH_AUTHORIZATION = (
    "No payment with this payer and nonce was accepted here. If you sent it and know of no answer, send the same header"
    " again; do not sign a new one."
)

_ENCODER = msgspec.json.Encoder()


class Stats:
    """The stats of one queue, read at most once a second however many ask, and less often where counting takes long.

    A failure is kept as long.
    """

    def __init__(self, runtime: Runtime, queue: Queue) -> None:
        self._runtime = runtime
        self._queue: Queue = queue
        self._reading = asyncio.Lock()
        self._read_next_at = 0.0
        self._outcome: bytes | StoreUnavailable = b""

    async def read(self) -> bytes:
        """The document. Raises Starting or StoreUnavailable."""
        async with self._reading:
            if time.monotonic() >= self._read_next_at:
                self._outcome, counted_s = await self._read()
                self._read_next_at = time.monotonic() + max(STATS_AGE_S, counted_s / STATS_SHARE_MAX)
        if isinstance(self._outcome, StoreUnavailable):
            raise StoreUnavailable(str(self._outcome))
        return self._outcome

    async def _read(self) -> tuple[bytes | StoreUnavailable, float]:
        """The document or the failure, and how long a connection counted: to wait for one costs PostgreSQL nothing."""
        began: float | None = None
        try:
            async with self._runtime.reading("count the queue") as connection:
                began = time.monotonic()
                stats = await queue_stats.read(connection, self._queue)
                counted_s = time.monotonic() - began
        except StoreUnavailable as error:
            # A count that was cut off has cost what it took: begun again at once it would be all that PostgreSQL does.
            return error, 0.0 if began is None else time.monotonic() - began
        return _ENCODER.encode(stats_document(self._queue, stats)), counted_s


def routes(runtime: Runtime) -> list[Route]:
    """Payments, their units, and the stats of both queues."""
    payment_stats = Stats(runtime, "payment_queue")
    mint_stats = Stats(runtime, "mint_queue")

    async def show_payment(request: Request) -> Response:
        return await show(request, id_in_path(request, "a payment's"))

    async def find_payment(request: Request) -> Response:
        payer, nonce = authorization_in_query(request)
        async with runtime.reading("find a payment") as connection:
            payment_id = await payments.payment_of_authorization(
                connection,
                network=runtime.network,
                asset=runtime.config.asset.address_bytes,
                payer=payer,
                nonce=nonce,
            )
        if payment_id is None:
            raise NotFound(NO_SUCH_AUTHORIZATION)
        return await show(request, payment_id)

    async def show(request: Request, payment_id: uuid.UUID) -> Response:
        wait_s = preferred_wait_s(
            ", ".join(request.headers.getlist("prefer")), at_most=runtime.config.server.wait_s_max
        )
        if wait_s and request.method == "GET":
            with contextlib.suppress(NoRoomToWait):  # a preference: who finds no room is answered at once
                return await _show_changed(runtime, request, payment_id, wait_s)
        async with runtime.reading("show a payment") as connection:
            payment = await payments.show(connection, payment_id)
        if payment is None:
            raise NotFound(NO_PAYMENT)
        return tagged(seen(payment).body, request)

    async def show_unit(request: Request) -> Response:
        queue_id = id_in_path(request, "a unit's")
        async with runtime.reading("show a unit") as connection:
            payment_id = await payments.payment_of_mint(connection, queue_id)
            payment = None if payment_id is None else await payments.show(connection, payment_id)
        mint = next((m for m in payment.mints if m.queue_id == queue_id), None) if payment else None
        if payment is None or mint is None:
            raise NotFound(
                "There is no unit with this queue id: use one of the payment's queueIds, there once it is completed."
            )
        return tagged(_ENCODER.encode(queue_document(payment, mint)), request)

    async def show_payment_stats(_request: Request) -> Response:
        return document(await payment_stats.read())

    async def show_mint_stats(_request: Request) -> Response:
        return document(await mint_stats.read())

    return [
        Route("/api/payment", find_payment),
        Route("/api/payment/stats", show_payment_stats),
        Route("/api/queue/stats", show_mint_stats),
        Route("/api/payment/{id}", show_payment),
        Route("/api/payment/{id}/events", Events(runtime), methods=["GET"]),
        Route("/api/queue/{id}", show_unit),
    ]


async def _show_changed(runtime: Runtime, request: Request, payment_id: uuid.UUID, wait_s: int) -> Response:
    """The payment once it is not as the client has it, or at its last state: then nothing is to be waited for.

    Raises NoRoomToWait, NotFound or StoreUnavailable.
    """
    known = request.headers.get("if-none-match")

    def is_awaited(now: Seen) -> bool:
        return now.is_last or (known is not None and not is_known(now.tag, known))

    with runtime.waiting.watch(payment_id) as waiter, waiter.until_hung_up(request.receive):
        if await waiter.first() is None:
            raise NotFound(NO_PAYMENT)
        now = await waiter.until(is_awaited, within_s=wait_s)
        if now is None:
            raise NotFound(NO_PAYMENT)
        answer = tagged(now.body, request)
        if not waiter.is_over:
            answer.headers["preference-applied"] = f"wait={wait_s}"
        return answer
