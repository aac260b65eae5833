"""payfirst.client against a real seller: bought to the minted end, and paid once whatever happens to the answers."""

from __future__ import annotations

import asyncio
import stat
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from conformance.shop import Shop
from flow.rig import ENOUGH, MINT_AMOUNT, PAY_TO, PRICE
from flow.rig import Buyer as Account

from payfirst.client import (
    Accepted,
    AlreadyUnderWay,
    Buyer,
    Ended,
    Folder,
    Limits,
    Offered,
    OfferRefused,
    Order,
    Outcome,
    PaymentFailed,
    PaymentRefused,
    Progress,
    Signed,
    Step,
    StillUnderWay,
    Stopped,
    Waiting,
)
from payfirst.client.errors import OrderRefused
from payfirst.units import Address, hex_text

from .seller_proxy import Cut, Forward, seller_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def bought(buyer: Buyer, order: Order, reference: str | None = None) -> list[Step]:
    """Every step of a purchase."""
    async with buyer:
        return [step async for step in buyer.buy(order, reference=reference)]


async def resumed(folder: Path, patience_s: float = 60) -> list[Step]:
    """Every step of going on, without a key."""
    async with Buyer(None, folder=folder, patience_s=patience_s) as buyer:
        return [step async for step in buyer.resume()]


def outcomes(steps: list[Step]) -> list[Outcome]:
    """How the purchases ended."""
    return [step.outcome for step in steps if isinstance(step, Ended)]


async def rows(shop: Shop, account: Account) -> int:
    """How many payments the seller has of an account."""
    return int(await shop.rig.pool.fetchval("SELECT count(*) FROM payment_queue WHERE payer = $1", payer(account)))


def payer(account: Account) -> str:
    """An account as the database has it."""
    return hex_text(account.address)


async def paid_once(shop: Shop, account: Account, *, units: int) -> None:
    """One row, one price, and the units in the wallet."""
    assert await rows(shop, account) == 1
    assert await shop.rig.balance(shop.rig.chain.usdc, account.address) == ENOUGH - units * PRICE
    assert await shop.rig.balance(shop.rig.token, account.address) == units * MINT_AMOUNT
    await shop.rig.check_invariants()


async def test_an_order_is_bought_to_the_minted_end(shop: Shop, account: Account, tmp_path: Path) -> None:
    """Each step in its order; the payment is on the disk, for its owner only, before the seller has it."""
    async with Buyer(account.key, folder=tmp_path / "purchases") as buyer:
        steps = []
        async for step in buyer.buy(Order.at(shop.mint_url, quantity=2)):
            steps.append(step)
            if isinstance(step, Signed):
                (kept,) = (tmp_path / "purchases" / "unfinished").iterdir()
                assert stat.S_IMODE(kept.stat().st_mode) == 0o600
                assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
                assert step.purchase.header is not None
                assert step.purchase.header in kept.read_text()
                assert step.purchase.header not in repr(step)
                assert await rows(shop, account) == 0
        kinds = [type(step) for step in steps]
        assert kinds[:3] == [Offered, Signed, Accepted]
        assert set(kinds[3:-1]) == {Progress}
        last = steps[-1]
        assert isinstance(last, Ended)
        assert (last.outcome, last.error, last.purchase.minted) == (Outcome.MINTED, None, 2)
        await paid_once(shop, account, units=2)
        (done,) = (tmp_path / "purchases" / "finished").iterdir()
        assert '"header":' not in done.read_text()
        assert list((tmp_path / "purchases" / "unfinished").iterdir()) == []
        # The same order may be made again: it is another purchase.
        again = [step async for step in buyer.buy(Order.at(shop.mint_url, quantity=2))]
        assert outcomes(again) == [Outcome.MINTED]
    assert await resumed(tmp_path / "purchases") == []
    assert await shop.rig.balance(shop.rig.token, account.address) == 4 * MINT_AMOUNT


async def test_a_reference_pays_once(shop: Shop, account: Account, tmp_path: Path) -> None:
    """Given again it says how that purchase ended; for another order it is refused, and nothing is signed."""
    order = Order.at(shop.mint_url, quantity=1, recipient=Address(b"\x77" * 20))
    assert outcomes(await bought(Buyer(account.key, folder=tmp_path), order, "order-17")) == [Outcome.MINTED]
    (again,) = await bought(Buyer(account.key, folder=tmp_path), order, "order-17")
    assert isinstance(again, Ended)
    with pytest.raises(AlreadyUnderWay, match="another order"):
        await bought(Buyer(account.key, folder=tmp_path), replace(order, quantity=2), "order-17")
    assert await rows(shop, account) == 1
    assert await shop.rig.balance(shop.rig.token, Address(b"\x77" * 20)) == MINT_AMOUNT


async def test_what_is_outside_the_limits_is_not_signed(shop: Shop, account: Account, tmp_path: Path) -> None:
    """Cap, payee, and an order that the seller refuses: nothing on the disk, nothing at the seller."""
    order = Order.at(shop.mint_url, quantity=3)
    for limits, sentence in (
        (Limits(max_total="0.029999"), "the cap is 0.029999"),
        (Limits(max_total=29_999), "the cap is 0.029999"),
        (Limits(pay_to=Address(b"\x99" * 20)), "not 0x9999"),
    ):
        with pytest.raises(OfferRefused, match=sentence):
            await bought(Buyer(account.key, folder=tmp_path, limits=limits), order)
    with pytest.raises(OrderRefused, match="At most 10 units"):
        await bought(Buyer(account.key, folder=tmp_path), replace(order, quantity=11))
    assert Folder(tmp_path).unfinished() == []
    assert await rows(shop, account) == 0
    exact = Limits(max_total=30_000, pay_to=PAY_TO)
    assert outcomes(await bought(Buyer(account.key, folder=tmp_path, limits=exact), order)) == [Outcome.MINTED]


async def test_lost_answers_are_asked_for_with_the_same_header(shop: Shop, account: Account, tmp_path: Path) -> None:
    """The 202 is lost, then come a proxy's pages and a 503 with Retry-After: one header, one payment."""
    came: list[float] = []

    async def lose(number: int, forward: Forward) -> web.Response:
        came.append(time.monotonic())
        match number:
            case 1:
                assert (await forward()).status == 202
                raise Cut
            case 2:
                return web.Response(status=404, text="<h1>not found</h1>", content_type="text/html")
            case 3:
                return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/elsewhere"})
            case 4:
                body = '{"code": "not_now", "detail": "Nothing could be settled.", "status": 503}'
                return web.Response(
                    status=503, text=body, content_type="application/problem+json", headers={"Retry-After": "3"}
                )
        return await forward()

    async with seller_proxy(shop.url, lose) as proxy:
        order = Order.at(shop.mint_url.replace(shop.url, proxy.url), quantity=2)
        steps = await bought(Buyer(account.key, folder=tmp_path), order)
    waited = [step.reason for step in steps if isinstance(step, Waiting)]
    assert len(waited) == 4
    assert waited[1] == "HTTP 404"
    assert "not followed" in waited[2]
    assert waited[3] == "Nothing could be settled."
    assert came[4] - came[3] >= 3
    assert (len(proxy.payments), len(set(proxy.payments))) == (5, 1)
    assert outcomes(steps) == [Outcome.MINTED]
    await paid_once(shop, account, units=2)


async def test_a_seller_that_forgot_is_sent_the_same_payment(shop: Shop, account: Account, tmp_path: Path) -> None:
    """Its 202 was of a database that has since been put back: the id is unknown, and the header as good as before."""

    async def invent(number: int, forward: Forward) -> web.Response:
        if number == 1:
            return web.json_response({"paymentQueueId": "01890a5d-ac96-774b-bcce-b302099a8057"}, status=202)
        return await forward()

    async with seller_proxy(shop.url, invent) as proxy:
        order = Order.at(shop.mint_url.replace(shop.url, proxy.url), quantity=1)
        steps = await bought(Buyer(account.key, folder=tmp_path), order)
    assert (len(proxy.payments), len(set(proxy.payments))) == (2, 1)
    assert outcomes(steps) == [Outcome.MINTED]
    await paid_once(shop, account, units=1)


async def test_an_account_without_money_is_told(shop: Shop, tmp_path: Path) -> None:
    """Taken, found out at settling: failed, with the seller's words."""
    (poor,) = await shop.rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    (*_, failed) = await bought(Buyer(poor.key, folder=tmp_path), Order.at(shop.mint_url, quantity=1))
    assert isinstance(failed, Ended)
    assert (failed.outcome, failed.purchase.error_code) == (Outcome.FAILED, "insufficient_funds")
    assert isinstance(failed.error, PaymentFailed)
    assert "fund the account" in str(failed.error)


async def test_a_price_that_rose_after_signing_is_refused(shop: Shop, account: Account, tmp_path: Path) -> None:
    """The seller takes the exact price only; nothing more is signed for this purchase, and no money moved."""

    async def set_price(price: int) -> None:
        await shop.rig.pool.execute("UPDATE tokens SET price = $1", price)

        async def is_asked() -> bool:
            offer = (await http.post(shop.mint_url, json={"quantity": 1})).json()
            return bool(offer["accepts"][0]["maxAmountRequired"] == str(price))

        await shop.rig.until(is_asked)

    steps = []
    async with httpx.AsyncClient() as http:
        try:
            async with Buyer(account.key, folder=tmp_path) as buyer:
                async for step in buyer.buy(Order.at(shop.mint_url, quantity=1)):
                    steps.append(step)
                    if isinstance(step, Signed):
                        await set_price(PRICE + 1)
        finally:
            await set_price(PRICE)
    refused = steps[-1]
    assert isinstance(refused, Ended)
    assert (refused.outcome, await rows(shop, account)) == (Outcome.REFUSED, 0)
    assert isinstance(refused.error, PaymentRefused)
    assert "fetch the offer again" in str(refused.error)
    assert Folder(tmp_path).unfinished() == []


async def test_patience_ends_and_resume_goes_on(shop: Shop, account: Account, tmp_path: Path) -> None:
    """With the seller out of reach after signing: still under way, the same order is not signed again, and resumed."""

    async def away(_number: int, _forward: Forward) -> web.Response:
        raise Cut

    async with seller_proxy(shop.url, away) as proxy:
        order = Order.at(shop.mint_url.replace(shop.url, proxy.url), quantity=2)
        with pytest.raises(StillUnderWay, match="resume"):
            await bought(Buyer(account.key, folder=tmp_path, patience_s=1.5), order)
        with pytest.raises(AlreadyUnderWay, match="unfinished"):
            await bought(Buyer(account.key, folder=tmp_path), order)
        (stopped,) = [step for step in await resumed(tmp_path, 1) if isinstance(step, Stopped)]
        assert isinstance(stopped.error, StillUnderWay)

        async def back(_number: int, forward: Forward) -> web.Response:
            return await forward()

        proxy.act = back
        both = await asyncio.gather(resumed(tmp_path), resumed(tmp_path))
    assert [outcomes(steps) for steps in both] == [[Outcome.MINTED], [Outcome.MINTED]]
    assert len(set(proxy.payments)) == 1
    await paid_once(shop, account, units=2)
