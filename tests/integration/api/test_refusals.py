"""What is refused, by which status, and that nothing is stored then."""

from __future__ import annotations

import base64
import json
import time

import httpx
import pytest
from starlette.types import Message

from payfirst.errors import OperatorError
from payfirst.store.database import Pool
from payfirst.units import Address, AtomicAmount, UnixTime, checksum_address, hex_text
from payfirst.x402.payload import HEADER_BYTES_MAX

from .shop import MINT_PATH, PRICE, TOKEN, Buyer, Document, Shop, configure, open_shop, running, sync_token, until


def is_problem(answer: httpx.Response, status: int, code: str) -> bool:
    """Whether it is an RFC 9457 document that says so and can be read by people."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert document["type"] == f"urn:payfirst:problem:{code}"
    assert document["title"]
    assert document["detail"].endswith((".", "?"))
    return (answer.status_code, document["status"], document["code"]) == (status, status, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b'{"quantity": null}',
        b'{"quantity": "1"}',
        b'{"quantity": 1.5}',
        b'{"quantity": true}',
        b'{"quantity": 0}',
        b'{"quantity": -1}',
        b'{"quantity": 11}',
        b'{"quantity": 251}',
        b'{"quantity": 99999999999999999999999999}',
        b'{"quantity": 1, "recipient": 5}',
        b'{"quantity": 1, "recipient": "0x12"}',
        b'{"quantity": 1, "recipient": "0x0000000000000000000000000000000000000000"}',
        b'{"quantity": 1, "recipient": "\xff"}',
        b"\xff\xfe",
        b"[" * 4_000,
    ],
)
@pytest.mark.parametrize("is_paying", [False, True])
async def test_a_body_that_says_nothing_is_malformed(shop: Shop, buyer: Buyer, body: bytes, is_paying: bool) -> None:
    """400, with or without a payment."""
    headers = buyer.header() if is_paying else {}
    assert is_problem(await shop.client.post(MINT_PATH, content=body, headers=headers), 400, "invalid_request")
    assert await shop.count() == 0


async def test_the_token_cannot_be_the_recipient(shop: Shop, buyer: Buyer) -> None:
    """Nobody could ever use what is minted to the token itself."""
    answer = await shop.mint(buyer.header(), recipient=checksum_address(TOKEN))
    assert is_problem(answer, 400, "invalid_request")


async def test_the_largest_quantity_is_sold(shop: Shop, buyer: Buyer) -> None:
    """The configured maximum itself is allowed."""
    assert (await shop.mint(buyer.header(10), quantity=10)).status_code == 202


async def test_a_body_of_the_limit_is_read(shop: Shop, buyer: Buyer) -> None:
    """4,096 bytes are read."""
    body = b'{"quantity": 1}'.ljust(4_096)
    assert (await shop.client.post(MINT_PATH, content=body, headers=buyer.header())).status_code == 202


async def test_a_body_above_the_limit_is_refused(shop: Shop, buyer: Buyer) -> None:
    """One byte more is 413."""
    body = b'{"quantity": 1}'.ljust(4_097)
    answer = await shop.client.post(MINT_PATH, content=body, headers=buyer.header())
    assert is_problem(answer, 413, "body_too_large")
    assert await shop.count() == 0


async def test_an_announced_large_body_is_not_read(shop: Shop) -> None:
    """The announcement is enough: not one byte is asked for."""

    async def receive() -> Message:
        raise AssertionError("the body was read")

    assert await status_of(shop, [(b"content-length", b"9" * 5_000)], receive) == 413


async def test_a_large_body_is_not_read_to_its_end(shop: Shop) -> None:
    """An endless body without an announced length is given up after the limit."""
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b" " * 1_000, "more_body": True}

    assert await status_of(shop, [], receive) == 413
    assert asked == 5


async def test_a_client_that_hangs_up_is_no_error(shop: Shop) -> None:
    """A connection that ends before the body does is told so, for a client that still reads."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    assert await status_of(shop, [], receive) == 400


async def status_of(shop: Shop, headers: list[tuple[bytes, bytes]], receive: object) -> int | None:
    """The status of a request whose body the test hands over piece by piece."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": MINT_PATH, "headers": headers, "query_string": b""}
    await shop.app(scope, receive, send)  # type: ignore[arg-type]  # each test's receive is of ASGI's form
    return sent[0]["status"] if sent else None


@pytest.mark.parametrize("content", [b"", b"?", b"bm90IGpzb24=", b"e30=", b"\xff\xff", b"A" * HEADER_BYTES_MAX])
@pytest.mark.parametrize("name", ["X-PAYMENT", "PAYMENT-SIGNATURE"])
async def test_garbage_instead_of_a_payment_is_malformed(shop: Shop, name: str, content: bytes) -> None:
    """400 with the protocol's code."""
    headers = httpx.Headers([(name.encode(), content)])
    assert is_problem(await shop.mint(headers), 400, "invalid_payload")


async def test_a_payment_in_the_wrong_header_is_malformed(shop: Shop, buyer: Buyer) -> None:
    """A v1 payload in the v2 header is told which header it belongs into."""
    header = {"PAYMENT-SIGNATURE": buyer.header()["X-PAYMENT"]}
    assert is_problem(await shop.mint(header), 400, "invalid_x402_version")


async def test_a_header_above_the_limit_is_refused(shop: Shop) -> None:
    """431: it is the header that is too large."""
    assert is_problem(await shop.mint({"X-PAYMENT": "A" * (HEADER_BYTES_MAX + 1)}), 431, "header_too_large")


async def test_two_payments_at_once_are_refused(shop: Shop, buyer: Buyer) -> None:
    """Which of two headers is meant cannot be known."""
    both = {**buyer.header(version=1), **buyer.header(version=2)}
    assert is_problem(await shop.mint(both), 400, "invalid_payload")
    twice = httpx.Headers([("X-PAYMENT", buyer.header()["X-PAYMENT"])] * 2)
    assert is_problem(await shop.mint(twice), 400, "invalid_payload")
    assert await shop.count() == 0


async def test_a_payment_in_the_body_is_sent_to_the_header(shop: Shop) -> None:
    """X402 only: the older way of paying gets the offer, and a sentence where the payment belongs."""
    answer = await shop.mint(authorization={"from": "0x"})
    assert answer.status_code == 402
    assert "header X-PAYMENT" in answer.json()["detail"]
    assert answer.json()["accepts"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"value": AtomicAmount(PRICE - 1)}, "invalid_exact_evm_payload_authorization_value_mismatch"),
        ({"value": AtomicAmount(PRICE + 1)}, "invalid_exact_evm_payload_authorization_value_mismatch"),
        ({"pay_to": Address(b"\x33" * 20)}, "invalid_exact_evm_payload_recipient_mismatch"),
        ({"valid_before": UnixTime(1)}, "invalid_exact_evm_payload_authorization_valid_before"),
        ({"valid_after": UnixTime(2**62)}, "invalid_exact_evm_payload_authorization_valid_after"),
        ({"payer": Address(b"\x44" * 20)}, "invalid_exact_evm_payload_signature"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
async def test_an_invalid_payment_is_offered_the_price_again(
    shop: Shop, buyer: Buyer, changes: Document, code: str, version: int
) -> None:
    """402 with the protocol's own code, in both generations, and nothing is stored."""
    answer = await shop.mint(buyer.header(version=version, **changes))
    assert answer.status_code == 402
    offer = json.loads(base64.b64decode(answer.headers["PAYMENT-REQUIRED"]))
    assert (answer.json()["error"], offer["error"]) == (code, code)
    assert answer.json()["accepts"][0]["maxAmountRequired"] == str(PRICE)
    assert answer.json()["detail"]
    assert await shop.count() == 0


async def test_a_payment_on_another_network_is_refused(shop: Shop, buyer: Buyer) -> None:
    """402 with the protocol's code for the network."""
    document = json.loads(base64.b64decode(buyer.header()["X-PAYMENT"]))
    other = base64.b64encode(json.dumps({**document, "network": "base"}).encode()).decode()
    answer = await shop.mint({"X-PAYMENT": other})
    assert (answer.status_code, answer.json()["error"]) == (402, "invalid_network")


@pytest.mark.parametrize("end", ["", "0x", "nothing", "0x" + "11" * 19, "0x" + "zz" * 20, "0x" + "11" * 20 + "/"])
async def test_a_path_without_an_address_is_an_unknown_token(shop: Shop, end: str) -> None:
    """404, with or without a slash too many."""
    assert is_problem(await shop.mint(path=f"/api/mint/{end}"), 404, "unknown_token")


@pytest.mark.parametrize("is_paying", [False, True])
async def test_a_token_that_is_not_sold_is_unknown(shop: Shop, buyer: Buyer, is_paying: bool) -> None:
    """404 before anything is paid."""
    headers = buyer.header() if is_paying else None
    answer = await shop.mint(headers, path="/api/mint/0x" + "11" * 20)
    assert is_problem(answer, 404, "unknown_token")
    assert await shop.count() == 0


@pytest.mark.parametrize("is_paying", [False, True])
async def test_more_than_is_left_is_sold_out(database_url: str, pool: Pool, buyer: Buyer, is_paying: bool) -> None:
    """409 for the quantity that does not fit, and the one that fits is sold."""
    await open_shop(pool, max_mint_count=3)
    async with running(configure(database_url), pool) as shop:
        header = buyer.header(4) if is_paying else None
        assert is_problem(await shop.mint(header, quantity=4), 409, "sold_out")
        assert (await shop.mint(buyer.header(3), quantity=3)).status_code == 202


async def test_what_was_just_promised_is_not_promised_again(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """The last units are sold once, also before the next look at the database."""
    await open_shop(pool, max_mint_count=3)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(buyer.header(2), quantity=2)).status_code == 202
        assert is_problem(await shop.mint(buyer.header(2), quantity=2), 409, "sold_out")


async def test_a_token_that_sells_again_is_offered_again(database_url: str, pool: Pool) -> None:
    """Sold out is what the last look said, not for ever."""
    await open_shop(pool, max_mint_count=3)
    async with running(configure(database_url), pool) as shop:
        assert (await shop.mint(quantity=4)).status_code == 409
        await sync_token(pool, max_mint_count=5)

        async def is_offered() -> bool:
            return (await shop.mint(quantity=4)).status_code == 402

        await until(is_offered)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
async def test_minting_is_posted(shop: Shop, method: str) -> None:
    """Any other method is 405 and says which one is right."""
    answer = await shop.client.request(method, MINT_PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, OPTIONS"


async def test_options_says_what_is_allowed(shop: Shop) -> None:
    """204 with `Allow`, and no body."""
    answer = await shop.client.options(MINT_PATH)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "POST, OPTIONS", b"")
    answer = await shop.client.options("/api/tokens")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "GET, HEAD, OPTIONS", b"")


async def test_an_unknown_path_is_a_problem_document(shop: Shop) -> None:
    """404, whatever the path."""
    for path in ("/", "/api", "/api/mint", "/api/tokens/", "/api/payment/", "/%00", "/api/nothing?x=1"):
        assert is_problem(await shop.client.get(path), 404, "not_found")


async def test_a_read_route_is_not_posted_to(shop: Shop) -> None:
    """405 with `Allow`."""
    answer = await shop.client.post("/api/tokens")
    assert is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_an_authorization_that_the_queue_would_outlast_is_refused(shop: Shop, buyer: Buyer) -> None:
    """503 before it is taken: it would expire unsettled."""
    await fill_queue(shop.pool, payments=2_000)
    answer = httpx.Response(0)

    async def is_refused() -> bool:
        nonlocal answer
        answer = await shop.mint(buyer.header(valid_before=UnixTime(int(time.time()) + 100)))
        return answer.status_code != 202

    await until(is_refused)
    assert is_problem(answer, 503, "not_now")
    assert int(answer.headers["retry-after"]) >= 1
    patient = buyer.header(valid_before=UnixTime(int(time.time()) + 900))
    assert (await shop.mint(patient)).status_code == 202


async def test_a_full_queue_takes_nothing(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """503 with `Retry-After`, with and without a payment."""
    await open_shop(pool)
    await fill_queue(pool, payments=5)
    async with running(configure(database_url, payments__queue_depth_max="5"), pool) as shop:
        for headers in (None, buyer.header()):
            answer = await shop.mint(headers)
            assert is_problem(answer, 503, "not_now")
            assert answer.headers["retry-after"]
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") == 5


async def fill_queue(pool: Pool, *, payments: int) -> None:
    """Payments of others that wait to be settled."""
    await pool.execute(
        """
        INSERT INTO payment_queue (id, network, asset, pay_to, token_address, payer, recipient, amount, quantity,
                                   authorization_nonce, valid_after, valid_before, signature, accepted_height)
        SELECT gen_random_uuid(), 'eip155:84532', $1, $1, $1, $1, $1, 1, 1,
               '0x' || lpad(to_hex(n), 64, '0'), 0, 2000000000, '', 100
        FROM generate_series(1, $2) n
        """,
        hex_text(b"\x55" * 20),
        payments,
    )


async def test_the_price_is_checked_when_it_is_paid(shop: Shop, buyer: Buyer) -> None:
    """A payment that accepted another amount than is asked is refused, though its signature is good."""
    answer = await shop.mint(buyer.header(2, version=2), quantity=1)
    assert (answer.status_code, answer.json()["error"]) == (402, "invalid_payment_requirements")


async def test_a_resource_that_fits_no_header_stops_the_start(database_url: str, pool: Pool) -> None:
    """A public URL that cannot be offered is the operator's to mend, before the first buyer sees it."""
    with pytest.raises(OperatorError, match="public_url"):
        async with running(configure(database_url, server__public_url="https://example.org/ä"), pool):
            raise AssertionError("it started")
