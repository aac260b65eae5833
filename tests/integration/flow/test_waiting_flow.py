"""Waiting and watching while real workers settle and mint."""

from __future__ import annotations

import asyncio

import pytest
from api.stream import open_stream
from x402.http.utils import decode_payment_response_header

from payfirst.api import waiting
from payfirst.units import AtomicAmount, checksum_address

from .rig import Buyer, Rig


async def held(rig: Rig, buyer: Buyer, header: dict[str, str], quantity: int = 1) -> tuple[int, dict[str, str], object]:
    """Status, headers and document of an order that would wait."""
    answer = await rig.client.post(
        f"/api/mint/{checksum_address(rig.token)}",
        headers={**header, "Prefer": "wait=25"},
        json={"quantity": quantity},
    )
    return answer.status_code, dict(answer.headers), answer.json()


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: the workers' word alone is heard."""
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 3_600.0)


@pytest.mark.usefixtures("no_look")
async def test_a_held_order_is_settled_by_real_workers(rig: Rig) -> None:
    """One answer, 200, with the settlement on chain; its replay gives the same."""
    (buyer,) = await rig.buyers(1)
    header = buyer.header(buyer.authorize(2))
    async with rig.working():
        status, headers, document = await held(rig, buyer, header, 2)
        again = await held(rig, buyer, header, 2)
        await rig.until_counts(mints_completed=2)
    assert (status, headers["preference-applied"]) == (200, "wait=25")
    assert isinstance(document, dict)
    assert (document["status"], len(document["result"]["queueIds"])) == ("completed", 2)
    settled = decode_payment_response_header(headers["x-payment-response"])
    assert (settled.success, settled.transaction) == (True, document["txHash"])
    assert (again[0], again[1]["x-payment-response"]) == (200, headers["x-payment-response"])
    await rig.check_invariants()


@pytest.mark.usefixtures("no_look")
async def test_a_held_order_that_cannot_be_paid_is_no_402(rig: Rig) -> None:
    """The worker finds an empty account while the client waits."""
    (poor,) = await rig.buyers(1, funds=AtomicAmount(0))
    async with rig.working():
        status, headers, document = await held(rig, poor, poor.header(poor.authorize()))
    assert isinstance(document, dict)
    assert (status, document["status"]) == (200, "failed")
    settled = decode_payment_response_header(headers["x-payment-response"])
    assert (settled.success, settled.error_reason) == (False, "insufficient_funds")


@pytest.mark.usefixtures("no_look")
async def test_each_step_of_the_workers_is_said(rig: Rig) -> None:
    """Nobody looks, and the stream of a payment hears of all of its steps up to the last unit."""
    (buyer,) = await rig.buyers(1)
    payment_id = None
    async with asyncio.timeout(60):
        async with rig.working():
            payment_id = await rig.pay(buyer, 2)
            heard = []
            async with open_stream(rig.client._transport.app, f"/api/payment/{payment_id}/events") as stream:  # type: ignore[attr-defined]  # httpx names no type
                while (event := await stream.event()) is not None:
                    heard.append(event)
    names = [event.name for event in heard]
    assert names[-1] == "end"
    # Steps may come together, never out of order.
    order = ["pending", "sent", "completed", "mint", "end"]
    assert sorted(set(names), key=order.index) == list(dict.fromkeys(names))
    assert {"completed", "end"} <= set(names)
    assert [mint["status"] for mint in heard[-1].document["mints"]] == ["completed", "completed"]
