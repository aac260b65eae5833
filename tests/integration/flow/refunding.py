"""A rig with a treasury, and what it takes to be owed something."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from payfirst.chain import contracts
from payfirst.local.chain import dev_address
from payfirst.units import AtomicAmount, BlockNumber, Wei, hex_text

from .rig import PRICE, Buyer, Rig, transfer

TREASURY = dev_address("treasury")
FINAL_DEPTH = 2


async def give_treasury(rig: Rig, units: int = 1_000) -> Rig:
    """The rig with refund keys, gas money for their signer, and the price of so many units in the treasury."""
    await rig.chain.fund_gas([dev_address("refund")], Wei(10**20))
    if units:
        await rig.chain.fund_usdc([TREASURY], AtomicAmount(PRICE * units))
    return replace(rig, treasury="treasury", terms=replace(rig.terms, final_depth=FINAL_DEPTH, refund_mode="automatic"))


async def owe(rig: Rig, *buyers: Buyer, units: int = 1) -> uuid.UUID:
    """Late money for a sold-out token, while a worker runs: each unit is owed. Returns the last buyer's payment."""
    (other,) = await rig.buyers(1, funds=AtomicAmount(0))
    promised = await rig.pay(other)
    authorizations = [buyer.authorize(units) for buyer in buyers]
    for buyer, authorization in zip(buyers, authorizations, strict=True):
        response = await rig.order(buyer, units, authorization=authorization)
        assert response.status_code == 202, response.text
    await rig.until_counts(payments_failed=len(buyers) + 1)
    # All that is left is promised to another for as long as this takes.
    await rig.pool.execute(
        "UPDATE payment_queue p SET status = 'pending', error = NULL, quantity = t.max_mint_count,"
        " supply_reserved = true, held_reason = 'the other' FROM tokens t WHERE p.id = $1",
        promised,
    )
    await rig.pool.execute("UPDATE tokens SET reserved = max_mint_count")
    for buyer, authorization in zip(buyers, authorizations, strict=True):
        await rig.chain.fund_usdc([buyer.address], authorization.value)
        await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))

    async def owed() -> bool:
        return bool(await rig.pool.fetchval("SELECT count(*) FROM owed") == units * len(buyers))

    await rig.until(owed)
    await rig.pool.execute("UPDATE payment_queue SET status = 'failed' WHERE id = $1", promised)
    return uuid.UUID(response.json()["paymentQueueId"])


def refunds_are(rig: Rig, **expected: int) -> Callable[[], Awaitable[bool]]:
    """Whether there are so many refunds of these statuses, and of no other."""

    async def holds() -> bool:
        rows = await rig.pool.fetch("SELECT status, count(*) FROM refunds GROUP BY status")
        return {row["status"]: row["count"] for row in rows} == expected

    return holds


async def check_refunds(rig: Rig, *, units: int, buyers: list[Buyer]) -> None:
    """Each of `units` was given back once: in the rows, in the treasury, and with the buyers."""
    assert await rig.pool.fetchval("SELECT count(*) FROM owed WHERE status = 'refunded'") == units
    assert await rig.pool.fetchval("SELECT count(*) FROM refunds WHERE status = 'completed'") == units
    logs = await rig.chain.rpc.logs(
        address=rig.chain.usdc,
        topics=[hex_text(contracts.AUTHORIZATION_USED_TOPIC), hex_text(bytes(12) + TREASURY)],
        first=BlockNumber(0),
        last=(await rig.chain.rpc.head()).number,
    )
    by_rows = {row["tx_hash"] for row in await rig.pool.fetch("SELECT tx_hash FROM refunds")}
    assert {hex_text(tx_hash) for tx_hash in logs} == by_rows
    assert sum([await rig.balance(rig.chain.usdc, buyer.address) for buyer in buyers]) == units * PRICE
