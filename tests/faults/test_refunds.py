"""kill -9 of a worker around a refund, and two workers at one debt: the buyer's money comes back once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from flow.refunding import check_refunds, give_treasury, owe, refunds_are
from flow.restore import dump, restore
from flow.rig import Rig, open_rig

from payfirst.local.chain import dev_address
from payfirst.store.database import Pool
from payfirst.units import AtomicAmount

from .rig.boundary import Boundary, Moment, kill_of, naming
from .rig.rpc_proxy import rpc_proxy
from .waiting import ended


@pytest.fixture
async def rig(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """A rig with a treasury that refunds by itself."""
    async with open_rig(database_url, pool) as opened:
        yield await give_treasury(opened)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_fault_25_killed_around_its_broadcast_a_refund_is_paid_once(rig: Rig, moment: Moment) -> None:
    """The bytes were stored first: the next worker sends the same, and no other transaction is made."""
    buyers = await rig.buyers(2, funds=AtomicAmount(0))
    waiting = replace(rig, terms=replace(rig.terms, refund_mode="approve"))
    async with waiting.working():
        await owe(rig, *buyers, units=2)
        await rig.until(refunds_are(rig, waiting=4))
    async with rpc_proxy(rig.chain.url) as proxy, rig.worker_process(rpc_url=proxy.url) as worker:
        proxy.boundary = Boundary(1, moment, kill_of(worker), counts=naming("eth_sendRawTransaction"))
        await rig.until(ended(worker))
    stored = [row["hash"] for row in await rig.pool.fetch("SELECT hash FROM chain_attempts")]
    async with rig.worker_process():
        await rig.until(refunds_are(rig, completed=4))
    assert [row["hash"] for row in await rig.pool.fetch("SELECT hash FROM chain_attempts")] == stored
    await check_refunds(rig, units=4, buyers=buyers)
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_25_two_workers_refund_a_debt_once(rig: Rig) -> None:
    """One holds the signer; when it is killed the other goes on where its rows stand."""
    buyers = await rig.buyers(4, funds=AtomicAmount(0))
    waiting = replace(rig, terms=replace(rig.terms, refund_mode="approve"))
    async with waiting.working():
        await owe(rig, *buyers)
        await rig.until(refunds_are(rig, waiting=4))
    async with rig.worker_process() as first, rig.worker_process():

        async def sent() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) FROM refunds WHERE tx_hash IS NOT NULL"))

        await rig.until(sent)
        first.kill()
        await rig.until(refunds_are(rig, completed=4))
    await check_refunds(rig, units=4, buyers=buyers)
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_33_a_restored_backup_refunds_nothing_twice(rig: Rig, tmp_path: Path) -> None:
    """Waiting at the backup, paid after it: the chain's own record completes it, and no second transaction is made."""
    (buyer,) = await rig.buyers(1, funds=AtomicAmount(0))
    waiting = replace(rig, terms=replace(rig.terms, refund_mode="approve"))
    async with waiting.working():
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
    await dump(rig.database_url, tmp_path / "backup")
    async with rig.working():
        await rig.until(refunds_are(rig, completed=1))
    sent = await rig.chain.rpc.account_nonce(dev_address("refund"))
    await restore(rig.database_url, tmp_path / "backup")
    await rig.pool.expire_connections()
    assert await rig.pool.fetchval("SELECT status FROM refunds") == "waiting"
    async with rig.working(audit_every_s=1):
        await rig.until(refunds_are(rig, completed=1))
    assert await rig.chain.rpc.account_nonce(dev_address("refund")) == sent == 1
    await check_refunds(rig, units=1, buyers=[buyer])
