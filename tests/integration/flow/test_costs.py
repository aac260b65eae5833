"""What must not grow unseen: statements, calls and gas a batch. Counted, not timed, so that no machine is too slow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web
from faults.rig.rpc_proxy import Asked, Call, Forward, rpc_proxy

from payfirst.chain.abi import selector
from payfirst.pipeline.accept import Acceptor
from payfirst.store import crediting, database, mints, payments, settling, signers, tokens, transaction_items
from payfirst.store.database import Pool
from payfirst.store.wake import PAYMENTS as PAYMENTS_CHANNEL
from payfirst.store.wake import Notifier
from payfirst.units import hex_text

from .counting import counted
from .rig import PAY_TO, Buyer, open_rig

PAYMENTS = 100
SETTLE_GAS_MAX = 45_200
MINT_GAS_MAX = 52_000  # to holders who have none yet; 17,100 less to those who do

# Once for a whole batch, however many payments or units it has.
ONCE_A_BATCH = {
    "payers' value on its way": settling.ON_ITS_WAY,
    "supply": tokens.TAKE_SUPPLY,
    "items": transaction_items.STORE_PAYMENT_ITEMS,
    "payments sent": settling.MARK_SENT,
    "completed": crediting.MARK_COMPLETED,
    "units": mints.INSERT_MINTS,
    "units' items": transaction_items.STORE_MINT_ITEMS,
    "units sent": mints.MARK_MINTS_SENT,
    "minted": mints.MARK_MINTED,
}


BATCH_MINT = hex_text(selector("batchMint(address[],bytes32[])"))
DOMAIN_SEPARATOR = hex_text(selector("DOMAIN_SEPARATOR()"))

# What a worker asks the chain for a batch of payments and the batch of its units, however many are in them.
CALLS_OF_TWO_BATCHES = {
    "transactions sent": 2,
    "receipts read": 2,
    "pre-flights": 1,
    "mints tried": 1,
    "domains compared": 1,  # at its start
}
# One before each transaction, and one more now and then for the metrics.
BALANCES_MAX = 4
# Where the machine stands still at the wrong moment, one receipt is asked for once more.
RECEIPTS_ASKED_MAX = 3


async def test_a_hundred_payments_cost_the_statements_of_one(database_url: str, pool: Pool) -> None:
    """Each step is one statement for all; two transactions carry them, with few calls and at their gas."""
    async with counted(database_url) as statements, open_rig(database_url, pool) as opened:
        rig = replace(opened, database_url=statements.url)
        async with rig.working():  # from now on it is known where the chain stands
            await rig.until_a_worker_lives()
        buyers = await rig.buyers(PAYMENTS)
        assert await rig.insert([rig.new_payment(buyer) for buyer in buyers]) == PAYMENTS
        statements.executed.clear()
        calls: list[Call] = []

        async def noting(asked: Asked, forward: Forward) -> web.Response:
            calls.extend(asked.calls)
            return await forward(asked)

        async with rpc_proxy(rig.chain.url, noting) as proxy, rig.working(rpc_urls=(proxy.url,)):
            await rig.until_counts(payments_completed=PAYMENTS, mints_completed=PAYMENTS)
        found = {name: statements.count(sql) for name, sql in ONCE_A_BATCH.items()}
        assert found == dict.fromkeys(ONCE_A_BATCH, 1)
        assert statements.count(signers.SPEND_NONCE) == 2
        assert _of_batches(calls) == CALLS_OF_TWO_BATCHES
        assert 0 < sum(call["method"] == "eth_getBalance" for call in calls) <= BALANCES_MAX
        assert sum(call["method"] == "eth_getTransactionReceipt" for call in calls) <= RECEIPTS_ASKED_MAX
        for purpose, gas_max in (("settle", SETTLE_GAS_MAX), ("mint", MINT_GAS_MAX)):
            ((gas, items, succeeded),) = await rig.gas_used(purpose)
            assert (items, succeeded) == (PAYMENTS, True)
            assert gas / items <= gas_max
        await rig.check_invariants()


async def test_requests_in_flight_share_one_commit(database_url: str, pool: Pool) -> None:
    """Sixty-four payments that wait together are stored by one statement."""
    async with counted(database_url) as statements, open_rig(database_url, pool) as rig:
        async with rig.working():
            await rig.until_a_worker_lives()
        own = await database.connect(statements.url, name="test", size=4)
        async with own:
            acceptor = Acceptor(
                own, network=rig.terms.network, asset=rig.asset.address, pay_to=PAY_TO,
                notifier=Notifier(own, PAYMENTS_CHANNEL),
            )  # fmt: skip
            writing = asyncio.create_task(acceptor.run())
            waiting = [acceptor.accept(rig.new_payment(Buyer(rig.asset))) for _ in range(64)]
            answers = await asyncio.gather(*waiting)
            writing.cancel()
            await asyncio.wait([writing])
        assert all(answer.created for answer in answers)
        assert statements.count(payments.INSERT_PAYMENTS) == 1


async def test_giving_a_connection_back_costs_no_statement(database_url: str) -> None:
    """A pool of ours executes what is asked of it and nothing else; the driver's default is a statement more."""

    async with counted(database_url) as statements:
        pool = await database.connect(statements.url, name="test", size=1)
        async with pool:
            async with database.session(pool, "test") as connection:
                await connection.fetchval("SELECT 1")
            statements.executed.clear()
            for _ in range(3):
                async with database.session(pool, "test") as connection:
                    await connection.fetchval("SELECT 1")
            assert statements.executed == ["SELECT 1"] * 3


async def test_what_a_session_leaves_open_is_rolled_back(database_url: str) -> None:
    """A connection that comes back within a transaction is given out again without it."""

    pool = await database.connect(database_url, name="test", size=1)
    async with pool:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the driver complains of it, rightly
        async with database.session(pool, "test") as connection:
            await connection.execute("BEGIN")
        async with database.session(pool, "test") as connection:
            assert not connection.is_in_transaction()


def _of_batches(calls: Sequence[Call]) -> dict[str, int]:
    """Calls by what they are for; those that follow the chain, so many a second, are not of any batch."""
    methods = Counter(call["method"] for call in calls)
    asked = [call["params"][0] for call in calls if call["method"] == "eth_call"]
    tried = Counter(call["data"][:10] for call in asked if "to" in call)
    receipts = {call["params"][0] for call in calls if call["method"] == "eth_getTransactionReceipt"}
    return {
        "transactions sent": methods["eth_sendRawTransaction"],
        "receipts read": len(receipts),
        "pre-flights": sum("to" not in call for call in asked),
        "mints tried": tried[BATCH_MINT],
        "domains compared": tried[DOMAIN_SEPARATOR],
    }
