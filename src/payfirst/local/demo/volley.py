"""The burst's client, a process of its own: `python -m payfirst.local.demo.volley`, started by `burst`.

It reads an order (one line of JSON), signs every payment, says `ready`, waits for a line, and then sends everything
over a fixed number of kept-alive connections, as little work a request as Python allows: what is measured is the
server, on the same two cores. Its last line is the result as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from payfirst.local.demo.accounts import people
from payfirst.local.demo.wallet import Terms, good_header
from payfirst.units import parse_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text

READY = "ready"
VOLLEY_S_MAX = 120.0
_BODY = b'{"quantity":1}'


class Order(msgspec.Struct):
    """What to send and where. Addresses are 0x text, the asset's name and version its EIP-712 domain."""

    host: str
    port: int
    path: str
    resource: str
    network: str
    asset: str
    asset_name: str
    asset_version: str
    asset_decimals: int
    pay_to: str
    payers: int
    payments: int
    connections: int


class Result(msgspec.Struct):
    """How it went: answers by status, and what the client saw of time."""

    statuses: dict[str, int]
    seconds: float
    latency_ms_p50: float
    latency_ms_p99: float


def requests(order: Order, *, now: int) -> list[bytes]:
    """Every request as it goes over the wire, signed; the payers take turns, and so do both header generations."""
    asset = Asset(
        network=network_from_text(order.network),
        address=parse_address(order.asset),
        name=order.asset_name,
        version=order.asset_version,
        decimals=order.asset_decimals,
    )
    terms = Terms(asset, parse_address(order.pay_to), order.resource, now)
    payers = people("burst payer", order.payers)
    made = []
    for number in range(order.payments):
        name, value = good_header(terms, payers[number % len(payers)], role="burst", number=number)
        head = (
            f"POST {order.path} HTTP/1.1\r\nhost: {order.host}:{order.port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(_BODY)}\r\n{name}: {value}\r\n\r\n"
        )
        made.append(head.encode("ascii") + _BODY)
    return made


class Connection(asyncio.Protocol):
    """One kept-alive connection: the next request goes out when the last one's answer is whole."""

    def __init__(self, left: Iterator[bytes], statuses: Counter[str], latencies: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = left
        self._statuses = statuses
        self._latencies = latencies
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection's is
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Part of an answer, or all of it."""
        self._answer += data
        length = answer_length(self._answer)
        if length is None or len(self._answer) < length:
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        self._statuses[self._answer[9:12].decode("ascii", "replace")] += 1
        self._answer = self._answer[length:]
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server hung up; if an answer was due, it counts as none."""
        if not self.done.done():
            self._statuses["none"] += 1
            self.done.set_result(None)

    def _next(self) -> None:
        assert self._transport is not None  # noqa: S101 - set when the connection was made
        request = next(self._left, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


def answer_length(answer: bytes) -> int | None:
    """How many bytes the answer at the beginning of `answer` has; None while its head is not whole.

    Raises ValueError on one without content-length: the API always sends it.
    """
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    for line in answer[:end].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return end + 4 + int(value)
    raise ValueError("an answer without content-length")


async def fire(order: Order, made: Sequence[bytes]) -> Result:
    """Send everything; returns when every request was answered or its connection lost. Raises TimeoutError."""
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    left = iter(made)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    async with asyncio.timeout(VOLLEY_S_MAX):
        connections = [
            (await loop.create_connection(lambda: Connection(left, statuses, latencies), order.host, order.port))[1]
            for _ in range(order.connections)
        ]
        await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - started
    in_order = sorted(latencies) or [0.0]
    return Result(
        statuses=dict(statuses),
        seconds=seconds,
        latency_ms_p50=1_000 * in_order[len(in_order) // 2],
        latency_ms_p99=1_000 * in_order[len(in_order) * 99 // 100],
    )


def main() -> None:
    """Order in, `ready` out, any line in, result out."""
    order = msgspec.json.decode(sys.stdin.readline().encode(), type=Order)
    made = requests(order, now=int(time.time()))
    # What is there lives until the end; the client's own pauses would look like the server's.
    gc.collect()
    gc.freeze()
    gc.disable()
    print(READY, flush=True)
    if sys.stdin.readline():
        print(msgspec.json.encode(asyncio.run(fire(order, made))).decode(), flush=True)


if __name__ == "__main__":
    main()
