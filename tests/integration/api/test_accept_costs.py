"""What one request costs, counted and not timed, so that no machine is too slow: calls of functions, and statements."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType

import pytest
from flow.counting import counted

from payfirst.pipeline import accept
from payfirst.store import payments
from payfirst.store.database import Pool
from payfirst.units import AtomicAmount, UnixTime

from .shop import MINT_PATH, PRICE, Buyer, Shop, configure, open_shop, running, until

AT_ONCE = 64
# In the first two, connections of the pool prepare their statements; in others, tasks in the background call something.
ROUNDS = 8
# Calls of Python's and of C's functions for each of 64 payments at once: 298 when this was written, on CPython 3.11.
CALLS_MAX = 330


async def test_a_payment_is_accepted_within_so_many_calls(shop: Shop) -> None:
    """All of it: parsing, verifying, admission, the shared commit, the answer. A slow-down is more calls."""
    calls = await _calls(shop, _good, expected=202)
    assert calls <= CALLS_MAX, f"{calls:.0f} calls a payment"


async def test_what_is_refused_costs_no_more_than_what_is_accepted(shop: Shop) -> None:
    """Whatever is wrong with it, and also where somebody has signed it, so that it has to be looked up."""
    good = await _calls(shop, _good, expected=202)
    replayed = Buyer().header()
    assert (await shop.mint(replayed)).status_code == 202
    kinds: dict[str, tuple[Callable[[], Request], int]] = {
        "no payment": (lambda: Request({}), 402),
        "no base64": (lambda: Request({"X-PAYMENT": "*" * 600}), 400),
        "no JSON": (lambda: Request({"X-PAYMENT": "e30K" * 100}), 400),
        "no body": (lambda: Request(Buyer().header(), body=b""), 400),
        "too large": (lambda: Request({"X-PAYMENT": "A" * 9_000}), 431),
        "by another key": (lambda: Request(_by_another_key()), 402),
        "signed, for another price": (lambda: Request(Buyer().header(value=AtomicAmount(PRICE + 1))), 402),
        "signed, expired": (lambda: Request(Buyer().header(valid_before=UnixTime(1))), 402),
        "signed, for no token": (lambda: Request(Buyer().header(), path="/api/mint/0x" + "9" * 40), 404),
        "sent again": (lambda: Request(replayed), 202),
        "used for something else": (lambda: Request(replayed, {"quantity": 1, "recipient": "0x" + "ab" * 20}), 409),
    }
    dear = {}
    for name, (made, status) in kinds.items():
        calls = await _calls(shop, made, expected=status)
        if calls > good:
            dear[name] = calls
    assert not dear, f"an accepted payment costs {good:.0f} calls"


async def test_look_ups_of_what_is_refused_share_statements(database_url: str, pool: Pool) -> None:
    """Sixty-four expired payments, each signed by its payer: one look-up at once, one for those that came meanwhile."""
    await open_shop(pool)
    async with counted(database_url) as statements, running(configure(statements.url), pool) as opened:
        statements.executed.clear()
        await _send(opened, [Request(Buyer().header(valid_before=UnixTime(1))) for _ in range(AT_ONCE)], expected=402)
        assert 1 <= statements.count(payments.FIND_AUTHORIZATIONS) <= 5
        assert statements.count(payments.INSERT_PAYMENTS) == 0


async def test_what_was_stored_lately_is_looked_up_and_not_inserted_again(database_url: str, pool: Pool) -> None:
    """A payment sent again and again costs one statement for all; one not known any more is found too."""
    await open_shop(pool)
    header = Buyer().header()
    async with counted(database_url) as statements, running(configure(statements.url), pool) as opened:
        assert (await opened.mint(header)).status_code == 202
        statements.executed.clear()
        await _send(opened, [Request(header)] * AT_ONCE, expected=202)
        assert statements.count(payments.INSERT_PAYMENTS) == 0
    async with counted(database_url) as statements, running(configure(statements.url), pool) as restarted:
        assert (await restarted.mint(header)).status_code == 202
        assert statements.count(payments.INSERT_PAYMENTS) == 1
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") == 1


async def test_few_that_come_one_by_one_share_a_commit(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second came while the first was stored: it waits a step for the third, and both one more for a fourth."""
    monkeypatch.setattr(accept, "GATHER_STEP_S", 2.0)
    monkeypatch.setattr(accept, "GATHER_S_MAX", 60.0)
    await open_shop(pool)
    async with (
        counted(database_url) as statements,
        running(configure(statements.url), pool) as opened,
        pool.acquire() as locker,
        asyncio.TaskGroup() as buyers,
    ):
        async with locker.transaction():
            await locker.execute("LOCK TABLE authorizations IN EXCLUSIVE MODE")
            first = buyers.create_task(opened.mint(Buyer().header()))
            await until(lambda: _is_locked_out(pool))
            second = buyers.create_task(opened.mint(Buyer().header()))
            await asyncio.sleep(1)
        began = time.monotonic()
        assert (await first).status_code == 202
        assert not second.done()
        third = buyers.create_task(opened.mint(Buyer().header()))
        assert [(await one).status_code for one in (second, third)] == [202, 202]
        assert time.monotonic() - began < 30  # a few steps, not all the time there is
        assert statements.count(payments.INSERT_PAYMENTS) == 2


async def test_who_comes_alone_waits_for_nobody(database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, though to store the first took seconds: none of the others waits as long again."""
    monkeypatch.setattr(accept, "GATHER_STEP_S", 600.0)
    monkeypatch.setattr(accept, "GATHER_S_MAX", 600.0)
    await open_shop(pool)
    async with running(configure(database_url), pool) as opened, pool.acquire() as locker:
        async with locker.transaction():
            await locker.execute("LOCK TABLE authorizations IN EXCLUSIVE MODE")
            first = asyncio.create_task(opened.mint(Buyer().header()))
            await until(lambda: _is_locked_out(pool))
            await asyncio.sleep(3)
        assert (await first).status_code == 202
        began = time.monotonic()
        for _ in range(3):
            assert (await opened.mint(Buyer().header())).status_code == 202
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(("at_most_s", "enough"), [(0.0, 32), (600.0, 1)], ids=["so long", "so many"])
async def test_nobody_waits_longer_than_it_is_worth(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, at_most_s: float, enough: int
) -> None:
    """However long a step may last, none begins once the time is over or so many wait."""
    monkeypatch.setattr(accept, "GATHER_STEP_S", 600.0)
    monkeypatch.setattr(accept, "GATHER_S_MAX", at_most_s)
    monkeypatch.setattr(accept, "GATHERED_MIN", enough)
    await open_shop(pool)
    async with running(configure(database_url), pool) as opened, pool.acquire() as locker, asyncio.timeout(60):
        async with locker.transaction():
            await locker.execute("LOCK TABLE authorizations IN EXCLUSIVE MODE")
            first = asyncio.create_task(opened.mint(Buyer().header()))
            await until(lambda: _is_locked_out(pool))
            second = asyncio.create_task(opened.mint(Buyer().header()))
            await asyncio.sleep(1)
        assert [(await one).status_code for one in (first, second)] == [202, 202]


async def test_only_so_many_are_known() -> None:
    """What is remembered is bounded, oldest first out."""
    acceptor = accept.Acceptor(None, network="", asset=b"", pay_to=b"", notifier=None)  # type: ignore[arg-type]  # unused
    acceptor._know((bytes(20), number.to_bytes(32)) for number in range(accept.KNOWN_MAX + 5))  # type: ignore[misc]
    assert len(acceptor._known) == accept.KNOWN_MAX
    assert (bytes(20), bytes(32)) not in acceptor._known


class Request:
    """A POST as a server hands it to the application."""

    def __init__(
        self, headers: Mapping[str, str], wanted: object = None, *, body: bytes | None = None, path: str = MINT_PATH
    ) -> None:
        self.body = json.dumps(wanted or {"quantity": 1}).encode() if body is None else body
        named = {**headers, "content-length": str(len(self.body))}
        pairs = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": pairs, "query_string": b""}


def _good() -> Request:
    return Request(Buyer().header())


def _by_another_key() -> Mapping[str, str]:
    return Buyer().header(payer=Buyer().address)


async def _is_locked_out(pool: Pool) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'authorizations'::regclass"
    return bool(await pool.fetchval(waiting))


async def _send(shop: Shop, requests: list[Request], *, expected: int) -> None:
    """All at once, and all answered with the expected status."""
    statuses: list[int] = []

    async def one(request: Request) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        await shop.app(request.scope, receive, send)  # type: ignore[arg-type]  # messages are mappings of any values

    await asyncio.gather(*(one(request) for request in requests))
    assert statuses == [expected] * len(requests)


async def _calls(shop: Shop, made: Callable[[], Request], *, expected: int) -> float:
    """Calls a request, of many at once; the least of all rounds."""
    least = float("inf")
    for _ in range(ROUNDS):
        requests = [made() for _ in range(AT_ONCE)]
        calls = 0

        def count(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            await _send(shop, requests, expected=expected)
        finally:
            sys.setprofile(None)
        least = min(least, calls / AT_ONCE)
    return least
