"""`GET /api/payment?payer=&nonce=`: a payment found by what its buyer still has in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from payfirst.store import payments
from payfirst.units import checksum_address, hex_text

from . import shop_sql
from .contract import conforms
from .shop import NETWORK, USDC, Buyer, Shop
from .test_refusals import is_problem

PATH = "/api/payment"
# What a buyer may make of hex: the prefix and the digits, in any letter case.
SPELLINGS: list[Callable[[bytes], str]] = [hex_text, lambda b: "0X" + b.hex().upper(), lambda b: "0x" + b.hex().title()]


async def accepted(shop: Shop, buyer: Buyer) -> tuple[str, dict[str, str]]:
    """The id of a new payment, and the query that finds it."""
    authorization = buyer.authorize()
    header = buyer.header(nonce=authorization.nonce)
    payment_id: str = (await shop.mint(header)).json()["paymentQueueId"]
    return payment_id, {"payer": checksum_address(buyer.address), "nonce": hex_text(authorization.nonce)}


async def test_it_is_the_document_of_the_id(shop: Shop, buyer: Buyer) -> None:
    """Body, ETag and caching are those of the payment's own URL, in each of its statuses."""
    payment_id, query = await accepted(shop, buyer)
    for step in (None, shop_sql.send(shop.pool, payment_id), shop_sql.complete(shop.pool, payment_id, quantity=1)):
        if step is not None:
            await step
        found = await shop.client.get(PATH, params=query)
        known = await shop.client.get(f"{PATH}/{payment_id}")
        assert (found.status_code, found.content) == (200, known.content)
        for name in ("etag", "cache-control", "content-type"):
            assert found.headers[name] == known.headers[name]
        assert conforms(found)


@pytest.mark.parametrize("spelled", SPELLINGS)
async def test_letter_case_does_not_matter(shop: Shop, buyer: Buyer, spelled: Callable[[bytes], str]) -> None:
    """Payer and nonce are bytes, however they are written."""
    payment_id, query = await accepted(shop, buyer)
    written = {name: spelled(bytes.fromhex(text[2:])) for name, text in query.items()}
    assert (await shop.client.get(PATH, params=written)).json()["paymentQueueId"] == payment_id


async def test_an_archived_payment_is_found(shop: Shop, buyer: Buyer) -> None:
    """The authorization is known for ever, wherever its payment has been moved."""
    payment_id, query = await accepted(shop, buyer)
    await shop_sql.fail(shop.pool, payment_id, error="Expired.", code="expired")
    await shop_sql.archive(shop.pool, payment_id)
    found = (await shop.client.get(PATH, params=query)).json()
    assert (found["paymentQueueId"], found["status"]) == (payment_id, "failed")


async def test_what_the_client_knows_is_not_sent_again(shop: Shop, buyer: Buyer) -> None:
    """304 for the ETag of either URL; HEAD has the headers alone."""
    payment_id, query = await accepted(shop, buyer)
    tag = (await shop.client.get(f"{PATH}/{payment_id}")).headers["etag"]
    unchanged = await shop.client.get(PATH, params=query, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    head = await shop.client.head(PATH, params=query)
    assert (head.status_code, head.headers["etag"], head.content) == (200, tag, b"")


async def test_it_can_be_waited_for(shop: Shop, buyer: Buyer) -> None:
    """`Prefer: wait` holds it as it does the payment's own URL."""
    payment_id, query = await accepted(shop, buyer)
    waiting = asyncio.create_task(shop.client.get(PATH, params=query, headers={"Prefer": "wait=20"}))
    await asyncio.sleep(0)
    await shop_sql.fail(shop.pool, payment_id, error="No balance.", code="insufficient_funds")
    answer = await waiting
    assert answer.json()["status"] == "failed"
    assert conforms(answer)


async def test_what_nobody_paid_is_not_found(shop: Shop, buyer: Buyer) -> None:
    """Another's nonce, another nonce: 404, and the advice that cannot make anyone pay twice."""
    _, query = await accepted(shop, buyer)
    stranger = {**query, "payer": checksum_address(Buyer().address)}
    unused = {**query, "nonce": "0x" + "11" * 32}
    for asked in (stranger, unused):
        answer = await shop.client.get(PATH, params=asked)
        assert is_problem(answer, 404, "not_found")
        assert "send the same header again; do not sign a new one" in answer.json()["detail"]
        assert conforms(answer)


async def test_another_networks_authorization_is_not_this_one(shop: Shop, buyer: Buyer) -> None:
    """Network and asset are the server's: a row of another chain in the same database is not shown."""
    _, query = await accepted(shop, buyer)
    await shop.pool.execute("UPDATE authorizations SET network = 'eip155:8453'")
    assert (await shop.client.get(PATH, params=query)).status_code == 404


async def test_it_costs_one_probe_of_the_key(shop: Shop, buyer: Buyer) -> None:
    """The whole key is the index's condition: no scan, however many payments were ever taken."""
    await accepted(shop, buyer)
    async with shop.pool.acquire() as connection:
        await connection.execute("SET enable_seqscan = off")  # a table of one row is scanned otherwise
        rows = await connection.fetch(
            "EXPLAIN " + payments.PAYMENT_OF_AUTHORIZATION,
            buyer.address, b"\x11" * 32, USDC.address, NETWORK.caip2,
        )  # fmt: skip
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan using authorizations_once" in plan
    condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert all(name in condition for name in ("payer", "authorization_nonce", "asset", "network"))
    assert "sha256" in condition
