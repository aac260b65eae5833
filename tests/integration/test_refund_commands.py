"""`payfirst refunds`, as a seller types it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from commands import Payfirst, in_folder

from payfirst.store import refunds
from payfirst.store.database import Pool
from payfirst.units import Address, AtomicAmount

NETWORK, ASSET = "eip155:84532", "0x036cbd53842c5426634e7929541ec2318f3dcf7e"
BUYER, TOKEN, TREASURY = "0x" + "bb" * 20, "0x" + "cc" * 20, "0x" + "dd" * 20
WAITING, LARGE = uuid.UUID(int=11), uuid.UUID(int=12)


@pytest.fixture
def payfirst(tmp_path: Path, database_url: str) -> Payfirst:
    """The command in an empty folder, with a database."""
    return in_folder(tmp_path, DATABASE_URL=database_url)


@pytest.fixture
async def debts(pool: Pool) -> Pool:
    """A payment of three units, all owed: two have a refund that waits, one has none."""
    payment = uuid.UUID(int=1)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,"
            " authorization_nonce, valid_after, valid_before, signature, accepted_height, status, finality, tx_hash,"
            " settled_block, settled_block_hash, settled_log_index) VALUES ($1, $2, $3, $4, $5, $5, 30000, 3, $5, $6,"
            " 0, 9, '', 1, 'completed', 'final', $6, 2, $6, 0)",
            payment, NETWORK, TOKEN, ASSET, BUYER, "0x" + "11" * 32,
        )  # fmt: skip
        for unit in range(3):
            await connection.execute(
                "INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient,"
                " mint_id, status) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'owed')",
                uuid.UUID(int=100 + unit), payment, unit, "0x" + "11" * 32, NETWORK, TOKEN, BUYER, f"0x{unit:064x}",
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)"
                " VALUES ('to_buyer', $1, $2, $3, 'no_supply', $4, 10000, $5)",
                NETWORK, payment, unit, ASSET, BUYER,
            )  # fmt: skip
        for refund, unit in ((WAITING, 0), (LARGE, 1)):
            await connection.execute(
                "INSERT INTO refunds (id, owed_id, network, asset, treasury, beneficiary, amount, authorization_nonce)"
                " SELECT $1, id, network, asset, $2, beneficiary, amount, $3 FROM owed WHERE unit = $4",
                refund, TREASURY, f"0x{unit:064x}", unit,
            )  # fmt: skip
    return pool


async def test_the_list_shows_every_debt_to_a_buyer(payfirst: Payfirst, debts: Pool) -> None:
    """With its refund, or with what it waits for; a status narrows it down."""
    listed = json.loads(payfirst("refunds", "list", "--json").stdout)
    assert [(r["id"], r["status"], r["unit"], r["amount"]) for r in listed] == [
        (None, "owed", 2, "10000"),
        (str(LARGE), "waiting", 1, "10000"),
        (str(WAITING), "waiting", 0, "10000"),
    ]
    assert listed[0]["why"] == "no worker with a treasury has seen it yet"
    only = json.loads(payfirst("refunds", "list", "--status", "owed", "--json").stdout)
    assert [r["unit"] for r in only] == [2]
    shown = payfirst("refunds", "list")
    assert shown.returncode == 0, shown.stderr
    assert "No worker with a treasury's key has run yet" in shown.stdout


async def test_an_approval_is_on_record_and_said_once(payfirst: Payfirst, debts: Pool) -> None:
    """Who approved stands in the row and in audit_log; what was approved already is left alone, with exit code 1."""
    approved = payfirst("refunds", "approve", str(WAITING))
    assert (approved.returncode, "approved" in approved.stdout) == (0, True), approved.stderr
    row = await debts.fetchrow("SELECT status, approved_by FROM refunds WHERE id = $1", WAITING)
    logged = await debts.fetchrow("SELECT actor, action, subject FROM audit_log")
    assert row is not None
    assert logged is not None
    assert row["status"] == "approved"
    assert (row["approved_by"], "refunds.approve", str(WAITING)) == tuple(logged)
    again = payfirst("refunds", "approve", str(WAITING), "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)[0]["why"] == "it is approved, not waiting"
    assert await debts.fetchval("SELECT count(*) FROM audit_log") == 1


async def test_all_means_those_that_wait_and_retry_those_that_are_approved(payfirst: Payfirst, debts: Pool) -> None:
    """Nothing else is touched, and one of the two has to be said."""
    assert payfirst("refunds", "approve").returncode == 2
    assert payfirst("refunds", "retry", str(WAITING)).returncode == 1
    assert payfirst("refunds", "approve", "--all").returncode == 0
    assert await debts.fetchval("SELECT count(*) FROM refunds WHERE status = 'approved'") == 2
    await debts.execute("UPDATE refunds SET error = 'held', next_attempt_at = now() + interval '1 hour'")
    assert payfirst("refunds", "retry", str(LARGE)).returncode == 0
    due = await debts.fetch("SELECT id FROM refunds WHERE next_attempt_at IS NULL")
    assert [row["id"] for row in due] == [LARGE]


async def test_a_debt_that_ended_otherwise_is_not_approved(payfirst: Payfirst, debts: Pool) -> None:
    """Settled by hand since: there is nothing to give back."""
    await debts.execute("UPDATE owed SET status = 'resolved', resolved_at = now() WHERE unit = 0")
    refused = payfirst("refunds", "approve", str(WAITING), str(uuid.UUID(int=99)), "--json")
    assert refused.returncode == 1
    ended, unknown = json.loads(refused.stdout)
    assert "ended otherwise" in ended["why"]
    assert unknown["why"] == "there is no such refund on this network"
    assert await debts.fetchval("SELECT status FROM refunds WHERE id = $1", WAITING) == "waiting"


OTHER_DEBT = """
INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)
SELECT direction, network, payment_id, unit, 'another', asset, amount, beneficiary FROM owed WHERE unit = 0
RETURNING id
"""


async def test_a_unit_whose_other_debt_was_settled_by_hand_is_not_refunded(payfirst: Payfirst, debts: Pool) -> None:
    """A unit may be owed for two reasons: what was settled for one of them is settled, and its refund is given up."""
    other = await debts.fetchval(OTHER_DEBT)
    assert payfirst("owed", "resolve", str(other), "--note", "paid in cash").returncode == 0
    refused = payfirst("refunds", "approve", str(WAITING), "--json")
    assert "ended otherwise" in json.loads(refused.stdout)[0]["why"]
    async with debts.acquire() as connection:
        assert len(await refunds.cancel_ended(connection, NETWORK, unusable=[])) == 1
    assert await debts.fetchval("SELECT status FROM refunds WHERE id = $1", WAITING) == "cancelled"


async def test_no_debt_of_a_unit_that_is_being_refunded_is_settled_by_hand(payfirst: Payfirst, debts: Pool) -> None:
    """The other way round: the refund has begun, for whichever of its debts."""
    other = await debts.fetchval(OTHER_DEBT)
    assert payfirst("refunds", "approve", str(WAITING)).returncode == 0
    refused = payfirst("owed", "resolve", str(other), "--note", "paid in cash")
    assert (refused.returncode, "a refund of it has begun" in refused.stdout + refused.stderr) == (1, True)


async def test_a_debt_whose_refund_is_impossible_is_settled_by_hand(payfirst: Payfirst, debts: Pool) -> None:
    """The chain has said for good that its nonce pays nobody: a person pays, and notes it."""
    assert payfirst("refunds", "approve", str(WAITING)).returncode == 0
    debt = str(await debts.fetchval("SELECT owed_id FROM refunds WHERE id = $1", WAITING))
    assert payfirst("owed", "resolve", debt, "--note", "paid in cash").returncode == 1
    async with debts.acquire() as connection:
        assert len(await refunds.end_impossible(connection, WAITING, why="cancelled with the key")) == 1
        assert await refunds.end_impossible(connection, LARGE, why="it only waits") == []
    listed = json.loads(payfirst("refunds", "list", "--status", "impossible", "--json").stdout)
    assert [(r["id"], r["why"]) for r in listed] == [(str(WAITING), "cancelled with the key")]
    assert payfirst("owed", "resolve", debt, "--note", "paid in cash").returncode == 0


async def test_those_above_the_limit_keep_no_smaller_one_from_its_approval(debts: Pool) -> None:
    """However many of them are older; nor does one that may not be refunded now."""
    await debts.execute("UPDATE refunds SET amount = 20000, created_at = now() - interval '1 day' WHERE id = $1", LARGE)
    asset = Address(bytes.fromhex(ASSET[2:]))
    async with debts.acquire() as connection:
        found = await refunds.waiting(connection, NETWORK, asset, amount_max=AtomicAmount(10_000), limit=1)
        assert found == [WAITING]
        assert await refunds.waiting(connection, NETWORK, asset, amount_max=None, limit=1) == [LARGE]
        await debts.execute("UPDATE owed SET status = 'resolved', resolved_at = now() WHERE unit = 1")
        assert await refunds.waiting(connection, NETWORK, asset, amount_max=None, limit=1) == [WAITING]


async def test_what_was_signed_is_not_given_up_while_it_could_be_used(debts: Pool) -> None:
    """The debt has ended otherwise, and the authorization is out: only the chain's word ends it."""
    await debts.execute("UPDATE refunds SET status = 'approved', approved_by = 'me'")
    await debts.execute("UPDATE refunds SET valid_before = 4000000000 WHERE id = $1", WAITING)
    await debts.execute("UPDATE owed SET status = 'resolved', resolved_at = now()")
    async with debts.acquire() as connection:
        await refunds.cancel_ended(connection, NETWORK, unusable=[])
        assert await debts.fetchval("SELECT array_agg(id) FROM refunds WHERE status = 'cancelled'") == [LARGE]
        asset = Address(bytes.fromhex(ASSET[2:]))
        assert [r.id for r in await refunds.ended_but_signed(connection, NETWORK, asset, limit=9)] == [WAITING]
        await refunds.cancel_ended(connection, NETWORK, unusable=[WAITING])
    assert await debts.fetchval("SELECT count(*) FROM refunds WHERE status = 'cancelled'") == 2


async def test_money_without_a_payment_is_said_to_need_a_person(payfirst: Payfirst, debts: Pool) -> None:
    """No worker will ever refund it: the list does not let anybody wait for one."""
    await debts.execute(
        "INSERT INTO owed (direction, network, reason, asset, amount, beneficiary, authorization_nonce, tx_hash)"
        " VALUES ('to_buyer', $1, 'money_without_payment', $2, 5, $3, $4, $4)",
        NETWORK, ASSET, BUYER, "0x" + "22" * 32,
    )  # fmt: skip
    (first, *_) = json.loads(payfirst("refunds", "list", "--json").stdout)
    assert first["reason"] == "money_without_payment"
    assert "pay it by hand, then payfirst owed resolve" in first["why"]
    asset = Address(bytes.fromhex(ASSET[2:]))
    async with debts.acquire() as connection:
        assert [d.unit for d in await refunds.refundable(connection, NETWORK, asset, limit=9)] == [2]
