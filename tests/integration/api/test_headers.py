"""What browsers are told with every answer: safety, and which pages may read it."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from payfirst.api.headers import ALLOWED_HEADERS, EXPOSED_HEADERS
from payfirst.store.database import Pool

from .shop import MINT_PATH, Buyer, Shop, configure, open_shop, running

PAGE = "https://shop.example"
OTHER_PAGE = "https://other.example"
FORGET_PAYMENTS = "DROP TABLE payment_queue CASCADE"


async def one_of_each(shop: Shop, headers: dict[str, str]) -> dict[int, httpx.Response]:
    """An answer of each kind, by status: offered, accepted, read, refused in four ways, and failed."""
    paid = Buyer().header()
    answers = [
        await shop.mint(headers),
        await shop.mint({**paid, **headers}),
        await shop.client.get("/api/tokens", headers=headers),
        await shop.client.post(MINT_PATH, content=b"{", headers=headers),
        await shop.client.get("/api/nothing", headers=headers),
        await shop.client.put("/api/tokens", headers=headers),
        await shop.client.options("/api/tokens", headers=headers),
    ]
    await shop.pool.execute(FORGET_PAYMENTS)
    answers.append(await shop.mint({**Buyer().header(), **headers}))
    by_status = {answer.status_code: answer for answer in answers}
    assert sorted(by_status) == [200, 202, 204, 400, 402, 404, 405, 500]
    return by_status


async def test_every_answer_is_guarded(shop: Shop) -> None:
    """Nothing is sniffed, framed, loaded or cached; no CORS header, and no HSTS where the URL is http."""
    for status, answer in (await one_of_each(shop, {"Origin": PAGE})).items():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers.get("cache-control") == (None if status == 204 else "no-store")
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "strict-transport-security" not in answer.headers
        assert "vary" not in answer.headers


async def test_a_listed_page_may_read_every_answer(database_url: str, pool: Pool) -> None:
    """Also a 402, a refusal and a 500, with the x402 headers exposed."""
    await open_shop(pool)
    async with running(configure(database_url, server__cors_origins=f"{PAGE},{OTHER_PAGE}"), pool) as shop:
        for answer in (await one_of_each(shop, {"Origin": PAGE})).values():
            assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
            assert answer.headers["access-control-expose-headers"] == EXPOSED_HEADERS.decode()
            assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
async def test_another_page_may_read_nothing(database_url: str, pool: Pool, origin: dict[str, str]) -> None:
    """No permission, and `Vary`, so that no cache hands it a listed page's answer."""
    await open_shop(pool)
    async with running(configure(database_url, server__cors_origins=PAGE), pool) as shop:
        for answer in (await one_of_each(shop, origin)).values():
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"


async def test_any_page_may_read_where_all_may(database_url: str, pool: Pool) -> None:
    """`*` is one answer for everybody."""
    await open_shop(pool)
    async with running(configure(database_url, server__cors_origins="*"), pool) as shop:
        for answer in (await one_of_each(shop, {"Origin": PAGE})).values():
            assert answer.headers["access-control-allow-origin"] == "*"


def preflight(origin: str) -> dict[str, str]:
    """What a browser asks before it pays."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,payment-signature",
    }


@pytest.mark.parametrize("origins", ["*", PAGE])
async def test_a_page_may_ask_beforehand(database_url: str, pool: Pool, origins: str) -> None:
    """204 with the methods and the headers that paying takes, at any path."""
    async with running(configure(database_url, server__cors_origins=origins), pool) as shop:
        for path in (MINT_PATH, "/api/tokens", "/api/payment/stats", "/api/payment/1/events", "/health"):
            answer = await shop.client.options(path, headers=preflight(PAGE))
            assert (answer.status_code, answer.content) == (204, b"")
            assert answer.headers["access-control-allow-origin"] == origins
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert answer.headers["access-control-allow-headers"] == ALLOWED_HEADERS.decode()


async def test_a_page_that_is_not_listed_is_not_let_in(database_url: str, pool: Pool) -> None:
    """The browser finds no permission in the answer and sends nothing."""
    async with running(configure(database_url, server__cors_origins=PAGE), pool) as shop:
        answer = await shop.client.options(MINT_PATH, headers=preflight(OTHER_PAGE))
    assert "access-control-allow-origin" not in answer.headers


async def test_without_the_setting_no_page_is_let_in(shop: Shop) -> None:
    """The answer is that of any OPTIONS."""
    answer = await shop.client.options(MINT_PATH, headers=preflight(PAGE))
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_https_is_demanded_of_browsers_where_it_is_there(database_url: str, pool: Pool) -> None:
    """HSTS for a public URL of https, without a word about other hosts of that domain."""
    async with running(configure(database_url, server__public_url="https://shop.example/pay"), pool) as shop:
        answer = await shop.client.get("/health")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_every_link_begins_with_the_public_url(database_url: str, pool: Pool, buyer: Buyer) -> None:
    """With its path: the resource of an offer in both generations, statusUrl and Location."""
    public = "https://shop.example/pay"
    await open_shop(pool)
    async with running(configure(database_url, server__public_url=f"{public}/"), pool) as shop:
        offer = await shop.mint()
        accepted = await shop.mint(buyer.header())
    assert offer.json()["accepts"][0]["resource"] == public + MINT_PATH
    assert json.loads(base64.b64decode(offer.headers["payment-required"]))["resource"]["url"] == public + MINT_PATH
    assert accepted.json()["statusUrl"] == f"{public}/api/payment/{accepted.json()['paymentQueueId']}"
    assert accepted.headers["location"] == accepted.json()["statusUrl"]
