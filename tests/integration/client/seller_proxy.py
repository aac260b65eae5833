"""What may stand between a buyer and a seller: it forwards everything, but for what a test has it do to a payment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

PAYMENT_HEADER = "PAYMENT-SIGNATURE"
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date"}

Forward = Callable[[], Awaitable[web.Response]]


class Cut(Exception):
    """Raised by an act: the buyer's connection ends without an answer."""


# Handles one request that carries a payment: the number of the try, from 1, and how to have the seller's answer.
Act = Callable[[int, Forward], Awaitable[web.Response]]


async def honestly(_number: int, forward: Forward) -> web.Response:
    """Do no harm."""
    return await forward()


@dataclass
class SellerProxy:
    """A proxy in front of `target`."""

    target: str
    act: Act = honestly
    url: str = ""
    payments: list[str] = field(default_factory=list)  # the payment headers, in the order in which they came
    asked: list[str] = field(default_factory=list)  # method and path of each request

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        body = await request.read()
        self.asked.append(f"{request.method} {request.path}")

        async def forward() -> web.Response:
            headers = {name: v for name, v in request.headers.items() if name.lower() not in (*HOP_HEADERS, "host")}
            async with (
                aiohttp.ClientSession() as session,
                session.request(
                    request.method, f"{self.target}{request.path_qs}", data=body, headers=headers
                ) as answer,
            ):
                kept = {name: v for name, v in answer.headers.items() if name.lower() not in HOP_HEADERS}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        if PAYMENT_HEADER not in request.headers:
            return await forward()
        self.payments.append(request.headers[PAYMENT_HEADER])
        try:
            return await self.act(len(self.payments), forward)
        except Cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)


@contextlib.asynccontextmanager
async def seller_proxy(target: str, act: Act = honestly) -> AsyncIterator[SellerProxy]:
    """A proxy in front of `target`, on a free port."""
    proxy = SellerProxy(target, act)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        await runner.cleanup()
