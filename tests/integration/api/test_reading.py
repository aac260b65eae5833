"""The read routes: payments, units, stats, tokens, health."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

import payfirst
from payfirst.api import payments
from payfirst.api.runtime import READS_AT_ONCE_MAX
from payfirst.store import queue_stats
from payfirst.store.database import Pool
from payfirst.units import checksum_address, hex_text

from . import shop_sql
from .shop import MINT_AMOUNT, PRICE, TOKEN, USDC, Buyer, Shop, configure, open_shop, running, until

TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


async def accepted(shop: Shop, buyer: Buyer, quantity: int = 1) -> str:
    """The id of a new payment."""
    payment_id = (await shop.mint(buyer.header(quantity), quantity=quantity)).json()["paymentQueueId"]
    assert isinstance(payment_id, str)
    return payment_id


async def test_a_pending_payment(shop: Shop, buyer: Buyer) -> None:
    """The document in full: amounts are decimal strings, addresses checksummed, and nothing has happened yet."""
    payment_id = await accepted(shop, buyer, 2)
    answer = await shop.client.get(f"/api/payment/{payment_id}")
    document = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert TIME.fullmatch(document.pop("createdAt"))
    assert document == {
        "paymentQueueId": payment_id,
        "status": "pending",
        "payer": checksum_address(buyer.address),
        "amount": str(2 * PRICE),
        "quantity": 2,
        "token": checksum_address(TOKEN),
        "txHash": None,
        "error": None,
        "result": None,
        "mints": [],
        "processedAt": None,
    }


async def test_a_sent_payment_has_its_transaction(shop: Shop, buyer: Buyer) -> None:
    """`txHash` in lower case, and the time of the change."""
    payment_id = await accepted(shop, buyer)
    await shop_sql.send(shop.pool, payment_id)
    document = (await shop.client.get(f"/api/payment/{payment_id}")).json()
    assert (document["status"], document["txHash"]) == ("sent", hex_text(shop_sql.PAYMENT_TX))
    assert TIME.fullmatch(document["processedAt"])
    assert (document["result"], document["mints"], document["error"]) == (None, [], None)


async def test_a_completed_payment_has_its_units(shop: Shop, buyer: Buyer) -> None:
    """Paid: the result names the units, and each unit says how far it is."""
    payment_id = await accepted(shop, buyer, 2)
    first, second = await shop_sql.complete(shop.pool, payment_id, quantity=2)
    document = (await shop.client.get(f"/api/payment/{payment_id}")).json()
    assert document["status"] == "completed"
    assert document["result"] == {"queueIds": [first, second], "quantity": 2}
    assert document["mints"] == [
        {
            "queueId": first,
            "status": "completed",
            "mintId": hex_text(shop_sql.mint_id_of(first)),
            "txHash": hex_text(shop_sql.MINT_TX),
        },
        {"queueId": second, "status": "pending", "mintId": hex_text(shop_sql.mint_id_of(second)), "txHash": None},
    ]


async def test_a_failed_payment_says_why(shop: Shop, buyer: Buyer) -> None:
    """Code and sentence of the failure."""
    payment_id = await accepted(shop, buyer)
    await shop_sql.fail(shop.pool, payment_id, error="The payer's balance is too low.", code="insufficient_funds")
    document = (await shop.client.get(f"/api/payment/{payment_id}")).json()
    assert document["status"] == "failed"
    assert document["error"] == {"code": "insufficient_funds", "message": "The payer's balance is too low."}
    assert (document["result"], document["mints"]) == (None, [])


async def test_a_payment_failed_by_hand_says_so(shop: Shop, buyer: Buyer) -> None:
    """An operator's rollback sets no code; the document has one all the same."""
    payment_id = await accepted(shop, buyer)
    await shop_sql.fail(shop.pool, payment_id, error="Rollback to sync mode", code=None)
    document = (await shop.client.get(f"/api/payment/{payment_id}")).json()
    assert document["error"] == {"code": "failed_by_operator", "message": "Rollback to sync mode"}


async def test_a_suspicion_is_not_shown_as_an_error(shop: Shop, buyer: Buyer) -> None:
    """What a worker only suspects of a pending payment is not its buyer's to read as the end."""
    payment_id = await accepted(shop, buyer)
    await shop.pool.execute("UPDATE payment_queue SET error = 'seen once'")
    assert (await shop.client.get(f"/api/payment/{payment_id}")).json()["error"] is None


async def test_a_unit_comes_with_its_payment(shop: Shop, buyer: Buyer) -> None:
    """The unit in full, and the payment's document without the other units."""
    payment_id = await accepted(shop, buyer, 2)
    _, second = await shop_sql.complete(shop.pool, payment_id, quantity=2)
    payment = (await shop.client.get(f"/api/payment/{payment_id}")).json()
    document = (await shop.client.get(f"/api/queue/{second}")).json()
    del payment["mints"]
    assert document == {
        "queueId": second,
        "status": "pending",
        "mintId": hex_text(shop_sql.mint_id_of(second)),
        "txHash": None,
        "unit": 1,
        "recipient": checksum_address(buyer.address),
        "payment": payment,
    }


@pytest.mark.parametrize("kind", ["payment", "queue"])
async def test_an_unknown_id_is_not_found(shop: Shop, kind: str) -> None:
    """404, and in capitals too."""
    for text in (NOBODY, NOBODY.upper()):
        answer = await shop.client.get(f"/api/{kind}/{text}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("kind", ["payment", "queue"])
@pytest.mark.parametrize(
    "text", ["1", "abc123", NOBODY.replace("-", ""), f"{{{NOBODY}}}", NOBODY + "0", "%27--", "Stats"]
)
async def test_a_malformed_id_is_refused(shop: Shop, kind: str, text: str) -> None:
    """400: it can be nobody's id."""
    answer = await shop.client.get(f"/api/{kind}/{text}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_an_id_is_found_in_capitals(shop: Shop, buyer: Buyer) -> None:
    """A UUID has no letter case."""
    payment_id = await accepted(shop, buyer)
    answer = await shop.client.get(f"/api/payment/{payment_id.upper()}")
    assert answer.json()["paymentQueueId"] == payment_id


async def test_stats_of_payments(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """Every status is counted, those without rows with zero; speed and waiting times beside it."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as shop:
        for _ in range(2):
            await accepted(shop, buyer)
        await shop_sql.complete(pool, await accepted(shop, buyer), quantity=1)
        stuck = await accepted(shop, buyer)
        await shop_sql.send(pool, stuck)
        await pool.execute("UPDATE payment_queue SET processed_at = now() - interval '6 minutes' WHERE status = 'sent'")
        document = (await shop.client.get("/api/payment/stats")).json()
    assert document["byStatus"] == {"pending": 2, "sent": 1, "completed": 1, "failed": 0}
    assert document["avgSeconds"] >= 0
    assert document["ratePerSecond"] == pytest.approx(1 / 60)
    assert document["oldestPendingSeconds"] > 0
    assert document["stuckInSent"] == 1
    assert list(document) == ["byStatus", "avgSeconds", "ratePerSecond", "oldestPendingSeconds", "stuckInSent"]


async def test_stats_of_units(shop: Shop, buyer: Buyer) -> None:
    """The same of the mint queue, with its own statuses."""
    await shop_sql.complete(shop.pool, await accepted(shop, buyer, 3), quantity=3)
    document = (await shop.client.get("/api/queue/stats")).json()
    assert document["byStatus"] == {"pending": 2, "sent": 0, "completed": 1, "owed": 0}
    assert document["stuckInSent"] == 0


async def test_stats_of_an_empty_shop(shop: Shop) -> None:
    """Nothing is zero, and an average of nothing is null."""
    document = (await shop.client.get("/api/payment/stats")).json()
    assert document == {
        "byStatus": {"pending": 0, "sent": 0, "completed": 0, "failed": 0},
        "avgSeconds": None,
        "ratePerSecond": 0.0,
        "oldestPendingSeconds": None,
        "stuckInSent": 0,
    }


async def _is_counted(shop: Shop) -> bool:
    document = (await shop.client.get("/api/payment/stats")).json()
    return bool(document["byStatus"]["pending"] == 1)


async def test_stats_are_shared_while_they_are_fresh(shop: Shop, buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many readers at once share one read, and who comes while it is fresh shares it too."""
    monkeypatch.setattr(payments, "STATS_AGE_S", 600.0)
    answers = await asyncio.gather(*(shop.client.get("/api/payment/stats") for _ in range(50)))
    assert len({answer.content for answer in answers}) == 1
    await accepted(shop, buyer)
    assert (await shop.client.get("/api/payment/stats")).content == answers[0].content


async def test_stats_are_read_anew(shop: Shop, buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second, and later where counting takes long: nobody who asks keeps PostgreSQL busy."""
    monkeypatch.setattr(payments, "STATS_SHARE_MAX", 1.0)  # however slow the machine is
    before = (await shop.client.get("/api/payment/stats")).json()
    await accepted(shop, buyer)
    await until(lambda: _is_counted(shop))
    assert before["byStatus"]["pending"] == 0

    monkeypatch.setattr(payments, "STATS_SHARE_MAX", 1e-9)
    first = (await shop.client.get("/api/queue/stats")).content
    await shop_sql.complete(shop.pool, await accepted(shop, buyer), quantity=1)
    await asyncio.sleep(payments.STATS_AGE_S + 0.1)
    assert (await shop.client.get("/api/queue/stats")).content == first


async def test_a_count_that_was_cut_off_is_not_begun_again_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has cost what it took: asked for again and again it would be all that PostgreSQL does."""
    monkeypatch.setattr(queue_stats, "COUNT_S_MAX", 0.5)
    monkeypatch.setattr(payments, "STATS_SHARE_MAX", 1e-3)
    async with shop.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE payment_queue IN ACCESS EXCLUSIVE MODE")
        assert (await shop.client.get("/api/payment/stats")).status_code == 503
    await asyncio.sleep(payments.STATS_AGE_S + 0.1)
    assert (await shop.client.get("/api/payment/stats")).status_code == 503


async def test_the_wait_for_a_connection_makes_stats_no_older(shop: Shop, buyer: Buyer) -> None:
    """They are kept for twenty times what counting took: a second here, though there was none to count with for one."""
    async with contextlib.AsyncExitStack() as slots:
        for _ in range(READS_AT_ONCE_MAX):
            await slots.enter_async_context(shop.app._runtime.read_slot())  # type: ignore[attr-defined]
        waiting = asyncio.create_task(shop.client.get("/api/payment/stats"))
        await asyncio.sleep(1)
        assert not waiting.done()
    assert (await waiting).json()["byStatus"]["pending"] == 0
    await accepted(shop, buyer)
    await until(lambda: _is_counted(shop))


async def test_tokens_on_offer(shop: Shop) -> None:
    """The list and the single token are the same document."""
    (document,) = (await shop.client.get("/api/tokens")).json()["tokens"]
    assert document == {
        "address": checksum_address(TOKEN),
        "name": "Test Token",
        "symbol": "TT",
        "price": str(PRICE),
        "asset": checksum_address(USDC.address),
        "network": "eip155:84532",
        "mintAmount": str(MINT_AMOUNT),
        "maxMintCount": 1_000_000,
        "minted": 0,
        "reserved": 0,
        "remaining": 1_000_000,
        "status": "active",
        "quantityMax": 10,
    }
    for spelling in (checksum_address(TOKEN), hex_text(TOKEN), "0x" + TOKEN.hex().upper()):
        assert (await shop.client.get(f"/api/tokens/{spelling}")).json() == document


@pytest.mark.parametrize("end", ["0x" + "11" * 20, "nothing", "0x"])
async def test_a_token_that_is_not_sold_is_not_shown(shop: Shop, end: str) -> None:
    """404 for an address that is not on offer, and for what is no address."""
    answer = await shop.client.get(f"/api/tokens/{end}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_token")


async def test_what_waits_is_no_longer_remaining(shop: Shop, buyer: Buyer) -> None:
    """Units of accepted payments are counted as gone."""
    await accepted(shop, buyer, 4)

    async def is_counted() -> bool:
        return bool((await shop.client.get(f"/api/tokens/{hex_text(TOKEN)}")).json()["remaining"] == 999_996)

    await until(is_counted)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("status = 'paused'", "paused"),
        ("held_reason = 'x'", "held"),
        ("max_mint_count = NULL", "unsynced"),
        ("minted = max_mint_count", "sold_out"),
    ],
)
async def test_a_token_says_why_it_is_not_sold(database_url: str, pool: Pool, change: str, status: str) -> None:
    """One word for each reason."""
    await open_shop(pool)
    await pool.execute(f"UPDATE tokens SET {change}")
    async with running(configure(database_url), pool) as shop:
        assert (await shop.client.get(f"/api/tokens/{hex_text(TOKEN)}")).json()["status"] == status


async def test_an_endless_token_is_shown(database_url: str, pool: Pool) -> None:
    """A cap of 2**256 - 1 is a number too."""
    await open_shop(pool, max_mint_count=2**256 - 1)
    async with running(configure(database_url), pool) as shop:
        document = (await shop.client.get(f"/api/tokens/{hex_text(TOKEN)}")).json()
    assert (document["maxMintCount"], document["remaining"]) == (2**256 - 1, 2**256 - 1)


async def test_health(shop: Shop) -> None:
    """Alive, and which release."""
    answer = await shop.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": payfirst.__version__})


async def test_ready(shop: Shop) -> None:
    """200 while a payment could be accepted."""
    answer = await shop.client.get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert (await shop.client.head("/ready")).status_code == 200


async def test_sold_out_is_ready(database_url: str, pool: Pool) -> None:
    """Buyers are told so by the offer; a balancer that sees 503 would take the answer away from them."""
    await open_shop(pool, max_mint_count=0)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.client.get("/ready")).status_code == 200
        assert (await shop.mint()).json()["code"] == "sold_out"
