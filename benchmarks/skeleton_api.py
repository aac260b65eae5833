"""The skeleton's API: decode, verify, one shared commit, 202. Any other request than a POST is answered with 200."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import uuid
from typing import Literal

from starlette.types import Receive, Scope, Send

from benchmarks.load import BODY
from payfirst.api.mint_request import token_in_path
from payfirst.api.problems import JSON, Answer, send_answer
from payfirst.api.server import BACKLOG, serve
from payfirst.cli import processes
from payfirst.config import Config, load
from payfirst.errors import PayerError
from payfirst.local.demo.accounts import PRICE
from payfirst.local.demo.stage import asset_of
from payfirst.ops.event_loop import new_event_loop
from payfirst.store import database, payments
from payfirst.store.database import Pool
from payfirst.store.ids import Ids
from payfirst.store.payments import NewPayment
from payfirst.units import UnixTime
from payfirst.x402.payload import PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.verify import verify

BATCH_MAX = 256


class Skeleton:
    """A bare ASGI application."""

    def __init__(self, config: Config, database_url: str) -> None:
        self._url = database_url
        self._asset = asset_of(config)
        self._pay_to = config.payments.pay_to_bytes
        self._terms = PaymentRequirements(
            asset=self._asset,
            pay_to=self._pay_to,
            amount=PRICE,
            max_timeout_s=900,
            resource=config.server.base_url,
            description="",
        )
        self._status_url = f"{config.server.base_url}/api/payment/"
        self._ids = Ids()
        self._pool: Pool | None = None
        self._some_wait = asyncio.Event()
        self._waiting: list[tuple[NewPayment, asyncio.Future[None]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] == "lifespan":
            await receive()
            self._tasks.append(asyncio.create_task(self._write()))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        if scope["method"] != "POST":
            await send_answer(send, Answer(200, (), b""))
            return
        if (await receive())["body"] != BODY:
            await send_answer(send, Answer(400, (), b""))
            return
        headers = dict(scope["headers"])
        raw = headers.get(b"payment-signature")
        version: Literal[1, 2] = 1 if raw is None else 2
        try:
            payload = PaymentPayload.from_header(raw or headers[b"x-payment"], version=version)
            verify(payload, self._terms, now=UnixTime(int(time.time())))
        except PayerError as error:
            await send_answer(send, Answer(402, (JSON,), str(error).encode()))
            return
        paid = payload.authorization
        payment = NewPayment(
            id=self._ids.draw(),
            token=token_in_path(scope["path"]),
            quantity=1,
            recipient=paid.payer,
            payer=paid.payer,
            amount=paid.value,
            nonce=paid.nonce,
            valid_after=paid.valid_after,
            valid_before=paid.valid_before,
            signature=payload.signature,
        )
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((payment, stored))
        self._some_wait.set()
        await stored
        url = f"{self._status_url}{payment.id}"
        await send_answer(send, Answer(202, (JSON, (b"location", url.encode())), _accepted(payment.id, url)))

    async def _write(self) -> None:
        pool = self._pool = await database.connect(self._url, name="skeleton", size=2)
        while True:
            await self._some_wait.wait()
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if not self._waiting:
                self._some_wait.clear()
            async with database.session(pool, "store payments") as connection:
                created = await payments.insert(
                    connection,
                    network=self._asset.network.caip2,
                    asset=self._asset.address,
                    pay_to=self._pay_to,
                    payments=[payment for payment, _ in batch],
                )
            for payment, stored in batch:
                if payment.id in created:
                    stored.set_result(None)
                else:
                    stored.set_exception(ValueError("this authorization was used before"))


def _accepted(payment_id: uuid.UUID, url: str) -> bytes:
    return b'{"paymentQueueId":"%b","quantity":1,"status":"payment_pending","statusUrl":"%b"}' % (
        str(payment_id).encode(),
        url.encode(),
    )


def _serve(listener: socket.socket) -> int:
    config = load(role="api")

    async def until_stopped() -> bool:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await serve(Skeleton(config, config.database.url), listener, stop=stop, connections_max=2 * BACKLOG)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # as payfirst does
        return 0 if runner.run(until_stopped()) else 1


def main() -> None:
    """Serve until SIGTERM."""
    server = load(role="api").server
    listeners = processes.listen(server.host, server.port, count=server.processes, backlog=BACKLOG)
    processes.supervise(listeners, _serve)
