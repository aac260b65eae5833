"""What the seller changes while buyers buy holds from then on, and undoes nothing that was accepted."""

from __future__ import annotations

import httpx

from payfirst.store import tokens
from payfirst.units import AtomicAmount, checksum_address
from payfirst.x402.verify import AmountMismatch

from .rig import NETWORK, PRICE, Rig

NEW_PRICE = AtomicAmount(3 * PRICE)


async def test_what_was_accepted_before_a_pause_or_a_price_is_minted(rig: Rig) -> None:
    """It keeps the amount it was signed for; the next buyer is refused, and pays nothing."""
    early, late = await rig.buyers(2)
    path = f"/api/mint/{checksum_address(rig.token)}"

    async def offered() -> httpx.Response:
        return await rig.client.post(path, json={"quantity": 1})

    async def is_dearer() -> bool:
        return bool((await offered()).json()["accepts"][0]["maxAmountRequired"] == str(NEW_PRICE))

    async def is_paused() -> bool:
        return (await offered()).status_code == 503

    async with rig.working(settle_unresolved_max=0):  # nothing is settled yet
        await rig.pay(early, 2)
        async with rig.pool.acquire() as connection:
            assert await tokens.change_price(connection, NETWORK.caip2, rig.token, before=PRICE, after=NEW_PRICE)
        await rig.until(is_dearer)
        refused = await rig.order(late)
        assert (refused.status_code, refused.json()["error"]) == (402, AmountMismatch.code)
        assert refused.json()["accepts"][0]["maxAmountRequired"] == str(NEW_PRICE)
        async with rig.pool.acquire() as connection:
            assert await tokens.pause(connection, NETWORK.caip2, rig.token)
        await rig.until(is_paused)
        assert await rig.counts() == {"payments_pending": 1}
    async with rig.worker_process():  # with nothing on sale the API is not ready, which the other one waits for
        await rig.until_counts(payments_completed=1, mints_completed=2)
        assert await is_paused()
    await rig.check_invariants()
