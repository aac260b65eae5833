"""The same header again: never a 402 for what was accepted, never a second payment."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest

from payfirst.store.database import Pool
from payfirst.units import AtomicAmount, UnixTime, hex_text

from . import shop_sql
from .shop import (
    MINT_PATH,
    NETWORK,
    PRICE,
    TOKEN,
    Buyer,
    Document,
    Shop,
    configure,
    open_shop,
    running,
    sync_token,
    until,
)

GIFT_TO = "0x" + "ab" * 20


async def test_the_same_header_gives_the_same_answer(shop: Shop, buyer: Buyer) -> None:
    """A client that lost the first 202 gets it again, byte for byte."""
    header = buyer.header(2)
    first = await shop.mint(header, quantity=2)
    second = await shop.mint(header, quantity=2)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert await shop.count() == 1


async def test_a_hundred_at_once_are_one_payment(shop: Shop, buyer: Buyer) -> None:
    """However many requests carry the header at the same time, one row is made and all hear of it."""
    header = buyer.header()
    answers = await asyncio.gather(*(shop.mint(header) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert await shop.count() == 1


async def test_two_processes_make_one_payment(shop: Shop, buyer: Buyer, database_url: str) -> None:
    """The rule holds between processes, because the database keeps it."""
    async with running(configure(database_url), shop.pool) as other:
        header = buyer.header()
        answers = await asyncio.gather(*(s.mint(header) for s in (shop, other) for _ in range(20)))
    assert len({(answer.status_code, answer.content) for answer in answers}) == 1
    assert await shop.count() == 1


async def test_the_two_generations_are_one_payment(shop: Shop, buyer: Buyer) -> None:
    """The same authorization in the other version's header is the same payment."""
    header = buyer.header(version=2)
    first = await shop.mint(header)
    payload = json.loads(base64.b64decode(header["PAYMENT-SIGNATURE"]))["payload"]
    old = {"x402Version": 1, "scheme": "exact", "network": NETWORK.name, "payload": payload}
    second = await shop.mint({"X-PAYMENT": base64.b64encode(json.dumps(old).encode()).decode()})
    assert (second.status_code, second.content) == (202, first.content)


@pytest.mark.parametrize("body", [{"quantity": 2}, {"quantity": 1, "recipient": GIFT_TO}])
async def test_an_authorization_pays_for_one_request(shop: Shop, buyer: Buyer, body: Document) -> None:
    """With another quantity or recipient it is 409, not 402: the client must not sign again by itself."""
    header = buyer.header()
    assert (await shop.mint(header)).status_code == 202
    answer = await shop.client.post(MINT_PATH, headers=header, json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "authorization_reused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert await shop.count() == 1


async def test_a_named_payer_is_the_default_recipient(shop: Shop, buyer: Buyer) -> None:
    """Leaving the recipient out and naming the payer are the same request."""
    header = buyer.header()
    first = await shop.mint(header)
    second = await shop.mint(header, recipient=hex_text(buyer.address))
    assert (second.status_code, second.content) == (202, first.content)


async def test_a_sent_payment_is_still_pending_to_its_buyer(shop: Shop, buyer: Buyer) -> None:
    """While it is under way the first answer stays true."""
    header = buyer.header()
    first = await shop.mint(header)
    await shop_sql.send(shop.pool, first.json()["paymentQueueId"])
    second = await shop.mint(header)
    assert (second.status_code, second.content) == (202, first.content)


async def test_a_failed_payment_tells_how_it_ended(shop: Shop, buyer: Buyer) -> None:
    """200 with its status: the authorization is spent here, and 402 would make the client pay again."""
    header = buyer.header()
    payment_id = (await shop.mint(header)).json()["paymentQueueId"]
    await shop_sql.fail(shop.pool, payment_id, error="The payer's balance is too low.", code="insufficient_funds")
    answer = await shop.mint(header)
    assert answer.status_code == 200
    assert answer.json()["paymentQueueId"] == payment_id
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["code"] == "insufficient_funds"


async def test_a_completed_payment_tells_what_it_led_to(shop: Shop, buyer: Buyer) -> None:
    """200 with the same document as its status URL."""
    header = buyer.header(2)
    first = await shop.mint(header, quantity=2)
    await shop_sql.complete(shop.pool, first.json()["paymentQueueId"], quantity=2)
    answer = await shop.mint(header, quantity=2)
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    assert answer.content == (await shop.client.get(first.json()["statusUrl"])).content


async def test_an_archived_payment_is_remembered(shop: Shop, buyer: Buyer) -> None:
    """The authorization is known for ever, wherever its payment has been moved."""
    header = buyer.header()
    payment_id = (await shop.mint(header)).json()["paymentQueueId"]
    await shop_sql.fail(shop.pool, payment_id, error="Expired.", code="expired")
    await shop_sql.archive(shop.pool, payment_id)
    answer = await shop.mint(header)
    assert (answer.status_code, answer.json()["paymentQueueId"]) == (200, payment_id)


async def test_an_expired_header_of_an_accepted_payment_is_no_402(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """Expiry refuses new payments only."""
    await open_shop(pool)
    valid_before = UnixTime(int(time.time()) + 120)
    header, late = buyer.header(valid_before=valid_before), buyer.header(valid_before=valid_before)
    async with running(configure(database_url), pool) as shop:
        first = await shop.mint(header)
        assert first.status_code == 202
    # A margin of ten minutes makes the same header one that has expired.
    strict = {"payments__seconds_left_min": "600"}
    async with running(configure(database_url, **strict), pool) as shop:
        again = await shop.mint(header)
        assert (again.status_code, again.content) == (202, first.content)
        refused = await shop.mint(late)
        assert refused.status_code == 402
        assert refused.json()["error"] == "invalid_exact_evm_payload_authorization_valid_before"


async def test_an_accepted_payment_outlives_its_price(shop: Shop, buyer: Buyer) -> None:
    """When the price has changed, the old payment is still the old payment."""
    header = buyer.header(version=2)
    first = await shop.mint(header)
    await shop.pool.execute("UPDATE tokens SET price = $1", PRICE + 1)

    async def costs_more() -> bool:
        return bool((await shop.mint()).json()["accepts"][0]["maxAmountRequired"] == str(PRICE + 1))

    await until(costs_more)
    again = await shop.mint(header)
    assert (again.status_code, again.content) == (202, first.content)
    assert (await shop.mint(buyer.header(version=2))).status_code == 402


async def test_an_accepted_payment_outlives_the_supply(shop: Shop, buyer: Buyer) -> None:
    """Sold out refuses new payments only."""
    header = buyer.header()
    first = await shop.mint(header)
    await sync_token(shop.pool, max_mint_count=1)

    async def is_sold_out() -> bool:
        return (await shop.mint()).status_code == 409

    await until(is_sold_out)
    again = await shop.mint(header)
    assert (again.status_code, again.content) == (202, first.content)
    assert (await shop.mint(buyer.header())).status_code == 409


async def test_an_accepted_payment_outlives_the_workers(shop: Shop, buyer: Buyer) -> None:
    """While nothing new is accepted, what was accepted is still known."""
    header = buyer.header()
    first = await shop.mint(header)
    await shop.pool.execute("UPDATE processes SET heartbeat_at = now() - interval '1 minute' WHERE role = 'worker'")

    async def is_closed() -> bool:
        return (await shop.mint()).status_code == 503

    await until(is_closed)
    again = await shop.mint(header)
    assert (again.status_code, again.content) == (202, first.content)


async def test_an_accepted_payment_outlives_a_smaller_maximum(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """When fewer units are sold at once than before, an older, larger payment is still known."""
    await open_shop(pool)
    header = buyer.header(5)
    async with running(configure(database_url), pool) as shop:
        first = await shop.mint(header, quantity=5)
    async with running(configure(database_url, payments__quantity_max="2"), pool) as shop:
        again = await shop.mint(header, quantity=5)
        assert (again.status_code, again.content) == (202, first.content)
        assert (await shop.mint(buyer.header(5), quantity=5)).status_code == 400


async def test_somebody_elses_nonce_is_not_looked_up(shop: Shop, buyer: Buyer) -> None:
    """A header with the payer and nonce of an accepted payment, signed by another, is 402 and tells nothing."""
    authorization = buyer.authorize()
    same: Document = {"nonce": authorization.nonce, "valid_before": authorization.valid_before}
    assert (await shop.mint(buyer.header(**same))).status_code == 202
    stranger = Buyer()
    answer = await shop.mint(stranger.header(payer=buyer.address, **same))
    assert (answer.status_code, answer.json()["error"]) == (402, "invalid_exact_evm_payload_signature")


@pytest.mark.parametrize(
    ("wrong", "quantity", "to_its_payer"),
    [({"value": AtomicAmount(PRICE + 1)}, 1, 202), ({"valid_before": UnixTime(1)}, 1, 202), ({}, 2, 409)],
    ids=["value", "time", "quantity"],
)
async def test_who_is_not_the_payer_is_told_nothing(
    shop: Shop, buyer: Buyer, wrong: Document, quantity: int, to_its_payer: int
) -> None:
    """Also where something else is wrong, so that it is looked up before its signer is: as if nothing were there."""
    authorization = buyer.authorize()
    same: Document = {"nonce": authorization.nonce, "valid_before": authorization.valid_before}
    first = await shop.mint(buyer.header(**same))
    spoiled: Document = same | wrong
    stranger = await shop.mint(Buyer().header(payer=buyer.address, **spoiled), quantity=quantity)
    assert stranger.status_code == 402
    assert first.json()["paymentQueueId"] not in stranger.text
    assert (await shop.mint(buyer.header(**spoiled), quantity=quantity)).status_code == to_its_payer


async def test_the_same_nonce_of_another_payer_is_another_payment(shop: Shop, buyer: Buyer) -> None:
    """Authorization nonces belong to their payer."""
    nonce = buyer.authorize().nonce
    assert (await shop.mint(buyer.header(nonce=nonce))).status_code == 202
    assert (await shop.mint(Buyer().header(nonce=nonce))).status_code == 202
    assert await shop.count() == 2


async def test_a_reused_nonce_with_another_amount_is_no_402(shop: Shop, buyer: Buyer) -> None:
    """The key is payer and nonce: signing it again for another value is 409, for a buyer's own quantity too."""
    nonce = buyer.authorize().nonce
    assert (await shop.mint(buyer.header(nonce=nonce))).status_code == 202
    other = buyer.header(2, nonce=nonce, value=AtomicAmount(PRICE * 2))
    assert (await shop.mint(other, quantity=2)).status_code == 409


async def test_one_conflict_does_not_fail_its_neighbours(shop: Shop, buyer: Buyer) -> None:
    """New payments, replays and conflicts may share one commit."""
    known = buyer.header()
    assert (await shop.mint(known)).status_code == 202
    answers = await asyncio.gather(
        *(shop.mint(Buyer().header()) for _ in range(20)),
        shop.mint(known),
        shop.mint(known, recipient=GIFT_TO),
        *(shop.mint(Buyer().header()) for _ in range(20)),
    )
    assert sorted(answer.status_code for answer in answers) == [202] * 41 + [409]
    assert await shop.count() == 41
    assert await shop.pool.fetchval("SELECT count(DISTINCT id) FROM payment_queue") == 41
    assert await shop.pool.fetchval("SELECT bool_and(token_address = $1) FROM payment_queue", hex_text(TOKEN))


async def test_what_is_being_stored_is_neither_refused_nor_confirmed(shop: Shop, buyer: Buyer) -> None:
    """While the first request's commit hangs, a look-up cannot see it: a second one hears 503, never 402."""
    header = buyer.header()
    async with shop.pool.acquire() as connection:
        writes_held_up = connection.transaction()
        await writes_held_up.start()
        await connection.execute("LOCK TABLE authorizations IN EXCLUSIVE MODE")
        first = asyncio.create_task(shop.mint(header))

        async def is_held_up() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(is_held_up)
        second = await shop.mint(header, quantity=2)
        stranger = await shop.mint(Buyer().header(), quantity=2)
        await writes_held_up.rollback()
    assert (second.status_code, second.json()["code"]) == (503, "outcome_unknown")
    assert stranger.status_code == 402
    assert (await first).status_code == 202
    assert (await shop.mint(header, quantity=2)).status_code == 409
