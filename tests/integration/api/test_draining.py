"""An operator stops accepting in a running system: 503, `Retry-After`, and no word against what was accepted."""

from __future__ import annotations

import json

from payfirst.store import settings
from payfirst.store.database import Pool

from .shop import Buyer, Shop, configure, open_shop, running, until


async def put(pool: Pool, setting: str, value: object) -> None:
    """What `payfirst settings set` stores."""
    async with pool.acquire() as connection:
        await settings.put(connection, setting, value, by="test")


async def unset(pool: Pool, setting: str) -> None:
    """What `payfirst settings unset` does."""
    async with pool.acquire() as connection:
        await settings.remove(connection, setting)


async def until_ready_is(shop: Shop, status: int) -> dict[str, object]:
    """What `/ready` says once it answers with `status`."""

    async def is_so() -> bool:
        return (await shop.client.get("/ready")).status_code == status

    await until(is_so)
    document: dict[str, object] = (await shop.client.get("/ready")).json()
    return document


async def test_a_draining_shop_takes_nothing_and_knows_what_it_took(shop: Shop, buyer: Buyer) -> None:
    """Offers and payments are 503 with `Retry-After`, and nothing is stored; a payment that was taken gets its id."""
    taken = buyer.header()
    accepted = (await shop.mint(taken)).json()["paymentQueueId"]
    await put(shop.pool, "pause.accepting", True)
    said = await until_ready_is(shop, 503)
    assert said["reasons"] == ["No payments are accepted at the moment."]
    new = buyer.header()
    for headers in (None, new):
        answer = await shop.mint(headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_now")
        assert answer.headers["retry-after"] == "30"
        assert "No payments are accepted at the moment. Nothing was taken." in answer.json()["detail"]
    again = await shop.mint(taken)
    assert (again.status_code, again.json()["paymentQueueId"]) == (202, accepted)
    assert (await shop.client.get(f"/api/payment/{accepted}")).status_code == 200
    assert await shop.count() == 1
    await unset(shop.pool, "pause.accepting")
    await until_ready_is(shop, 200)
    assert (await shop.mint(new)).status_code == 202


async def test_draining_outlives_the_process(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """An API process that is started meanwhile never accepts, not even first."""
    await open_shop(pool)
    await put(pool, "pause.accepting", True)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(buyer.header())).status_code == 503


async def test_the_table_goes_before_the_environment(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """Both ways: the environment pauses, the database lets go on."""
    await open_shop(pool)
    async with running(configure(database_url, pause__accepting="true"), pool) as shop:
        assert (await shop.mint(buyer.header())).status_code == 503
        await put(pool, "pause.accepting", False)
        await until_ready_is(shop, 200)
        assert (await shop.mint(buyer.header())).status_code == 202


async def test_what_cannot_be_settled_is_not_accepted(shop: Shop, buyer: Buyer) -> None:
    """While settling is paused nothing is; while minting is, payments go on."""
    await put(shop.pool, "pause.minting", True)
    assert (await shop.mint(buyer.header())).status_code == 202
    await put(shop.pool, "pause.settling", True)
    await until_ready_is(shop, 503)
    refused = await shop.mint(buyer.header())
    assert refused.status_code == 503
    assert "Nothing is settled at the moment" in refused.json()["detail"]


async def test_a_process_says_what_it_has_taken_up_and_what_it_refuses(shop: Shop) -> None:
    """A value that cannot be is refused by name, and what was before goes on."""
    await put(shop.pool, "payments.queue_depth_max", 5)
    await put(shop.pool, "settle.batch_max", 0)
    await put(shop.pool, "server.port", 1)

    async def said() -> dict[str, dict[str, object]]:
        found = await shop.pool.fetchval("SELECT settings FROM processes WHERE role = 'api'")
        decoded: dict[str, dict[str, object]] = json.loads(found or "{}")
        return decoded

    async def is_said() -> bool:
        return (await said()).get("taken") == {"payments.queue_depth_max": 5}

    await until(is_said)
    assert set((await said())["refused"]) == {"settle.batch_max", "server.port"}
    assert (await shop.client.get("/ready")).status_code == 200


async def test_the_queue_limit_is_taken_up(shop: Shop, buyer: Buyer) -> None:
    """A limit of one payment holds for the second."""
    await put(shop.pool, "payments.queue_depth_max", 1)
    assert (await shop.mint(buyer.header())).status_code == 202

    async def is_full() -> bool:
        return "queue is full" in (await shop.mint()).text

    await until(is_full)
