"""One call, asked of one endpoint after the other until one can answer it. Knows HTTP and JSON-RPC, and no method.

What one endpoint cannot answer is asked of the next; what the chain itself says (a revert, a verdict on a
transaction) is the answer.
"""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from payfirst.chain import rpc_wire as wires
from payfirst.chain.endpoints import PROBE_S, Endpoint, Endpoints, retry_after_s
from payfirst.chain.rpc_errors import Blame, RpcRefused, RpcUnavailable, blame
from payfirst.ops import metrics
from payfirst.ops.log import get_logger
from payfirst.units import BlockNumber

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
HEADS_COMPARED_S = 5.0

T = TypeVar("T")

log = get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a batch."""

    method: str
    params: tuple[object, ...]


class _Failed(Exception):
    """The endpoint did not answer in a form that can be used."""


class _Misplaced(Exception):
    """The endpoint serves another chain."""


class _Limited(Exception):
    """The endpoint wants to be left alone, for `seconds` if it says how long."""

    def __init__(self, reason: str, *, seconds: float | None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _BatchRefused(Exception):
    """The endpoint does not take so many calls at once."""


_ANSWER = msgspec.json.Decoder(wires.Answer)
_ANSWERS = msgspec.json.Decoder(list[wires.Answer])
_ENCODER = msgspec.json.Encoder()


class Failover:
    """The endpoints of one chain behind one `ask`. `open` and `close` frame its use."""

    def __init__(self, urls: Sequence[str], *, chain_id: int | None, timeout_s: float, lag_blocks_max: int) -> None:
        self._endpoints = Endpoints(urls, clock=self._now)
        self._chain_id = chain_id
        self._timeout_s = timeout_s
        self._lag_blocks_max = lag_blocks_max
        self._session: aiohttp.ClientSession | None = None
        self._comparing: asyncio.Task[None] | None = None
        self._compared_at = float("-inf")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def open(self) -> None:
        """Begin; one HTTP session from here to `close`."""
        self._session = aiohttp.ClientSession()

    def each(self) -> list[tuple[Endpoint, Failover]]:
        """The endpoints that may be asked now, the best first, each by itself in the same session."""
        found: list[tuple[Endpoint, Failover]] = []
        for endpoint in self._endpoints.usable():
            alone = copy.copy(self)
            alone._endpoints, alone._comparing = self._endpoints.only(endpoint), None
            if endpoint.rests_until > self._now():
                alone._timeout_s = PROBE_S  # it failed just now: it is not waited for long
            found.append((endpoint, alone))
        return found

    @property
    def origins(self) -> int:
        """How many different hosts there are."""
        return len({endpoint.origin for endpoint in self._endpoints.all})

    async def close(self) -> None:
        """End; what is under way is cancelled."""
        if self._comparing is not None:
            self._comparing.cancel()
            await asyncio.wait([self._comparing])
            self._comparing = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        calls: Sequence[Call],
        *,
        result: type[T],
        is_enough: Callable[[list[T]], bool] | None = None,
    ) -> list[T]:
        """The answers of one endpoint to all of `calls`: of the first whose answers are enough, else of the first.

        Raises RpcRefused when the chain refuses, or when every endpoint does; RpcUnavailable when none answers.
        """
        until = self._now() + self._timeout_s
        tried: set[Endpoint] = set()
        troubles: dict[int, str] = {}
        refusal: RpcRefused | None = None
        poor: list[T] | None = None
        while (endpoint := await self._endpoints.next(tried, until=until)) is not None:
            try:
                taken = await self._of(endpoint, calls, result)
            except _Limited as limited:
                # Not `tried`: when its rest is over soon, it is asked once more.
                endpoint.limited(str(limited), now=self._now(), seconds=limited.seconds)
                troubles[endpoint.number] = f"{endpoint.label}: {limited}"
                continue
            except _Failed as failed:
                endpoint.failed(str(failed), now=self._now())
                troubles[endpoint.number] = f"{endpoint.label}: {failed}"
            except _Misplaced as misplaced:
                troubles[endpoint.number] = f"{endpoint.label}: {misplaced}"
            except RpcRefused as refused:
                if blame(refused) is Blame.CALL:
                    raise
                metrics.RPC_ERRORS.add(*endpoint.names, "refused")
                refusal = refusal or refused
            else:
                endpoint.answered()
                if is_enough is None or is_enough(taken):
                    return taken
                poor = poor or taken
            tried.add(endpoint)
        if poor is not None:
            return poor
        if refusal is not None:
            raise refusal
        raise RpcUnavailable(f"RPC: no endpoint answered ({'; '.join(troubles.values()) or self._resting()})")

    def _resting(self) -> str:
        return "; ".join(f"{e.label} is {e.state}" for e in self._endpoints.all)

    async def _of(self, endpoint: Endpoint, calls: Sequence[Call], result: type[T]) -> list[T]:
        """What one endpoint answers. Raises _Failed, _Limited, _Misplaced, or the first RpcRefused."""
        timeout_s = self._endpoints.probe_s(endpoint) or self._timeout_s
        if self._chain_id is not None and not endpoint.is_on_chain:
            found = await self._chain_of(endpoint, timeout_s=timeout_s)
            if found != self._chain_id:
                endpoint.misplaced(found=found, expected=self._chain_id, now=self._now())
                raise _Misplaced(f"serves chain {found} instead of {self._chain_id}")
            endpoint.is_on_chain = True
        answers = await self._answers(endpoint, calls, timeout_s=timeout_s)
        return [_take(call.method, answer, result) for call, answer in zip(calls, answers, strict=True)]

    async def _chain_of(self, endpoint: Endpoint, *, timeout_s: float) -> int:
        (answer,) = await self._answers(endpoint, [Call("eth_chainId", ())], timeout_s=timeout_s)
        return wires.number_of(_take("eth_chainId", answer, str))

    async def _answers(self, endpoint: Endpoint, calls: Sequence[Call], *, timeout_s: float) -> list[wires.Answer]:
        """The answers in the order of `calls`; a batch that is refused is halved, and the endpoint's limit kept."""
        size = min(len(calls), endpoint.calls_per_batch_max)
        while True:
            try:
                answers: list[wires.Answer] = []
                for start in range(0, len(calls), size):
                    answers += await self._request(endpoint, calls[start : start + size], timeout_s=timeout_s)
            except _BatchRefused:
                size = max(1, size // 2)
                continue
            if size < min(len(calls), endpoint.calls_per_batch_max):
                endpoint.calls_per_batch_max = size
                log.info(
                    "rpc_batch_limit",
                    message=f"RPC: {endpoint.label} takes {size} calls in a batch",
                    endpoint=endpoint.number,
                    size=size,
                )
            return answers

    async def _request(self, endpoint: Endpoint, calls: Sequence[Call], *, timeout_s: float) -> list[wires.Answer]:
        """One HTTP request. Raises _BatchRefused only for more than one call."""
        bodies = [{"jsonrpc": "2.0", "id": i, "method": c.method, "params": c.params} for i, c in enumerate(calls)]
        raw = await self._post(
            endpoint, bodies[0] if len(calls) == 1 else bodies, is_batch=len(calls) > 1, timeout_s=timeout_s
        )
        try:
            answers = [_ANSWER.decode(raw)] if len(calls) == 1 else _ANSWERS.decode(raw)
        except msgspec.MsgspecError as error:
            if len(calls) > 1 and raw.lstrip().startswith(b"{"):
                raise _BatchRefused from error  # one error object for all of it
            raise _Failed(f"its answer is no JSON-RPC: {error}") from error
        # One call has one answer, under whatever id.
        by_id = {0: answers[0]} if len(calls) == 1 else {answer.id: answer for answer in answers}
        for i, call in enumerate(calls):
            if i not in by_id:
                raise _Failed(f"{call.method} was left out of its answer to a batch")
        found = [by_id[i] for i in range(len(calls))]
        for answer in found:
            if answer.error is not None:
                answer.error.message = endpoint.without_secrets(answer.error.message)
        self._judge(calls, found)
        return found

    @staticmethod
    def _judge(calls: Sequence[Call], answers: Sequence[wires.Answer]) -> None:
        """Raise what an answer's error says of the endpoint rather than of its call."""
        for call, answer in zip(calls, answers, strict=True):
            if answer.error is None:
                continue
            refused = _refused(call.method, answer.error)
            if len(calls) > 1 and "batch" in refused.message.lower():
                raise _BatchRefused from refused
            match blame(refused):
                case Blame.LIMIT:
                    raise _Limited(str(refused), seconds=None) from refused
                case Blame.BROKEN:
                    raise _Failed(str(refused)) from refused

    async def _post(self, endpoint: Endpoint, body: object, *, is_batch: bool, timeout_s: float) -> bytes:
        if self._session is None:
            raise RuntimeError("the RPC client is used outside its context")
        started = self._now()
        try:
            async with self._session.post(
                endpoint.url,
                data=_ENCODER.encode(body),
                headers={"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                raw = await response.content.read(RESPONSE_BYTES_MAX + 1)
                while not response.content.at_eof() and len(raw) <= RESPONSE_BYTES_MAX:
                    raw += await response.content.read(RESPONSE_BYTES_MAX + 1 - len(raw))
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The error's own text may hold the URL, and that a key.
            raise _Failed(type(error).__name__) from None
        finally:
            metrics.RPC_SECONDS.observe(self._now() - started, *endpoint.names)
        if status == 200:
            if len(raw) > RESPONSE_BYTES_MAX:
                raise _Failed(f"its answer is longer than {RESPONSE_BYTES_MAX} bytes")
            return raw
        seconds = retry_after_s(retry_after, now=dt.datetime.now(dt.UTC))
        if status == 429 or (status == 503 and seconds is not None):
            raise _Limited(f"HTTP {status}", seconds=seconds)
        if is_batch and (status == 413 or (status in (400, 500) and raw.lstrip().startswith(b"{"))):
            raise _BatchRefused
        raise _Failed(f"HTTP {status}")

    # ---- what the endpoints are --------------------------------------------------------------------

    async def chains(self) -> list[int | None]:
        """The chain id that each endpoint serves, in the configured order; None where it does not say."""
        asked = (self._chain_or_none(endpoint, timeout_s=self._timeout_s) for endpoint in self._endpoints.all)
        return list(await asyncio.gather(*asked))

    async def _chain_or_none(self, endpoint: Endpoint, *, timeout_s: float) -> int | None:
        try:
            found = await self._chain_of(endpoint, timeout_s=timeout_s)
        except (_Failed, _Limited, RpcRefused, RpcUnavailable):
            return None
        if self._chain_id is not None and found != self._chain_id:
            endpoint.misplaced(found=found, expected=self._chain_id, now=self._now())
        return found

    def compare_heads(self) -> None:
        """Every few seconds, and beside the calls: which endpoints lag behind the others."""
        if len(self._endpoints.all) == 1 or self._now() - self._compared_at < HEADS_COMPARED_S:
            return
        if self._comparing is None or self._comparing.done():
            self._compared_at = self._now()
            self._comparing = asyncio.create_task(self._look_at_heads())

    async def _look_at_heads(self) -> None:
        now = self._now()
        asked = [endpoint for endpoint in self._endpoints.usable() if endpoint.rests_until <= now]
        found = [
            (endpoint, height)
            for endpoint, height in zip(asked, await asyncio.gather(*map(self._height_of, asked)), strict=True)
            if height is not None
        ]
        best = max((height for _, height in found), default=BlockNumber(0))
        for endpoint, height in found:
            endpoint.seen_at(height, best=best, lag_blocks_max=self._lag_blocks_max)

    async def _height_of(self, endpoint: Endpoint) -> BlockNumber | None:
        if self._chain_id is not None and not endpoint.is_on_chain:
            if await self._chain_or_none(endpoint, timeout_s=PROBE_S) != self._chain_id:
                return None
            endpoint.is_on_chain = True
        try:
            (answer,) = await self._answers(endpoint, [Call("eth_blockNumber", ())], timeout_s=PROBE_S)
            height = BlockNumber(wires.number_of(_take("eth_blockNumber", answer, str)))
        except _Limited as limited:
            endpoint.limited(str(limited), now=self._now(), seconds=limited.seconds)
        except _Failed as failed:
            endpoint.failed(str(failed), now=self._now())
        except (RpcRefused, RpcUnavailable) as error:
            endpoint.failed(str(error), now=self._now())
        else:
            endpoint.answered()
            return height
        return None


def _take(method: str, answer: wires.Answer, result: type[T]) -> T:
    if answer.error is not None:
        raise _refused(method, answer.error)
    try:
        return msgspec.json.decode(answer.result, type=result)
    except msgspec.MsgspecError as error:
        raise _Failed(f"its answer to {method} cannot be read: {error}") from error


def _refused(method: str, error: wires.Error) -> RpcRefused:
    return RpcRefused(method=method, code=error.code, message=error.message, data=wires.revert_data(error.data))
