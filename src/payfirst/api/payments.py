"""What became of a payment or of one unit, and how both queues fare."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payfirst.api.documents import payment_document, queue_document, stats_document
from payfirst.api.problems import MalformedRequest, NotFound
from payfirst.api.respond import document
from payfirst.api.runtime import Runtime
from payfirst.errors import StoreUnavailable
from payfirst.store import payments, queue_stats
from payfirst.store.queue_stats import Queue

STATS_AGE_S_MAX = 1.0

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ENCODER = msgspec.json.Encoder()


class Stats:
    """The stats of one queue, read at most once a second however many ask; a failure is kept as long."""

    def __init__(self, runtime: Runtime, queue: Queue) -> None:
        self._runtime = runtime
        self._queue: Queue = queue
        self._reading = asyncio.Lock()
        self._read_at = -STATS_AGE_S_MAX
        self._outcome: bytes | StoreUnavailable = b""

    async def read(self) -> bytes:
        """The document. Raises Starting or StoreUnavailable."""
        async with self._reading:
            if time.monotonic() - self._read_at >= STATS_AGE_S_MAX:
                self._outcome = await self._read()
                self._read_at = time.monotonic()
        if isinstance(self._outcome, StoreUnavailable):
            raise StoreUnavailable(str(self._outcome))
        return self._outcome

    async def _read(self) -> bytes | StoreUnavailable:
        try:
            async with self._runtime.reading("count the queue") as connection:
                stats = await queue_stats.read(connection, self._queue)
        except StoreUnavailable as error:
            return error
        return _ENCODER.encode(stats_document(self._queue, stats))


def routes(runtime: Runtime) -> list[Route]:
    """Payments, their units, and the stats of both queues."""
    payment_stats = Stats(runtime, "payment_queue")
    mint_stats = Stats(runtime, "mint_queue")

    async def show_payment(request: Request) -> Response:
        payment_id = _id_in_path(request, "a payment's")
        async with runtime.reading("show a payment") as connection:
            payment = await payments.show(connection, payment_id)
        if payment is None:
            raise NotFound("There is no payment with this id: use the paymentQueueId of a 202.")
        return document(payment_document(payment))

    async def show_unit(request: Request) -> Response:
        queue_id = _id_in_path(request, "a unit's")
        async with runtime.reading("show a unit") as connection:
            payment_id = await payments.payment_of_mint(connection, queue_id)
            payment = None if payment_id is None else await payments.show(connection, payment_id)
        mint = next((m for m in payment.mints if m.queue_id == queue_id), None) if payment else None
        if payment is None or mint is None:
            raise NotFound(
                "There is no unit with this queue id: use one of the payment's queueIds, there once it is completed."
            )
        return document(queue_document(payment, mint))

    async def show_payment_stats(_request: Request) -> Response:
        return document(await payment_stats.read())

    async def show_mint_stats(_request: Request) -> Response:
        return document(await mint_stats.read())

    return [
        Route("/api/payment/stats", show_payment_stats),
        Route("/api/queue/stats", show_mint_stats),
        Route("/api/payment/{id}", show_payment),
        Route("/api/queue/{id}", show_unit),
    ]


def _id_in_path(request: Request, whose: str) -> uuid.UUID:
    text = str(request.path_params["id"])
    if not _UUID.fullmatch(text):
        raise MalformedRequest(f"The path ends in {whose} id, a UUID of 8-4-4-4-12 hex digits.")
    return uuid.UUID(text)
