"""Limits of one payer, one token and the queue: what is taken, what is not now, and what that costs nobody else."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import httpx
import pytest

from payfirst.store import short_payers
from payfirst.store.database import Pool
from payfirst.units import Address, AtomicAmount, BlockNumber, hex_text

from . import shop_sql
from .contract import conforms
from .shop import NETWORK, PRICE, TOKEN, USDC, Buyer, Shop, configure, open_shop, running, sync_token, until
from .test_refusals import is_problem

PAYER_LIMIT = {"payments__payer_outstanding_max": "5"}


def is_refused_for_now(answer: httpx.Response, code: str) -> bool:
    """429, with the time to wait in the header and in the sentence, as documented."""
    seconds = answer.headers["retry-after"]
    assert is_problem(answer, 429, code), answer.text
    assert answer.json()["detail"].endswith(f"Nothing was taken. Send the same request again in {seconds} s.")
    return conforms(answer)


async def taken(shop: Shop, buyer: Buyer, *, count: int) -> list[httpx.Response]:
    """So many payments one after another, each taken.

    A count of the table that falls on a commit has that payment twice until the next one (`Tally`): whoever is refused
    meanwhile sends again, as the refusal says.
    """
    answers: list[httpx.Response] = []
    for _ in range(count):
        header = buyer.header()

        async def is_taken(header: dict[str, str] = header) -> bool:
            answer = await shop.mint(header)
            assert answer.status_code in (202, 429)
            if answer.status_code == 202:
                answers.append(answer)
            return answer.status_code == 202

        await until(is_taken)
    return answers


async def has_seen_short(pool: Pool, payer: Address, balance: int) -> None:
    """What a settle worker stores whose pre-flight found a payer short."""
    async with pool.acquire() as connection:
        await short_payers.note(
            connection,
            network=NETWORK.caip2,
            asset=USDC.address,
            short={payer: AtomicAmount(balance)},
            able=[],
            height=BlockNumber(100),
        )


async def test_a_payer_has_so_many_unsettled_payments(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """However many come at once, as many as are allowed are taken; another payer's are taken beside them."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        answers = await asyncio.gather(*(shop.mint(buyer.header()) for _ in range(40)))
        assert Counter(answer.status_code for answer in answers) == {202: 5, 429: 35}
        assert all(is_refused_for_now(a, "too_many_payments") for a in answers if a.status_code == 429)
        assert (await shop.mint(Buyer().header())).status_code == 202
        assert await shop.count() == 6


async def test_the_limit_holds_for_a_process_that_starts(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The table is counted before the first request: sent payments too."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        first = (await taken(shop, buyer, count=5))[0]
    await shop_sql.send(pool, first.json()["paymentQueueId"])
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        assert is_refused_for_now(await shop.mint(buyer.header()), "too_many_payments")


async def test_what_is_settled_makes_room(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The same header is taken once one of the earlier payments has ended."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        first = (await taken(shop, buyer, count=5))[0]
        header = buyer.header()
        assert (await shop.mint(header)).status_code == 429
        await shop_sql.complete(pool, first.json()["paymentQueueId"], quantity=1)

        async def is_taken() -> bool:
            return (await shop.mint(header)).status_code == 202

        await until(is_taken)


async def test_a_replay_takes_no_place(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """At the limit, and a hundred at once above it: what was accepted is still known, as one payment."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        header = buyer.header()
        answers = await asyncio.gather(*(shop.mint(header) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        await taken(shop, buyer, count=4)
        assert (await shop.mint(buyer.header())).status_code == 429
        again = await shop.mint(header)
        assert (again.status_code, again.content) == (202, answers[0].content)


async def test_a_conflict_takes_no_place(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """A request that ends as 409 leaves the payer's places free."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        header = buyer.header()
        assert (await shop.mint(header)).status_code == 202
        for _ in range(10):
            assert (await shop.mint(header, recipient="0x" + "ab" * 20)).status_code == 409
        await taken(shop, buyer, count=4)
        assert (await shop.mint(buyer.header())).status_code == 429


async def test_a_token_has_so_many_unsettled_payments(database_url: str, pool: Pool) -> None:
    """503 for that token, offer and payment alike; another token sells on."""
    await open_shop(pool)
    other = hex_text(b"\x99" * 20)
    await pool.execute(
        "INSERT INTO tokens (network, address, price, max_mint_count, synced_height, synced_at)"
        " VALUES ($1, $2, 1, 10, 100, now())",
        NETWORK.caip2,
        other,
    )
    async with running(configure(database_url, payments__token_outstanding_max="3"), pool) as shop:
        answers = await asyncio.gather(*(shop.mint(Buyer().header()) for _ in range(20)))
        assert Counter(answer.status_code for answer in answers) == {202: 3, 503: 17}
        refused = await shop.mint()
        assert is_problem(refused, 503, "not_now")
        assert refused.headers["retry-after"]
        assert "payments for this token are unsettled" in refused.json()["detail"]
        assert (await shop.mint(path=f"/api/mint/{other}")).status_code == 402


async def test_the_last_units_are_promised_once(database_url: str, pool: Pool) -> None:
    """Forty buyers at once for five units: five payments, and nobody's money for the rest."""
    await open_shop(pool, max_mint_count=5)
    async with running(configure(database_url), pool) as shop:
        answers = await asyncio.gather(*(shop.mint(Buyer().header()) for _ in range(40)))
        assert Counter(answer.status_code for answer in answers) == {202: 5, 409: 35}


async def test_a_full_queue_counts_what_is_being_stored(database_url: str, pool: Pool) -> None:
    """The queue's limit is not exceeded by requests that arrive together."""
    await open_shop(pool)
    async with running(configure(database_url, payments__queue_depth_max="7"), pool) as shop:
        answers = await asyncio.gather(*(shop.mint(Buyer().header()) for _ in range(40)))
        assert Counter(answer.status_code for answer in answers) == {202: 7, 503: 33}


# ---- payers short of money -------------------------------------------------------------------------


async def test_an_empty_account_promises_nothing_more(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """While the news of its balance is fresh: 429 for as long as that, no row, and others are served."""
    await open_shop(pool)
    await has_seen_short(pool, buyer.address, 0)
    async with running(configure(database_url), pool) as shop:
        answers = [await shop.mint(buyer.header()) for _ in range(3)]
        for answer in answers:
            assert is_refused_for_now(answer, "payer_short_of_funds")
            assert "had 0 atomic units of the asset at block 100" in answer.json()["detail"]
            assert 25 <= int(answer.headers["retry-after"]) <= 30
        assert (await shop.mint(Buyer().header())).status_code == 202
        assert await shop.count() == 1


async def test_a_payer_promises_what_it_had(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """Unsettled payments and the new one may come to the balance that was seen, not beyond it."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(buyer.header())).status_code == 202
    await has_seen_short(pool, buyer.address, 3 * PRICE)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(buyer.header(2), quantity=2)).status_code == 202
        answer = await shop.mint(buyer.header())
        assert is_refused_for_now(answer, "payer_short_of_funds")
        assert f"come to {4 * PRICE}" in answer.json()["detail"]


async def test_old_news_is_tried_by_one_payment(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The payer may have been funded: one payment finds out, and the next ones wait for what it finds."""
    await open_shop(pool)
    await has_seen_short(pool, buyer.address, 0)
    await pool.execute("UPDATE short_payers SET seen_at = now() - interval '31 seconds'")
    async with running(configure(database_url), pool) as shop:
        answers = await asyncio.gather(*(shop.mint(buyer.header()) for _ in range(10)))
        assert Counter(answer.status_code for answer in answers) == {202: 1, 429: 9}
        # A worker's pre-flight found the money.
        await pool.execute("DELETE FROM short_payers")

        async def is_taken() -> bool:
            return (await shop.mint(buyer.header())).status_code == 202

        await until(is_taken)
        assert (await shop.mint(buyer.header())).status_code == 202


async def test_a_short_payers_replay_is_answered(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """What was accepted before the shortage was seen is no 429."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as shop:
        header = buyer.header()
        first = await shop.mint(header)
        await has_seen_short(pool, buyer.address, 0)

        async def is_short() -> bool:
            return (await shop.mint(buyer.header())).status_code == 429

        await until(is_short)
        again = await shop.mint(header)
        assert (again.status_code, again.content) == (202, first.content)


async def test_news_is_bounded_and_forgotten(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest rows stay, up to a number and an age."""
    monkeypatch.setattr(short_payers, "KEPT_MAX", 10)
    for number in range(1, 16):
        await has_seen_short(pool, Address(number.to_bytes(20)), 0)
    async with pool.acquire() as connection:
        await short_payers.forget_old(connection)
        kept = await short_payers.read(connection, network=NETWORK.caip2, asset=USDC.address)
        assert set(kept) == {Address(number.to_bytes(20)) for number in range(6, 16)}
        await connection.execute(
            "UPDATE short_payers SET seen_at = now() - interval '2 hours' WHERE payer <> $1",
            hex_text((15).to_bytes(20)),
        )
        await short_payers.forget_old(connection)
        assert set(await short_payers.read(connection, network=NETWORK.caip2, asset=USDC.address)) == {
            Address((15).to_bytes(20))
        }


async def test_later_news_counts(pool: Pool, buyer: Buyer) -> None:
    """An older block's balance replaces no newer one, and clears nothing."""
    async with pool.acquire() as connection:

        async def note(height: int, *, short: dict[Address, AtomicAmount], able: list[Address]) -> None:
            await short_payers.note(
                connection, network=NETWORK.caip2, asset=USDC.address, short=short, able=able,
                height=BlockNumber(height),
            )  # fmt: skip

        async def known() -> dict[Address, int]:
            found = await short_payers.read(connection, network=NETWORK.caip2, asset=USDC.address)
            return {payer: short.balance for payer, short in found.items()}

        await note(100, short={buyer.address: AtomicAmount(5)}, able=[])
        await note(99, short={buyer.address: AtomicAmount(7)}, able=[])
        await note(99, short={}, able=[buyer.address])
        assert await known() == {buyer.address: 5}
        await note(101, short={}, able=[buyer.address])
        assert await known() == {}


# ---- what confirms, and what is known of the token --------------------------------------------------

BEHIND = "UPDATE chain_heads SET head_height = 140, head_time = cursor_time + 80"
JUST_SEEN = "UPDATE chain_heads SET head_height = 101, head_time = cursor_time + 3600"
MOVED_ON = "UPDATE chain_heads SET head_height = 105, cursor_height = 105"
UNSYNCED = MOVED_ON + "; UPDATE tokens SET synced_at = now() - interval '61 seconds'"
NO_BLOCK_SINCE = "UPDATE tokens SET synced_at = now() - interval '1 day'"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (BEHIND, r"Confirming is 78 s behind the chain, so nothing could be settled\."),
        (UNSYNCED, r"This token has not been read from the chain for 6[1-9] s\."),  # and time goes on
    ],
)
async def test_what_would_not_be_delivered_is_not_sold(
    database_url: str, pool: Pool, buyer: Buyer, fault: str, sentence: str
) -> None:
    """503 for an offer as for a payment, and /ready says the same."""
    await open_shop(pool)
    await pool.execute(fault)
    async with running(configure(database_url), pool) as shop:
        for headers in (None, buyer.header()):
            answer = await shop.mint(headers)
            assert is_problem(answer, 503, "not_now")
            assert answer.headers["retry-after"]
            assert re.match(sentence, answer.json()["detail"])
        ready = await shop.client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"][0].startswith(sentence[:30])


@pytest.mark.parametrize("state", [JUST_SEEN, MOVED_ON, NO_BLOCK_SINCE])
async def test_what_is_not_late_is_sold(database_url: str, pool: Pool, buyer: Buyer, state: str) -> None:
    """The newest block is not late yet, however long it took; and without blocks nothing can have changed."""
    await open_shop(pool)
    await pool.execute(state)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(buyer.header())).status_code == 202


async def test_confirmations_are_no_lag(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """A cursor that stays as deep as it is told to is not behind."""
    await open_shop(pool)
    await pool.execute(BEHIND)
    async with running(configure(database_url, network__confirmations="41"), pool) as shop:
        assert (await shop.mint(buyer.header())).status_code == 202


async def test_a_token_that_is_read_again_is_sold_again(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The next look finds it fresh."""
    await open_shop(pool)
    await pool.execute(UNSYNCED)
    async with running(configure(database_url), pool) as shop:
        header = buyer.header()
        assert (await shop.mint(header)).status_code == 503
        await sync_token(pool, max_mint_count=100)

        async def is_taken() -> bool:
            return (await shop.mint(header)).status_code == 202

        await until(is_taken)
        assert (await shop.client.get(f"/api/tokens/{hex_text(TOKEN)}")).json()["status"] == "active"


async def test_a_count_that_failed_forgets_nothing(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """What this process took stays counted while the table cannot be read."""
    await open_shop(pool)
    async with running(configure(database_url, **PAYER_LIMIT), pool) as shop:
        await taken(shop, buyer, count=5)
        await pool.execute("ALTER TABLE short_payers RENAME TO short_payers_away")
        # Longer than a few refreshes take: each fails.
        await _several_refreshes_fail(shop)
        assert (await shop.mint(buyer.header())).status_code == 429
        await pool.execute("ALTER TABLE short_payers_away RENAME TO short_payers")


async def _several_refreshes_fail(shop: Shop) -> None:
    async def is_old() -> bool:
        return any("The database has not answered" in r for r in (await shop.client.get("/ready")).json()["reasons"])

    async def is_not_ready() -> bool:
        return (await shop.client.get("/ready")).status_code == 503

    await until(is_not_ready)
    await until(is_old)
