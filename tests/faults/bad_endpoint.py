"""An RPC endpoint in front of a real node that may answer for itself: with an HTTP status, or an error of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

SECRET = "s3cr3tkey"

# What the endpoint makes of the calls of one HTTP request; None: the node answers.
Answer = Callable[[Sequence[dict[str, Any]], bool], Awaitable[web.Response | None]]


async def honest(_calls: Sequence[dict[str, Any]], _is_batch: bool) -> web.Response | None:
    """Let the node answer."""
    return None


def status(code: int, **headers: str) -> Answer:
    """Answer everything with an HTTP status."""

    async def answer(_calls: Sequence[dict[str, Any]], _is_batch: bool) -> web.Response | None:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def refuse(method: str, code: int, message: str) -> Answer:
    """Answer one method with a JSON-RPC error."""

    async def answer(calls: Sequence[dict[str, Any]], is_batch: bool) -> web.Response | None:
        if all(call["method"] != method for call in calls):
            return None
        errors = [{"jsonrpc": "2.0", "id": c["id"], "error": {"code": code, "message": message}} for c in calls]
        return web.json_response(errors if is_batch else errors[0])

    return answer


@dataclass
class BadEndpoint:
    """What it answers is `answer`'s to say; what it was asked is in `seen`, one list a request."""

    target: str
    answer: Answer = honest
    url: str = ""
    seen: list[list[str]] = field(default_factory=list)

    def methods(self) -> list[str]:
        """Every method that was asked for, in order."""
        return [method for request in self.seen for method in request]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One JSON-RPC message or batch."""
        body = await request.read()
        decoded = msgspec.json.decode(body)
        calls = decoded if isinstance(decoded, list) else [decoded]
        self.seen.append([call["method"] for call in calls])
        own = await self.answer(calls, isinstance(decoded, list))
        if own is not None:
            return own
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.target, data=body, headers={"content-type": "application/json"}) as answer,
        ):
            return web.Response(body=await answer.read(), content_type="application/json")


@contextlib.asynccontextmanager
async def bad_endpoint(target: str, answer: Answer = honest) -> AsyncIterator[BadEndpoint]:
    """An endpoint in front of `target`, on a free port, with a key in its URL."""
    endpoint = BadEndpoint(target, answer)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post(f"/{SECRET}", endpoint.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    endpoint.url = f"http://{host}:{port}/{SECRET}"
    try:
        yield endpoint
    finally:
        await runner.cleanup()
