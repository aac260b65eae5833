"""The load generator, a process of its own: `python -m benchmarks.load`, driven by lines on its standard input.

It signs everything before it is told to begin, so that what it costs afterwards is a send and a receive for each
request: one thread, epoll, sockets without a library. Each line it reads is an order as JSON, and each order ends
with one line of JSON: first what it has signed, then how it went.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from payfirst.local.demo.accounts import people
from payfirst.local.demo.wallet import Terms, good_header
from payfirst.units import parse_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text

PAYER_ROLE = "burst payer"
BODY = b'{"quantity":1}'
ANSWER_S_MAX = 30.0
CHUNK = 2_000
TICK_S = 0.002


class Shop(msgspec.Struct):
    """Where payments go. Addresses are 0x text."""

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
    kind: str = "good"  # or one of benchmarks.bad.KINDS


class Order(msgspec.Struct):
    """Sign `count` payments from number `first` on; then send them over `connections`, `rate` a second (0: as fast)."""

    shop: Shop
    first: int
    count: int
    connections: int
    rate: float = 0.0


class Result(msgspec.Struct):
    """How it went; latencies in ms, from when a request was due to its whole answer."""

    statuses: dict[str, int]
    seconds: float
    cpu_s: float
    p50: float
    p90: float
    p99: float
    most: float


def asset_of(shop: Shop) -> Asset:
    """The asset of a shop, with its domain."""
    return Asset(
        network=network_from_text(shop.network),
        address=parse_address(shop.asset),
        name=shop.asset_name,
        version=shop.asset_version,
        decimals=shop.asset_decimals,
    )


def request(shop: Shop, name: str, value: str, body: bytes = BODY) -> bytes:
    """One request as it goes over the wire."""
    head = (
        f"POST {shop.path} HTTP/1.1\r\nhost: {shop.host}:{shop.port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{name}: {value}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def signed(shop: Shop, first: int, count: int, now: int) -> list[bytes]:
    """`count` requests, each with a payment of its own; payers take turns, and so do both header generations."""
    from benchmarks import bad  # it knows how to spoil what is signed here

    terms = Terms(asset_of(shop), parse_address(shop.pay_to), shop.resource, now)
    payers = people(PAYER_ROLE, shop.payers)
    made: list[bytes] = []
    for number in range(first, first + count):
        payer = payers[0 if shop.kind in ("replayed", "reused") else number % len(payers)]
        if shop.kind in bad.SIGNED_KINDS:
            name, value = bad.signed_badly(terms, payer, number, shop.kind)
        else:
            name, value = good_header(terms, payer, role="bench", number=number)
        made.append(request(shop, name, value) if shop.kind == "good" else bad.spoiled(shop, name, value, number))
    return made


def sign_all(order: Order, now: int) -> list[bytes]:
    """As `signed`, on every core."""
    starts = range(order.first, order.first + order.count, CHUNK)
    if len(starts) == 1:
        return signed(order.shop, order.first, order.count, now)
    end = order.first + order.count
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(signed, order.shop, start, min(CHUNK, end - start), now) for start in starts]
        return [one for future in futures for one in future.result()]


def fire(order: Order, made: Sequence[bytes]) -> Result:
    """Send everything, one request at a time on each connection. Raises TimeoutError when no answer comes."""
    shop, total = order.shop, len(made)
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()

    def connect() -> int:
        one = socket.create_connection((shop.host, shop.port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        sockets[one.fileno()] = one
        poll.register(one, select.EPOLLIN)
        return one.fileno()

    for _ in range(min(order.connections, total)):
        connect()
    statuses: Counter[bytes] = Counter()
    latencies: list[float] = []
    begun: dict[int, float] = {}
    cut: dict[int, bytes] = {}
    clock, interval = time.perf_counter, 1 / order.rate if order.rate else 0.0
    free = list(sockets)
    following, expected = 0, -1
    cpu_before, started = time.process_time(), clock()
    last_answer = started
    while len(latencies) < total:
        now = clock()
        due = total if not interval else min(total, int((now - started) / interval) + 1)
        while free and following < due:
            fd = free.pop()
            begun[fd] = started + following * interval if interval else clock()
            sockets[fd].send(made[following])
            following += 1
        waits = TICK_S if interval and following < total else 1.0
        for fd, _ in poll.poll(waits):
            try:
                data = sockets[fd].recv(16_384)
            except ConnectionError:
                data = b""
            if not data:  # the server ends connections that were idle for long, and may end others when it is ill
                poll.unregister(fd)
                sockets.pop(fd).close()
                cut.pop(fd, None)
                if fd in free:
                    free.remove(fd)
                else:
                    statuses[b"none"] += 1
                    latencies.append(clock() - begun[fd])
                free.append(connect())
                continue
            if fd in cut:
                data = cut.pop(fd) + data
            if len(data) != expected:
                whole = answer_length(data)
                if whole is None or len(data) < whole:
                    cut[fd] = data
                    continue
                expected = whole
            last_answer = clock()
            latencies.append(last_answer - begun[fd])
            statuses[data[9:12]] += 1
            if following < total and not interval:
                begun[fd] = last_answer
                sockets[fd].send(made[following])
                following += 1
            else:
                free.append(fd)
        if clock() - last_answer > ANSWER_S_MAX:
            raise TimeoutError(f"no answer for {ANSWER_S_MAX:.0f} s, {len(latencies)} of {total} came")
    seconds, cpu_s = last_answer - started, time.process_time() - cpu_before
    for one in sockets.values():
        one.close()
    latencies.sort()

    def at(share: float) -> float:
        return 1_000 * latencies[min(len(latencies) - 1, int(len(latencies) * share))]

    by_status = {status.decode("ascii", "replace"): n for status, n in statuses.items()}
    return Result(by_status, seconds, cpu_s, at(0.5), at(0.9), at(0.99), 1_000 * latencies[-1])


def answer_length(answer: bytes) -> int | None:
    """How long the answer that begins here is; None while its head is not whole."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return end + 4
    return end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])


def main() -> None:
    """Order in, `signed` out, any line in, result out; and again until the input ends."""
    while line := sys.stdin.readline():
        order = msgspec.json.decode(line.encode(), type=Order)
        made = sign_all(order, int(time.time()))
        gc.collect()
        gc.freeze()
        gc.disable()  # what is there lives until the end of the order; its pauses would look like the server's
        print("signed", flush=True)
        if not sys.stdin.readline():
            return
        print(msgspec.json.encode(fire(order, made)).decode(), flush=True)
        gc.unfreeze()
        gc.enable()


if __name__ == "__main__":
    main()
