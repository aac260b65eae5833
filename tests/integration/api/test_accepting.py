"""The way in: an offer, a payment, a 202."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid

import httpx
import pytest
from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402_httpx_transport
from x402.http.utils import decode_payment_required_header
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequired as OfficialOffer
from x402.schemas.helpers import parse_payment_required
from x402.schemas.v1 import PaymentRequiredV1 as OfficialOfferV1

from payfirst.ops.latency import LatencyHistogram
from payfirst.store.database import Pool
from payfirst.store.wake import PAYMENTS
from payfirst.units import Address, checksum_address, hex_text, parse_address

from .shop import BASE_URL, MINT_PATH, PAY_TO, PRICE, TOKEN, Buyer, Document, Shop, configure, open_shop, running, until


async def test_without_a_payment_both_generations_are_offered_a_price(shop: Shop) -> None:
    """One 402 holds a v1 offer in its body and a v2 offer in its header, for the price of the quantity."""
    answer = await shop.mint(quantity=3)
    assert answer.status_code == 402
    first = parse_payment_required(answer.content)
    second = decode_payment_required_header(answer.headers["PAYMENT-REQUIRED"])
    assert isinstance(first, OfficialOfferV1)
    assert isinstance(second, OfficialOffer)
    (entry,) = first.accepts
    assert (entry.max_amount_required, entry.resource) == (str(3 * PRICE), BASE_URL + MINT_PATH)
    assert second.accepts[0].amount == str(3 * PRICE)
    assert parse_address(second.accepts[0].pay_to) == PAY_TO
    assert answer.headers["cache-control"] == "no-store"


async def test_the_v1_client_finds_no_null_in_the_offer(shop: Shop) -> None:
    """x402-fetch 1.2 refuses an offer that holds a null or lacks its media type."""
    offer = (await shop.mint()).json()
    assert None not in offer["accepts"][0].values()
    assert offer["accepts"][0]["mimeType"] == "application/json"


@pytest.mark.parametrize("version", [1, 2])
async def test_a_payment_is_stored_and_answered_with_202(shop: Shop, buyer: Buyer, version: int) -> None:
    """The 202 has exactly the four fields, says where the status is, and claims no settlement."""
    answer = await shop.mint(buyer.header(3, version=version), quantity=3)
    assert answer.status_code == 202
    payment_id = answer.json()["paymentQueueId"]
    url = f"{BASE_URL}/api/payment/{payment_id}"
    assert answer.json() == {
        "paymentQueueId": payment_id,
        "quantity": 3,
        "status": "payment_pending",
        "statusUrl": url,
    }
    assert answer.headers["location"] == url
    assert "payment-response" not in answer.headers
    assert "x-payment-response" not in answer.headers
    assert await shop.count() == 1


async def test_the_row_holds_what_was_signed(shop: Shop, buyer: Buyer) -> None:
    """Everything that settling needs is in the row, and the id was made this second."""
    authorization_before = time.time_ns() // 1_000_000
    answer = await shop.mint(buyer.header(2), quantity=2)
    payment_id = uuid.UUID(answer.json()["paymentQueueId"])
    row = await shop.pool.fetchrow("SELECT * FROM payment_queue WHERE id = $1", payment_id)
    assert row is not None
    assert (row["payer"], row["recipient"]) == (hex_text(buyer.address), hex_text(buyer.address))
    assert (row["token_address"], row["pay_to"]) == (hex_text(TOKEN), hex_text(PAY_TO))
    assert (int(row["amount"]), row["quantity"], row["status"]) == (2 * PRICE, 2, "pending")
    assert (row["accepted_height"], len(row["signature"])) == (100, 65)
    assert payment_id.version == 7
    assert authorization_before <= payment_id.int >> 80 <= time.time_ns() // 1_000_000


async def test_another_recipient_can_be_named(shop: Shop, buyer: Buyer) -> None:
    """What is bought goes to the recipient in the body, in any letter case."""
    gift_to = Address(b"\xab" * 20)
    answer = await shop.mint(buyer.header(), recipient=hex_text(gift_to).upper().replace("0X", "0x"))
    assert answer.status_code == 202
    assert await shop.pool.fetchval("SELECT recipient FROM payment_queue") == hex_text(gift_to)


@pytest.mark.parametrize("spell", [checksum_address, hex_text, lambda address: "0x" + address.hex().upper()])
async def test_a_token_is_found_in_any_letter_case(shop: Shop, buyer: Buyer, spell: object) -> None:
    """A checksummed address in the path is the same token as a lower-case or upper-case one."""
    assert callable(spell)
    answer = await shop.mint(buyer.header(), path=f"/api/mint/{spell(TOKEN)}")
    assert answer.status_code == 202
    assert await shop.pool.fetchval("SELECT token_address FROM payment_queue") == hex_text(TOKEN)


async def test_other_fields_of_the_body_are_ignored(shop: Shop, buyer: Buyer) -> None:
    """A newer client may send more than this server knows."""
    assert (await shop.mint(buyer.header(), memo={"deep": [1, 2]})).status_code == 202


async def test_the_body_needs_no_content_type(shop: Shop, buyer: Buyer) -> None:
    """JSON is JSON, whatever a client calls it."""
    headers = {**buyer.header(), "content-type": "text/plain"}
    assert (await shop.client.post(MINT_PATH, headers=headers, content=b'{"quantity": 1}')).status_code == 202


async def test_a_payment_is_logged_in_the_known_words(shop: Shop, buyer: Buyer, log_lines: io.StringIO) -> None:
    """The line that operators grep for appears once a payment, also when its header comes again."""
    header = buyer.header(10)
    payment_id = (await shop.mint(header, quantity=10)).json()["paymentQueueId"]
    await shop.mint(header, quantity=10)
    queued = [line for line in map(json.loads, log_lines.getvalue().splitlines()) if line["event"] == "payment_queued"]
    expected = f"✅ X402 payment queued: {payment_id} (10x mint will be created after payment confirms)"
    assert [line["message"] for line in queued] == [expected]
    assert queued[0]["payer"] == hex_text(buyer.address)


async def test_the_workers_are_woken(shop: Shop, buyer: Buyer, pool: Pool) -> None:
    """An accepted payment sends a wake-up, so that settling does not wait for a poll."""
    heard: asyncio.Event = asyncio.Event()
    async with pool.acquire() as connection:
        listener = lambda *_: heard.set()  # noqa: E731 - add_ and remove_listener need the same object
        await connection.add_listener(PAYMENTS, listener)
        await shop.mint(buyer.header())
        async with asyncio.timeout(10):
            await heard.wait()
        await connection.remove_listener(PAYMENTS, listener)


async def test_what_was_measured_stands_beside_the_heartbeat(shop: Shop, buyer: Buyer) -> None:
    """The process's row tells how many were offered, accepted, replayed and refused, and how fast."""
    header = buyer.header()
    await shop.mint()
    await shop.mint(header)
    await shop.mint(header)
    await shop.mint({"X-PAYMENT": "?"})
    stats: Document = {}

    async def are_stored() -> bool:
        nonlocal stats
        found = await shop.pool.fetchval("SELECT stats FROM processes WHERE role = 'api'")
        stats = json.loads(found or "{}")
        return bool(stats.get("refused"))

    await until(are_stored)
    assert (stats["offered"], stats["accepted"], stats["replayed"], stats["refused"]) == (1, 1, 1, {"400": 1})
    assert LatencyHistogram.from_json(stats["accept_ms"]).count == 1
    assert stats["loop_stall_ms_max"] >= 0
    assert LatencyHistogram.from_json(stats["loop_stall"]).count > 0


async def test_a_process_that_stops_leaves_no_heartbeat(database_url: str, pool: Pool) -> None:
    """Its row is there while it runs, and gone afterwards."""
    await open_shop(pool)

    async def lives() -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM processes WHERE role = 'api'"))

    async with running(configure(database_url), pool):
        await until(lives)
    assert not await lives()


@pytest.mark.parametrize("version", [1, 2])
async def test_the_official_client_buys(shop: Shop, buyer: Buyer, version: int) -> None:
    """The official httpx client pays the 402 by itself, in either generation, and is handed the 202."""
    payer = register_exact_evm_client(x402Client(), EthAccountSigner(Account.from_key(buyer.key)))
    inner = FirstGeneration(app=shop.app) if version == 1 else httpx.ASGITransport(app=shop.app)
    async with httpx.AsyncClient(transport=x402_httpx_transport(payer, inner), base_url=BASE_URL) as client:
        answer = await client.post(MINT_PATH, json={"quantity": 2})
    assert answer.status_code == 202
    assert answer.json()["status"] == "payment_pending"
    row = await shop.pool.fetchrow("SELECT payer, quantity FROM payment_queue")
    assert row is not None
    assert (row["payer"], row["quantity"]) == (hex_text(buyer.address), 2)


class FirstGeneration(httpx.ASGITransport):
    """Hides the v2 offer, as if the client were too old to look for it."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        answer.headers.pop("PAYMENT-REQUIRED", None)
        return answer
