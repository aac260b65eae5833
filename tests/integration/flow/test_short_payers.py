"""A flood of well-signed payments from an empty account: it costs one pre-flight, not a queue."""

from __future__ import annotations

import asyncio
from collections import Counter

from payfirst.units import AtomicAmount, hex_text

from .rig import ENOUGH, PRICE, Buyer, Rig

STALE = "UPDATE short_payers SET seen_at = now() - interval '31 seconds'"


async def answers_of(rig: Rig, buyer: Buyer, count: int) -> Counter[int]:
    """What so many new payments at once are answered, by status."""
    answers = await asyncio.gather(*(rig.order(buyer) for _ in range(count)))
    return Counter(answer.status_code for answer in answers)


async def until_refused(rig: Rig, buyer: Buyer) -> None:
    """The API has heard of the payer's balance; what it took or refused as too many until then may be a few."""

    async def is_refused() -> bool:
        answer = await rig.order(buyer)
        return answer.status_code == 429 and answer.json()["code"] == "payer_short_of_funds"

    await rig.until(is_refused)


async def test_an_empty_account_is_found_out_once(rig: Rig) -> None:
    """Its first payments are accepted and fail; then it is refused before any row, and a payer with money is not."""
    (empty,), (honest,) = await rig.buyers(1, funds=AtomicAmount(0)), await rig.buyers(1)
    async with rig.working():
        assert await answers_of(rig, empty, 20) == {202: 20}
        await until_refused(rig, empty)
        rows = await rig.pool.fetchval("SELECT count(*) FROM payment_queue")
        assert await answers_of(rig, empty, 100) == {429: 100}
        assert await rig.pool.fetchval("SELECT count(*) FROM payment_queue") == rows
        await rig.pay(honest)
        await rig.until_counts(payments_failed=rows, payments_completed=1, mints_completed=1)
        refused = await rig.order(empty)
        assert (refused.status_code, refused.json()["code"]) == (429, "payer_short_of_funds")
        assert int(refused.headers["retry-after"]) >= 1
    assert await rig.pool.fetchval("SELECT count(*) FROM short_payers WHERE payer <> $1", hex_text(empty.address)) == 0
    await rig.check_invariants()


async def test_an_account_that_stays_empty_is_tried_by_one_payment(rig: Rig) -> None:
    """When the news is old: one of a hundred is taken, fails, and the news is fresh again."""
    (empty,) = await rig.buyers(1, funds=AtomicAmount(0))
    async with rig.working():
        await rig.pay(empty)
        await rig.until_counts(payments_failed=1)
        await until_refused(rig, empty)
        await rig.pool.execute(STALE)

        async def is_tried() -> bool:
            taken = await answers_of(rig, empty, 100)
            assert taken[202] <= 1
            return taken[202] == 1

        await rig.until(is_tried)
        await rig.until_counts(payments_failed=2)
        assert await answers_of(rig, empty, 100) == {429: 100}
    await rig.check_invariants()


async def test_an_account_that_is_funded_buys_again(rig: Rig) -> None:
    """One payment finds the money; with its pre-flight the payer is forgotten, and buys as much as anyone."""
    (buyer,) = await rig.buyers(1, funds=AtomicAmount(PRICE))
    async with rig.working():
        assert await answers_of(rig, buyer, 3) == {202: 3}
        await rig.until_counts(payments_completed=1, payments_failed=2)
        await until_refused(rig, buyer)
        completed = (await rig.counts())["payments_completed"]
        await rig.chain.fund_usdc([buyer.address], ENOUGH)
        await rig.pool.execute(STALE)

        async def is_known_to_pay() -> bool:
            await answers_of(rig, buyer, 1)
            return not await rig.pool.fetchval("SELECT count(*) FROM short_payers")

        await rig.until(is_known_to_pay)

        async def buys_freely() -> bool:
            return await answers_of(rig, buyer, 5) == {202: 5}

        await rig.until(buys_freely)

        async def all_settled() -> bool:
            counts = await rig.counts()
            return counts.get("payments_pending", 0) + counts.get("payments_sent", 0) == 0

        await rig.until(all_settled)
        assert (await rig.counts())["payments_completed"] >= completed + 6
        await rig.until_counts(mints_pending=0, mints_sent=0)
    await rig.check_invariants()
