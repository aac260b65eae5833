"""A database that lost commits: signers are fenced until all is adopted, nothing is minted or used twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from flow.restore import dump, restore
from flow.rig import MINT_AMOUNT, PRICE, Buyer, Rig

from payfirst.chain.abi import encode_call
from payfirst.chain.rpc_wire import WireHead
from payfirst.local.chain import dev_address, dev_key
from payfirst.units import Address, hex_text

from .rig.rpc_proxy import Asked, Fault, Forward, refuses, rpc_proxy

FRIEND, THIEF = Address(b"\x77" * 20), Address(b"\x66" * 20)
SOON_FINAL: dict[str, Any] = {"final_depth": 2, "audit_every_s": 1}
FENCED = "SELECT count(*) FROM signers WHERE starts_with(paused_reason, 'fenced: ')"


@dataclass
class Backup:
    """A dump of the rig's database."""

    rig: Rig
    file: Path

    async def take(self) -> None:
        """Of what the database holds now."""
        await dump(self.rig.database_url, self.file)

    async def put_back(self) -> None:
        """In the place of the database."""
        await restore(self.rig.database_url, self.file)
        await self.rig.pool.expire_connections()


@pytest.fixture
def backup(rig: Rig, tmp_path: Path) -> Backup:
    """Of this test's rig."""
    return Backup(rig, tmp_path / "backup")


async def unfenced(rig: Rig) -> bool:
    """Whether every signer may sign."""
    return bool(await rig.pool.fetchval(FENCED) == 0)


def forgetful(rig: Rig) -> Fault:
    """A node that is no archive: it has forgotten the state of all but its newest 128 blocks."""

    async def answer(asked: Asked, forward: Forward) -> web.Response:
        for call in asked.calls:
            if call["method"] == "eth_call" and isinstance(at := call["params"][-1], dict):
                block = await rig.chain.rpc.call("eth_getBlockByHash", at["blockHash"], False, result=WireHead)
                if int(block.number, 16) + 128 < (await rig.chain.rpc.head()).number:
                    return await refuses("eth_call", -32000, "missing trie node")(asked, forward)
        return await forward(asked)

    return answer


async def fenced(rig: Rig) -> bool:
    """Whether one signer may not."""
    return bool(await rig.pool.fetchval(FENCED) == 1)


async def nothing_is_on_its_way(rig: Rig) -> bool:
    """What was sent is resolved: what is adopted may be so later than what the counts tell."""
    return bool(await rig.pool.fetchval("SELECT count(*) = 0 FROM chain_transactions WHERE state = 'sent'"))


async def check(rig: Rig, *, lost_and_delivered: int = 0) -> None:
    """What must hold although payments were lost: money and mints are all accounted for, each nonce has its row."""
    received = await rig.balance(rig.chain.usdc, Address(dev_address("seller")))
    paid = await rig.pool.fetchval(
        "SELECT coalesce(sum(amount), 0)::int8 FROM payment_queue WHERE status = 'completed'"
    )
    owed = await rig.pool.fetchval("SELECT coalesce(sum(amount), 0)::int8 FROM owed WHERE payment_id IS NULL")
    assert received == paid + owed + lost_and_delivered * PRICE
    minted = await rig.pool.fetchval("SELECT count(*) FROM mint_queue WHERE status = 'completed'")
    assert await rig._number(rig.token, "mintCount()") == minted + lost_and_delivered
    for row in await rig.pool.fetch("SELECT address, next_nonce FROM signers"):
        assert await rig.chain.rpc.account_nonce(Address(bytes.fromhex(row["address"][2:]))) == row["next_nonce"]
        nonces = await rig.pool.fetch(
            "SELECT account_nonce FROM chain_transactions WHERE signer = $1 ORDER BY 1", row["address"]
        )
        assert [r["account_nonce"] for r in nonces] == list(range(row["next_nonce"]))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE state = 'sent'") == 0
    reserved = await rig.pool.fetchrow(
        "SELECT (SELECT sum(reserved) FROM tokens), (SELECT count(*) FROM payment_queue WHERE supply_reserved AND"
        " status IN ('pending', 'sent')) + (SELECT count(*) FROM mint_queue WHERE status IN ('pending', 'sent'))"
    )
    assert reserved is not None
    assert reserved[0] == reserved[1]


@pytest.mark.slow
async def test_fault_33_a_restored_backup_mints_nothing_twice_and_names_what_it_lost(rig: Rig, backup: Backup) -> None:
    """Waiting at the backup, minted after it: completed without a second mint. Lost: owed, unless it was minted."""
    buyers = await rig.buyers(10)
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[:2]))
        await rig.until_counts(mints_completed=2)
    waiting = [await rig.pay(buyers[2]), await rig.pay(buyers[3], recipient=FRIEND)]
    await backup.take()
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[4:7]))
        await rig.until_counts(mints_completed=7)
    async with rig.working(mint_unresolved_max=0):
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[7:9]))
        await rig.until_counts(payments_completed=9)
    mints_sent = await rig.chain.rpc.account_nonce(dev_address("mint"))
    await backup.put_back()
    await rig.chain.mine(200)
    async with (
        rpc_proxy(rig.chain.url, forgetful(rig)) as node,
        rig.working(rpc_urls=(node.url,), **SOON_FINAL),
    ):
        await rig.until_counts(payments_completed=4, mints_completed=4)
        await rig.until(lambda: unfenced(rig))
        assert await rig.chain.rpc.account_nonce(dev_address("mint")) == mints_sent

        async def named() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) FROM owed") == 2)

        await rig.until(named)
        await rig.pay(buyers[9])
        await rig.until_counts(payments_completed=5, mints_completed=5)
    owed = await rig.pool.fetch("SELECT direction, reason, amount::int8, beneficiary FROM owed ORDER BY beneficiary")
    lost = sorted(hex_text(buyer.address) for buyer in buyers[7:9])
    assert [tuple(row) for row in owed] == [("to_buyer", "money_without_payment", PRICE, payer) for payer in lost]
    assert (await rig.payment(waiting[1]))["status"] == "completed"
    assert await rig.balance(rig.token, FRIEND) == MINT_AMOUNT
    await check(rig, lost_and_delivered=3)


@pytest.mark.parametrize("sent_at_backup", [5, pytest.param(15, marks=pytest.mark.slow)])
async def test_fault_33_a_backup_from_the_middle_of_a_run_is_made_whole(
    rig: Rig, backup: Backup, sent_at_backup: int
) -> None:
    """Some accepted, some sent, some paid, some minted at that moment; the same end for each."""
    buyers = await rig.buyers(30)
    async with rig.working(settle_batch_max=5, mint_batch_max=5):
        paying = asyncio.gather(*(rig.pay(buyer) for buyer in buyers))

        async def on_its_way() -> bool:
            return bool(
                await rig.pool.fetchval(
                    "SELECT count(*) >= $1 FROM payment_queue WHERE status IN ('sent', 'completed')", sent_at_backup
                )
            )

        await rig.until(on_its_way)
        await backup.take()
        await paying
        await rig.until_counts(payments_completed=30, mints_completed=30)
    await backup.put_back()
    kept = await rig.pool.fetchval("SELECT count(*) FROM payment_queue")
    async with rig.working(**SOON_FINAL):
        await rig.until_counts(payments_completed=kept, mints_completed=kept)
        await rig.until(lambda: unfenced(rig))
    await check(rig, lost_and_delivered=30 - kept)
    assert await rig.pool.fetchval("SELECT count(*) FROM owed") == 0


async def test_fault_33_34_a_settled_authorization_copied_after_the_loss_mints_to_its_payer_only(
    rig: Rig, backup: Backup
) -> None:
    """The row is lost, the calldata is public, and the head in the database is from before it: nobody gains by it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await backup.take()
    authorization = buyer.authorize(1)
    async with rig.working(mint_unresolved_max=0):
        assert (await rig.order(buyer, 1, authorization=authorization)).status_code == 202
        await rig.until_counts(payments_completed=1)
    await backup.put_back()
    stolen = await rig.order(buyer, 1, authorization=authorization, recipient=THIEF)
    assert stolen.status_code == 202, stolen.text
    async with rig.working(**SOON_FINAL):
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(lambda: unfenced(rig))
    assert await rig.balance(rig.token, THIEF) == 0
    assert await rig.balance(rig.token, buyer.address) == MINT_AMOUNT
    await check(rig)


@pytest.mark.slow
async def test_a_transaction_that_only_waits_in_the_pool_fences_its_signer_until_it_is_adopted(
    rig: Rig, backup: Backup
) -> None:
    """Its nonce is not given again, although no block holds it yet; it is judged when one does."""
    first, second = await rig.buyers(2)
    async with rig.working():
        await rig.pay(first)
        await rig.until_counts(mints_completed=1)
    await backup.take()
    await rig.chain.set_automine(False)
    async with rig.working():
        await rig.pay(second)
        await rig.until_counts(payments_sent=1)
    in_pool = await rig.pool.fetchval("SELECT hash FROM chain_attempts ORDER BY created_at DESC LIMIT 1")
    await backup.put_back()
    async with rig.working(**SOON_FINAL):
        await rig.until(lambda: fenced(rig))
        await rig.pay(second)  # accepted, and waits
        await rig.chain.set_interval(1)
        await rig.until(lambda: unfenced(rig))
        await rig.until_counts(payments_completed=2, mints_completed=2)
        await rig.until(one_owed(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts WHERE hash = $1", in_pool) == 1
    await check(rig)


def one_owed(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """Whether one debt is named."""

    async def holds() -> bool:
        return bool(await rig.pool.fetchval("SELECT count(*) FROM owed") == 1)

    return holds


async def test_a_nonce_that_another_transaction_took_settles_its_rows_again(rig: Rig) -> None:
    """The key was used elsewhere: once that is final, what our own transaction carried is sent anew."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(**SOON_FINAL):
        await rig.chain.set_automine(False)
        await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
        await rig.chain.submit(rig.chain.usdc, encode_call("decimals()"), dev_key("settle"), gas=60_000)
        await rig.chain.mine(1)
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    paid_by = await rig.pool.fetchval(
        "SELECT t.account_nonce::int FROM payment_queue p JOIN chain_attempts a ON a.hash = p.tx_hash"
        " JOIN chain_transactions t ON t.id = a.transaction_id"
    )
    assert paid_by == 1
    await rig.check_invariants()


@pytest.mark.slow
async def test_a_signer_made_after_the_backup_is_adopted_with_all_it_sent(rig: Rig, backup: Backup) -> None:
    """The database has never heard of it: its transactions show in the logs, those between them in their blocks."""
    buyers = await rig.buyers(4)
    async with rig.working(settling_paused=True):
        await rig.pay(buyers[0])
    await backup.take()
    async with rig.working():
        for buyer in buyers[1:3]:
            await rig.pay(buyer)
            await rig.until(settled(rig))
        await rig.until_counts(mints_completed=3)
    await backup.put_back()
    await rig.pool.execute("DELETE FROM signers")
    async with rig.working(**SOON_FINAL):
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(ready(rig))
        await rig.pay(buyers[3])
        await rig.until_counts(payments_completed=2, mints_completed=2)
    await check(rig, lost_and_delivered=2)


def settled(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """Whether nothing is on its way to be paid."""

    async def holds() -> bool:
        found = await rig.counts()
        return not found.get("payments_pending") and not found.get("payments_sent")

    return holds


@pytest.mark.slow
async def test_fault_33_a_worker_that_lives_through_the_loss_fences_before_it_signs_again(
    rig: Rig, backup: Backup
) -> None:
    """A standby took over and lacked the last commits: the worker was never restarted."""
    buyers = await rig.buyers(3)
    async with rig.working(**SOON_FINAL):
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        await backup.take()
        await rig.pay(buyers[1])
        await rig.until_counts(mints_completed=2)
        await backup.put_back()
        await rig.until(ready(rig))
        await rig.pay(buyers[2])
        await rig.until_counts(payments_completed=2, mints_completed=2)
        await rig.until(lambda: unfenced(rig))
        await rig.until(lambda: nothing_is_on_its_way(rig))
    await check(rig, lost_and_delivered=1)


def ready(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """Whether the API takes payments."""

    async def holds() -> bool:
        return (await rig.client.get("/ready")).status_code == 200

    return holds


@pytest.mark.slow
async def test_without_a_loss_nobody_is_fenced_or_adopted(rig: Rig) -> None:
    """The other side: workers come and go, and no audit has anything to say."""
    buyers: list[Buyer] = await rig.buyers(4)
    for buyer in buyers:
        async with rig.working(**SOON_FINAL):
            await rig.pay(buyer)
            await rig.until(settled(rig))
    async with rig.working(**SOON_FINAL):
        await rig.until_counts(mints_completed=4)
    assert await rig.pool.fetchval("SELECT count(*) FROM audit_log") == 0
    await rig.check_invariants()
