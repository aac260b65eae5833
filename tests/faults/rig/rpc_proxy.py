"""An RPC endpoint between payfirst and a real node, with a fault that can be changed while it runs.

    async with rpc_proxy(chain.url, drops) as proxy:      # nothing goes through
        ...
        proxy.fault = only("eth_sendRawTransaction", loses_reply)
        proxy.fault = honest

A fault is a function of what was asked and of the way on. What a node may say wrongly is in `rpc_lies`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from .boundary import Boundary, Cut

SECRET = "s3cr3tkey"
REORDER_S = 0.3

Call = dict[str, Any]
# One JSON-RPC answer for each call, in their order.
Answers = list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """One HTTP request: a JSON-RPC message or a batch of them."""

    calls: list[Call]
    is_batch: bool

    @property
    def methods(self) -> list[str]:
        """The methods that it calls."""
        return [call["method"] for call in self.calls]


Forward = Callable[[Asked], Awaitable[web.Response]]
Fault = Callable[[Asked, Forward], Awaitable[web.Response]]


# ---- faults of the transport ---------------------------------------------------------------------------


async def honest(asked: Asked, forward: Forward) -> web.Response:
    """The node's own answer."""
    return await forward(asked)


async def drops(_asked: Asked, _forward: Forward) -> web.Response:
    """The request is lost, and the connection with it."""
    raise Cut


async def loses_reply(asked: Asked, forward: Forward) -> web.Response:
    """The node has done what was asked; nobody hears of it."""
    await forward(asked)
    raise Cut


async def garbage(_asked: Asked, _forward: Forward) -> web.Response:
    """A page of a gateway with status 200."""
    return web.Response(text="<html>one moment please</html>", content_type="text/html")


async def duplicates(asked: Asked, forward: Forward) -> web.Response:
    """The node is asked twice; the second answer is given."""
    await forward(asked)
    return await forward(asked)


def delays(seconds: float) -> Fault:
    """The request takes its time."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        await asyncio.sleep(seconds)
        return await forward(asked)

    return fault


def reorders() -> Fault:
    """Every other request is held back until the one after it was answered (or REORDER_S, if none comes)."""
    held: list[asyncio.Event] = []

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        if held:
            overtaken = held.pop()
            answer = await forward(asked)
            overtaken.set()
            return answer
        mine = asyncio.Event()
        held.append(mine)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(mine.wait(), REORDER_S)
        if mine in held:
            held.remove(mine)
        return await forward(asked)

    return fault


def status(code: int, **headers: str) -> Fault:
    """Everything is answered with an HTTP status: `status(429, Retry_After="1")`."""

    async def fault(_asked: Asked, _forward: Forward) -> web.Response:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def refuses(method: str, code: int, message: str) -> Fault:
    """A request that calls `method` is answered with a JSON-RPC error."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        if method not in asked.methods:
            return await forward(asked)
        return respond(asked, [{"error": {"code": code, "message": message}} for _ in asked.calls])

    return fault


# ---- when a fault acts ---------------------------------------------------------------------------------


def only(method: str, fault: Fault) -> Fault:
    """The fault, for requests that call `method`."""

    async def chosen(asked: Asked, forward: Forward) -> web.Response:
        return await (fault if method in asked.methods else honest)(asked, forward)

    return chosen


def times(count: int, fault: Fault, *, method: str) -> Fault:
    """The fault, for the first `count` requests that call `method`."""
    left = count

    async def chosen(asked: Asked, forward: Forward) -> web.Response:
        nonlocal left
        if method not in asked.methods or left == 0:
            return await forward(asked)
        left -= 1
        return await fault(asked, forward)

    return chosen


# ---- answers -------------------------------------------------------------------------------------------


def answers_in(response: web.Response) -> Answers:
    """What a forwarded answer says, one for each call."""
    assert isinstance(response.body, bytes)
    decoded = msgspec.json.decode(response.body)
    return decoded if isinstance(decoded, list) else [decoded]


def respond(asked: Asked, answers: Answers) -> web.Response:
    """An answer of our own: one `result` or `error` for each call."""
    framed = [{"jsonrpc": "2.0", **a, "id": c["id"]} for c, a in zip(asked.calls, answers, strict=True)]
    body = msgspec.json.encode(framed if asked.is_batch else framed[0])
    return web.Response(body=body, content_type="application/json")


# ---- the proxy -----------------------------------------------------------------------------------------


@dataclass
class RpcProxy:
    """What it does to requests is `fault`; a `boundary` acts once at one of them; `seen` is one list a request."""

    target: str
    fault: Fault = honest
    boundary: Boundary | None = None
    url: str = ""
    seen: list[list[str]] = field(default_factory=list)
    _session: aiohttp.ClientSession | None = None

    def methods(self) -> list[str]:
        """Every method that was called, in order."""
        return [method for request in self.seen for method in request]

    async def _forward(self, asked: Asked) -> web.Response:
        assert self._session is not None
        body = msgspec.json.encode(asked.calls if asked.is_batch else asked.calls[0])
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(self.target, data=body, headers=headers) as answer:
                return web.Response(body=await answer.read(), content_type="application/json")
        except aiohttp.ClientError:
            raise Cut from None  # the node is not there

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One HTTP request."""
        decoded = msgspec.json.decode(await request.read())
        asked = Asked(decoded if isinstance(decoded, list) else [decoded], isinstance(decoded, list))
        self.seen.append(asked.methods)
        boundary, label = self.boundary, " ".join(_spoken(call) for call in asked.calls)
        reached = boundary is not None and boundary.is_reached_by(label)
        try:
            if boundary is not None and reached and boundary.moment == "before":
                await boundary.act()
            answer = await self.fault(asked, self._forward)
            if boundary is not None and reached and boundary.moment == "after":
                await boundary.act()
            return answer
        except Cut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)


def _spoken(call: Call) -> str:
    """The method, and the tag that tells a look at the head from others."""
    return f"{call['method']} latest" if "latest" in call["params"] else str(call["method"])


@contextlib.asynccontextmanager
async def rpc_proxy(target: str, fault: Fault = honest) -> AsyncIterator[RpcProxy]:
    """A proxy in front of `target`, on a free port, with a key in its URL as providers have it."""
    proxy = RpcProxy(target, fault)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post(f"/{SECRET}", proxy.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    proxy.url = f"http://{host}:{port}/{SECRET}"
    async with aiohttp.ClientSession() as proxy._session:
        try:
            yield proxy
        finally:
            await runner.cleanup()
