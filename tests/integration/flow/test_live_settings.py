"""Workers take up what the operator sets, within seconds and without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace

from payfirst.cli.work import lay_over
from payfirst.config import load
from payfirst.local.chain import dev_key
from payfirst.store import settings
from payfirst.store.database import Pool
from payfirst.units import Address, checksum_address, hex_text

from .rig import PAY_TO, Rig, open_rig


async def put(rig: Rig, **values: object) -> None:
    """What `payfirst settings set` stores; `settle__batch_max` is settle.batch_max."""
    async with rig.pool.acquire() as connection:
        for name, value in values.items():
            await settings.put(connection, name.replace("__", "."), value, by="test")


async def unset(rig: Rig, setting: str) -> None:
    """What `payfirst settings unset` does."""
    async with rig.pool.acquire() as connection:
        await settings.remove(connection, setting)


async def until_taken_up(rig: Rig, **values: object) -> None:
    """Return once the worker says so."""
    wanted = {name.replace("__", "."): value for name, value in values.items()}

    async def is_taken_up() -> bool:
        said = await rig.pool.fetchval("SELECT settings FROM processes WHERE role = 'worker'")
        found: dict[str, object] = json.loads(said or "{}").get("taken", {})
        return found == wanted

    await rig.until(is_taken_up, within_s=10)


@contextlib.asynccontextmanager
async def working(rig: Rig, **environ: str) -> AsyncIterator[None]:
    """A worker of the rig that lays the table over its configuration."""
    config = load(
        role="worker",
        environ={
            "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
            "PAYFIRST_NETWORK__POLL_INTERVAL_MS": "50",
            "PAYFIRST_SIGNERS__SETTLE_KEY": hex_text(dev_key("settle")),
            "PAYFIRST_SIGNERS__MINT_KEY": hex_text(dev_key("mint")),
            **environ,
        },
    )
    async with rig.working(lay_over=lay_over(config)):
        yield


async def test_paused_minting_leaves_units_waiting_and_loses_none(rig: Rig) -> None:
    """Payments complete, their units wait; a worker that starts meanwhile mints nothing; then they are minted."""
    (buyer,) = await rig.buyers(1)
    await put(rig, pause__minting=True)
    async with working(rig):
        await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=1, mints_pending=2)
        await until_taken_up(rig, pause__minting=True)
        await unset(rig, "pause.minting")
        await rig.until_counts(mints_completed=2)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE purpose = 'mint'") == 1
    await rig.check_invariants()


async def test_paused_settling_finishes_what_was_sent_and_sends_nothing(database_url: str, pool: Pool) -> None:
    """What is on its way is confirmed and minted; what waits stays, and goes when the pause is over."""
    async with open_rig(database_url, pool, block_time_s=None) as rig:
        first, second = await rig.buyers(2)
        await put(rig, settle__unresolved_max=1)
        async with working(rig):
            await rig.chain.set_automine(False)
            await rig.pay(first)
            await rig.until_counts(payments_sent=1)
            await rig.pay(second)
            await put(rig, pause__settling=True)
            await until_taken_up(rig, settle__unresolved_max=1, pause__settling=True)
            await rig.chain.mine()
            await rig.until_counts(payments_completed=1, mints_sent=1)
            await rig.chain.mine()
            await rig.until_counts(mints_completed=1, payments_pending=1)
            await rig.chain.set_automine(True)
            await unset(rig, "pause.settling")
            await rig.until_counts(payments_completed=2, mints_completed=2)
        await rig.check_invariants()


async def test_batches_are_as_small_as_the_operator_says(rig: Rig, log_lines: io.StringIO) -> None:
    """And as large again when the setting is unset; a value that cannot be is refused and changes nothing."""
    buyers = await rig.buyers(6)
    async with working(rig):
        await put(rig, settle__batch_max=2, mint__batch_max=3, settle__linger_ms=-1)
        await until_taken_up(rig, settle__batch_max=2, mint__batch_max=3)
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
        await rig.until_counts(mints_completed=6)
        sizes = await rig.pool.fetch("SELECT purpose, max(item_count) AS size FROM chain_transactions GROUP BY purpose")
        largest = {row["purpose"]: row["size"] for row in sizes}
        assert largest["settle"] <= 2
        assert largest["mint"] <= 3
    assert "settings_taken_up" in log_lines.getvalue()
    assert "a whole number from 0 to 10000" in log_lines.getvalue()
    await rig.check_invariants()


def test_a_worker_goes_by_the_live_fields_only() -> None:
    """Who is paid, and where, is changed by a restart only."""
    config = load(role="tool", environ={"PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO)})
    terms = lay_over(config)({}).terms
    newer = replace(terms, settle_batch_max=7, pay_to=Address(b"\x01" * 20), confirmations=9)
    before = terms.pay_to, terms.confirmations
    terms.take_up(newer)
    assert (terms.settle_batch_max, terms.pay_to, terms.confirmations) == (7, *before)
