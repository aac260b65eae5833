"""How soon service is back, with a block a second: figures that are printed, and bounds that hold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from flow.rig import Rig, open_rig

from payfirst.store.database import Pool

from .rig.processes import kill
from .rig.rpc_proxy import drops, honest, rpc_proxy
from .rig.servers import server_of_its_own
from .test_outages import answers_again, is_taken, rig_on
from .waiting import Holds, finds, idle, ready

pytestmark = pytest.mark.slow
# The goal is 5 s on a quiet machine, and the printed figures tell; tests run on busy ones.
RECOVERY_S_MAX = 8.0
RUNS = 5


@pytest.fixture
async def slow_blocks(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """A rig with a block a second."""
    async with open_rig(database_url, pool, block_time_s=1) as opened:
        yield opened


async def test_from_kill_9_of_a_worker_to_the_next_settled_payment(slow_blocks: Rig) -> None:
    """Another worker is there: it takes the signers when the lease of the dead one has ended."""
    rig, taken_s = slow_blocks, []
    buyers = await rig.buyers(RUNS)
    async with contextlib.AsyncExitStack() as stack:
        holder = await stack.enter_async_context(rig.worker_process())
        await rig.until(finds(rig, "SELECT count(*) = 2 FROM signers WHERE lease_until > now()"))
        for settled, buyer in enumerate(buyers, start=1):
            other = await stack.enter_async_context(rig.worker_process())
            await rig.until(finds(rig, "SELECT count(*) = 1 FROM processes WHERE pid = $1", other.pid))
            await kill(holder)
            killed_at = time.monotonic()
            await rig.pay(buyer)
            await rig.until_counts(payments_completed=settled)
            taken_s.append(time.monotonic() - killed_at)
            await rig.until(idle(rig))
            holder = other
    report("kill -9 of a worker", taken_s)
    await rig.check_invariants()


async def test_from_the_restart_of_postgresql_to_the_next_settled_payment() -> None:
    """kill -9 of all its processes; counted from where it takes connections again."""
    taken_s = []
    with server_of_its_own() as server:
        async with rig_on(server, block_time_s=1) as rig, rig.worker_process():
            await rig.until(ready(rig))
            for settled, buyer in enumerate(await rig.buyers(RUNS), start=1):
                server.kill()
                server.start()
                back_at = time.monotonic()
                await rig.until(is_taken(rig, buyer))
                await rig.until(answers_again(rig))
                await rig.until_counts(payments_completed=settled)
                taken_s.append(time.monotonic() - back_at)
                await rig.until(idle(rig))
            await rig.check_invariants()
    report("restart of PostgreSQL", taken_s)


async def test_after_an_rpc_outage_payments_settle_within_two_blocks(slow_blocks: Rig) -> None:
    """What was paid meanwhile is in the second block after its end at the latest, however long it was."""
    rig, blocks = slow_blocks, []
    async with rpc_proxy(rig.chain.url) as proxy, rig.worker_process(rpc_url=proxy.url):
        await rig.until(ready(rig))
        for settled, buyer in enumerate(await rig.buyers(RUNS), start=1):
            proxy.fault = drops
            await rig.pay(buyer)
            down_at = (await rig.chain.rpc.head()).number
            await rig.until(_is_at(rig, down_at + 2 * settled))
            proxy.fault = honest
            back_at = (await rig.chain.rpc.head()).number
            await rig.until_counts(payments_completed=settled)
            blocks.append(await rig.pool.fetchval("SELECT max(settled_block) FROM payment_queue") - back_at)
            await rig.until(idle(rig))
    print("end of an RPC outage → settled, in blocks:", *blocks)
    assert max(blocks) <= 2
    await rig.check_invariants()


def report(fault: str, taken_s: list[float]) -> None:
    """Print the figures, and hold them to the bound."""
    print(f"{fault} → next settled payment:", " ".join(f"{s:.1f} s" for s in taken_s))
    assert max(taken_s) < RECOVERY_S_MAX


def _is_at(rig: Rig, height: int) -> Holds:
    async def holds() -> bool:
        return (await rig.chain.rpc.head()).number >= height

    return holds
