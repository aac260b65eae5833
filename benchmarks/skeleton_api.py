"""The skeleton's API: decode, verify, one shared commit, 202. Any other request than a POST is answered with 200."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
import uuid
from typing import Any, Literal

from granian.constants import HTTPModes, Interfaces, Loops, TaskImpl
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from benchmarks.load import BODY
from payfirst.api.mint_request import token_in_path
from payfirst.config import Config, load
from payfirst.local.demo.accounts import PRICE
from payfirst.local.demo.stage import asset_of
from payfirst.store import database, payments
from payfirst.store.database import Pool
from payfirst.store.payments import NewPayment
from payfirst.units import UnixTime, uuid7
from payfirst.x402.payload import PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.verify import verify

BATCH_MAX = 256


class Skeleton:
    """An RSGI application: one call from the server for a request, one back for its answer."""

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
        self._pool: Pool | None = None
        self._some_wait = asyncio.Event()
        self._waiting: list[tuple[NewPayment, asyncio.Future[None]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called before the first request."""
        self._tasks.append(loop.create_task(self._write()))

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """One request."""
        if scope.method != "POST":
            protocol.response_empty(200, [])
            return
        if await protocol() != BODY:
            protocol.response_empty(400, [])
            return
        raw = scope.headers.get("payment-signature")
        version: Literal[1, 2] = 1 if raw is None else 2
        payload = PaymentPayload.from_header((raw or scope.headers.get("x-payment")).encode(), version=version)
        verify(payload, self._terms, now=UnixTime(int(time.time())))
        paid = payload.authorization
        payment = NewPayment(
            id=uuid7(now_ms=time.time_ns() // 1_000_000, random_bits=int.from_bytes(os.urandom(10))),
            token=token_in_path(scope.path),
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
        protocol.response_bytes(
            202, [("content-type", "application/json"), ("location", url)], _accepted(payment.id, url)
        )

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


def _application(*_: object) -> Any:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = load(role="api")
    return Skeleton(config, config.database.url)


def main() -> None:
    """Serve until SIGTERM."""
    server = load(role="api").server
    loop = Loops.uvloop if importlib.util.find_spec("uvloop") else Loops.asyncio  # as payfirst does
    MPServer(
        "skeleton", address=server.host, port=server.port, interface=Interfaces.RSGI, workers=server.processes,
        http=HTTPModes.http1, http1_settings=HTTP1Settings(max_buffer_size=65_536), websockets=False,
        loop=loop, task_impl=TaskImpl.asyncio, runtime_threads=1, backlog=4_096, backpressure=4_096,
        log_level=LogLevels.warning, log_access=False,
    ).serve(target_loader=_application, wrap_loader=False)  # fmt: skip
