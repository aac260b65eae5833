"""The ASGI application: the mint route bare in front, Starlette behind it, and the lifespan of both."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payfirst.api import examples, health, payments, problems, reference, tokens
from payfirst.api.headers import ResponseHeaders
from payfirst.api.mint import MintRoute
from payfirst.api.mint_request import PREFIX
from payfirst.api.respond import response
from payfirst.api.runtime import Runtime
from payfirst.config import Config
from payfirst.errors import PayerError, RetriedError
from payfirst.ops import metrics
from payfirst.x402.eip712 import Asset

OTHER_ROUTE = "other"


def create_app(config: Config) -> ASGIApp:
    """The application of one process. It starts with its lifespan.

    Raises OperatorError when the configured names cannot be put into an offer.
    """
    runtime = Runtime(config)
    asset = Asset(
        network=config.network.network,
        address=config.asset.address_bytes,
        name=config.asset.name,
        version=config.asset.version,
        decimals=config.asset.decimals,
    )
    headers = ResponseHeaders(
        base_url=config.server.base_url,
        cors_origins=config.server.cors_origins,
        page_policies=reference.POLICIES,
    )
    mint_route = MintRoute(runtime, asset)
    others = _other_routes(runtime, mint_route)
    # By endpoint, because that is what Starlette leaves in a scope; another path is nobody's, and counted as such.
    paths: dict[object, str] = {r.endpoint: r.path for r in others.routes if isinstance(r, Route)}
    return Front(runtime, headers, mint_route, others, paths)


class Front:
    """Sends each request to its route. Whatever fails below is logged here, and answered without internals."""

    def __init__(
        self,
        runtime: Runtime,
        headers: ResponseHeaders,
        mint_route: MintRoute,
        others: ASGIApp,
        paths: Mapping[object, str],
    ) -> None:
        self._runtime = runtime
        self._headers = headers
        self._mint = mint_route
        self._others = others
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3: http and lifespan."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        runtime = self._runtime
        added = self._headers.of(scope["path"], scope["headers"])
        status = 0
        route = OTHER_ROUTE

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        runtime.enter()
        try:
            preflight = self._headers.preflight(scope["method"], scope["headers"])
            if preflight is not None:
                await problems.send_answer(watched_send, preflight)
            elif scope["path"].startswith(PREFIX):
                route = metrics.MINT_ROUTE
                answer = await self._mint.answer(scope, receive)
                status = answer.status
                await problems.send_answer(send, answer, added)
                self._mint.count(answer, seconds=time.perf_counter() - started)
            else:
                await self._others(scope, receive, watched_send)
                route = self._paths.get(scope.get("endpoint"), OTHER_ROUTE)
        except Exception as error:
            runtime.log.exception(
                "request_failed",
                message=f"A request failed: {type(error).__name__}",
                method=scope["method"],
                path=scope["path"],
            )
            if not status:
                await problems.send_answer(watched_send, problems.internal_error())
        finally:
            runtime.leave()
            if status:  # else the client went before there was an answer
                metrics.HTTP_REQUESTS.add(route, status)
                metrics.HTTP_SECONDS.observe(time.perf_counter() - started, route)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._runtime.start()
                    self._runtime.monitor.start()  # what start-up holds up holds up nobody
                except Exception as error:
                    # Said in so many words: a server may take silence for an application without a lifespan.
                    self._runtime.log.exception("start_failed", message="The API could not start")
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._runtime.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _other_routes(runtime: Runtime, mint_route: MintRoute) -> Starlette:
    example = mint_route.requirements_for(
        examples.TOKEN, examples.PRICE, "1 × EXT, minted once the payment is confirmed"
    )
    # The handlers are coroutines because Starlette runs plain functions in threads.
    app = Starlette(
        routes=[
            *payments.routes(runtime),
            *tokens.routes(runtime),
            *health.routes(runtime),
            *reference.routes(example, base_url=runtime.config.server.base_url),
        ],
        exception_handlers={
            HTTPException: _http_error,
            PayerError: _refused,
            RetriedError: _refused,
            Exception: _failed,  # Starlette raises it again, and Front logs it
        },
    )
    app.router.redirect_slashes = False
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an unknown path, or a method that a path does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for that class
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        methods = ", ".join(sorted(method.strip() for method in allowed.split(",")))
        return response(problems.method_not_allowed(request.method, methods))
    if error.status_code == 404:
        return response(
            problems.problem(404, "not_found", "There is nothing at this path: GET /openapi.json lists what there is.")
        )
    return response(problems.problem(error.status_code, "invalid_request", error.detail))


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PayerError | RetriedError)  # noqa: S101 - it is registered for those classes
    return response(problems.refusal(error))


async def _failed(_request: Request, _error: Exception) -> Response:
    return response(problems.internal_error())
