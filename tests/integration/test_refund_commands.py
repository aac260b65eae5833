"""`payfirst refunds`, as a seller types it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from test_commands import run

from payfirst.store.database import Pool

Payfirst = Callable[..., CompletedProcess[str]]

NETWORK, ASSET = "eip155:84532", "0x036cbd53842c5426634e7929541ec2318f3dcf7e"
BUYER, TOKEN, TREASURY = "0x" + "bb" * 20, "0x" + "cc" * 20, "0x" + "dd" * 20
WAITING, LARGE = uuid.UUID(int=11), uuid.UUID(int=12)


@pytest.fixture
def payfirst(tmp_path: Path, database_url: str) -> Payfirst:
    """The command in an empty folder, with a database."""

    def call(*words: str) -> CompletedProcess[str]:
        return run(*words, cwd=tmp_path, DATABASE_URL=database_url)

    return call


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
