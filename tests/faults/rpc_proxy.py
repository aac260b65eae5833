"""An RPC endpoint between a worker and the chain, which can do harm at any message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import msgspec
from aiohttp import web

# Called with the method's name; before the message is forwarded, or after and before its answer is given.
Act = Callable[[str], Awaitable[None]]


class Swallow(Exception):
    """Raised by a `before` act: the message is not forwarded, and the caller's connection is cut."""


async def nothing(_method: str) -> None:
    """Do no harm."""


@dataclass
class RpcProxy:
    """A proxy that forwards everything, but for what `before` and `after` do."""

    target: str
    before: Act = nothing
    after: Act = nothing
    url: str = ""
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One JSON-RPC message or batch."""
        body = await request.read()
        decoded = msgspec.json.decode(body)
        methods = [call["method"] for call in (decoded if isinstance(decoded, list) else [decoded])]
        self.seen += methods
        try:
            for method in methods:
                await self.before(method)
        except Swallow:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.target, data=body, headers={"content-type": "application/json"}) as answer,
        ):
            raw = await answer.read()
        for method in methods:
            await self.after(method)
        return web.Response(body=raw, content_type="application/json")


@contextlib.asynccontextmanager
async def rpc_proxy(target: str) -> AsyncIterator[RpcProxy]:
    """A proxy in front of `target`, on a free port."""
    proxy = RpcProxy(target)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/", proxy.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        await runner.cleanup()
