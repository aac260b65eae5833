"""What operators change by hand, and the pages they read, on each supported PostgreSQL and on tables of some size."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from test_schema import A, completed, payment

from payfirst.errors import LeaseLost
from payfirst.store import archive, by_hand, mints, owed, queue_list, settling
from payfirst.store.owed import Debt
from payfirst.store.queue_list import CHUNK_ROWS, NEWEST, Filter
from payfirst.store.settling import Claim
from payfirst.units import Address, TxHash, UnixTime

CLAIM = Claim("n", owner="0x" + "ee" * 20, epoch=1)
OWN = Address(bytes.fromhex(A[2:]))
ROWS = 3 * CHUNK_ROWS


@pytest.fixture
async def db(any_database_url: str) -> AsyncIterator[Any]:
    """A connection to a fresh database with a token of 100 mints."""
    connection = await asyncpg.connect(any_database_url)
    await connection.execute("INSERT INTO tokens (network, address, price, max_mint_count) VALUES ('n', $1, 1, 100)", A)
    await connection.execute(
        "INSERT INTO signers (network, address, purpose, next_nonce, epoch, lease_owner, lease_until)"
        " VALUES ('n', $1, 'settle', 0, $2, 'it', now() + interval '1 hour')",
        CLAIM.owner,
        CLAIM.epoch,
    )
    yield connection
    await connection.close()


async def claim(db: Any, *, by_row: bool = True) -> list[settling.ClaimedPayment]:
    """What a settler claims now."""
    return await settling.claim_pending(
        db, asset=OWN, claim=CLAIM, lease_s=30, limit=9, valid_before_min=UnixTime(0), besides=(), by_row=by_row
    )


async def claim_payments(db: Any) -> list[uuid.UUID]:
    """The ids of what a settler claims now."""
    return [c.id for c in await claim(db)]


async def claim_units(db: Any, *, by_row: bool = True) -> list[mints.ClaimedMint]:
    """What a minter claims now."""
    return await mints.claim(db, token=OWN, claim=CLAIM, lease_s=30, limit=9, besides=(), by_row=by_row)


@pytest.mark.parametrize("by_row", [True, False])
async def test_a_payment_held_after_it_was_claimed_is_not_sent(db: Any, by_row: bool) -> None:
    """The commit that would send it sees the hold, and undoes itself."""
    first, second = await payment(db, "pending"), await payment(db, "pending")
    claimed = await claim(db, by_row=by_row)
    assert {c.id for c in claimed} == {first, second}
    assert (await by_hand.hold(db, first, reason="stop", actor="ada")).ok
    with pytest.raises(LeaseLost):
        await settling.mark_sent(db, claimed, tx_hash=TxHash(b"\x01" * 32), claim=CLAIM)
    await db.execute("UPDATE payment_queue SET lease_until = NULL, status = 'pending', tx_hash = NULL")
    assert await claim_payments(db) == [second]
    assert (await by_hand.release(db, first, actor="ada")).ok
    assert await claim_payments(db) == [first]


@pytest.mark.parametrize("by_row", [True, False])
async def test_units_held_with_their_payment_after_they_were_claimed_are_not_sent(db: Any, by_row: bool) -> None:
    """The commit that would send them looks at the payment, and undoes itself."""
    held = await completed(db)
    units = await claim_units(db, by_row=by_row)
    assert len(units) == 2
    assert (await by_hand.hold(db, held, reason="stop", actor="ada")).ok
    with pytest.raises(LeaseLost, match="a hold"):
        await mints.lock_paid(db, [held])
    assert await claim_units(db) == []
    assert (await by_hand.release(db, held, actor="ada")).ok
    assert len(await claim_units(db)) == 2


async def owe(db: Any, queue_id: uuid.UUID) -> None:
    """Give a unit up, as a minter does that meets the cap."""
    given_up = await mints.mark_owed(db, [queue_id], sentence="sold out", code="token_cap_reached", claim=CLAIM)
    debts = [Debt(o.payment_id, o.unit) for o in given_up]
    await owed.write(db, debts, direction="to_buyer", reason="token_cap_reached")


async def debts(db: Any) -> list[tuple[str, str | None]]:
    """Status and resolution of all that is owed."""
    return [tuple(r) for r in await db.fetch("SELECT status, resolution FROM owed ORDER BY id")]


async def test_a_unit_that_is_given_up_again_is_owed_again(db: Any) -> None:
    """Its debt opens again, once; nothing is lost between two tries, and no supply leaks."""
    await completed(db, quantity=1)
    (unit,) = await db.fetch("SELECT id FROM mint_queue")
    await owe(db, unit["id"])
    assert await debts(db) == [("open", None)]
    assert (await by_hand.try_again(db, unit["id"], actor="ada")).ok
    assert await debts(db) == [("resolved", "tried_again")]
    assert await db.fetchval("SELECT reserved FROM tokens") == 1
    await owe(db, unit["id"])
    assert await debts(db) == [("open", None)]


async def test_a_debt_that_was_settled_by_hand_is_never_delivered_too(db: Any) -> None:
    """Neither tried again nor settled twice; and found again it stays settled."""
    paid = await completed(db, quantity=1)
    unit = await db.fetchval("SELECT id FROM mint_queue")
    await owe(db, unit)
    debt = await db.fetchval("SELECT id FROM owed")
    assert (await by_hand.resolve(db, debt, note="refunded in 0x12", actor="ada")).ok
    again = await by_hand.resolve(db, debt, note="refunded in 0x12", actor="ada")
    assert (again.ok, again.sentence) == (False, "it is settled already")
    retried = await by_hand.try_again(db, unit, actor="ada")
    assert (retried.ok, "was settled by hand" in retried.sentence) == (False, True)
    await owed.write(db, [Debt(paid, 0)], direction="to_buyer", reason="token_cap_reached")
    assert await debts(db) == [("resolved", "by_hand")]
    assert await db.fetchval("SELECT count(*) FROM audit_log") == 1


async def test_what_is_being_refunded_is_neither_delivered_nor_settled(db: Any) -> None:
    """From its approval on: money may be on its way. One that only waits is given up for a delivery."""
    await completed(db, quantity=1)
    unit = await db.fetchval("SELECT id FROM mint_queue")
    await owe(db, unit)
    debt = await db.fetchval("SELECT id FROM owed")
    await db.execute(
        "INSERT INTO refunds (id, owed_id, network, asset, treasury, beneficiary, amount, authorization_nonce, status)"
        " VALUES ($1, $2, 'n', $3, $3, $3, 1, 'x', 'approved')", uuid.uuid4(), debt, A,
    )  # fmt: skip
    assert "a refund of it has begun" in (await by_hand.resolve(db, debt, note="by hand", actor="ada")).sentence
    assert "is being refunded" in (await by_hand.try_again(db, unit, actor="ada")).sentence
    assert await db.fetchval("SELECT status FROM mint_queue") == "owed"


@pytest.mark.parametrize("finality", ["reorged", "lost"])
async def test_an_owed_unit_whose_payment_is_gone_is_not_delivered(db: Any, finality: str) -> None:
    """Payment first."""
    await completed(db, quantity=1)
    unit = await db.fetchval("SELECT id FROM mint_queue")
    await owe(db, unit)
    await db.execute("UPDATE payment_queue SET finality = $1", finality)
    done = await by_hand.try_again(db, unit, actor="ada")
    assert (done.ok, "does not hold its payment" in done.sentence) == (False, True)


async def test_what_is_not_there_or_has_ended_is_said(db: Any) -> None:
    """An id of nothing, one in the history, and a payment with nothing left to send."""
    nothing = await by_hand.hold(db, uuid.uuid4(), reason="x", actor="ada")
    assert (nothing.ok, "no such payment" in nothing.sentence) == (False, True)
    done = await completed(db)
    await db.execute("UPDATE payment_queue SET finality = 'final'")
    await db.execute("UPDATE mint_queue SET status = 'completed', mint_tx_hash = payment_tx_hash")
    assert "there is nothing to hold" in (await by_hand.hold(db, done, reason="x", actor="ada")).sentence
    columns = archive.PAYMENT_COLUMNS
    await db.execute(f"INSERT INTO payment_history ({columns}) SELECT {columns} FROM payment_queue")
    await db.execute("SET session_replication_role = replica")
    await db.execute("DELETE FROM payment_queue")
    assert "is in the history" in (await by_hand.fail(db, done, reason="x", actor="ada")).sentence
    assert await db.fetchval("SELECT count(*) FROM audit_log") == 0


async def many(db: Any) -> None:
    """Payments of some hundred payers, nearly all of them failed or pending; ids a millisecond apart."""
    await db.execute(
        """
        INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,
            authorization_nonce, valid_after, valid_before, signature, accepted_height, status, error_code, created_at)
        SELECT (lpad(to_hex(1000000000000 + n), 12, '0') || '70000000' || lpad(to_hex(n), 12, '0'))::uuid, 'n',
               CASE WHEN n % 20000 = 7 THEN '0x' || repeat('cd', 20) ELSE $1 END, $1,
               '0x' || lpad(to_hex(n % 300), 40, '0'), $1, 1, 1, $1, '0x' || lpad(to_hex(n), 64, '0'), 0, 1, '', 1,
               CASE WHEN n % 10000 = 3 THEN 'failed' ELSE 'pending' END,
               CASE WHEN n % 10000 = 3 THEN 'sold_out' END, to_timestamp(1000000000 + n / 1000.0)
        FROM generate_series(1, $2::int) AS n
        """, A, ROWS,
    )  # fmt: skip
    await db.execute(
        "INSERT INTO authorizations SELECT network, decode(substr(asset, 3), 'hex'), decode(substr(payer, 3), 'hex'),"
        " decode(substr(authorization_nonce, 3), 'hex'), id FROM payment_queue"
    )
    await db.execute("ANALYZE payment_queue; ANALYZE authorizations")


async def test_pages_of_a_large_table_are_whole_quick_and_read_no_more_than_they_need(db: Any) -> None:
    """Each wanted row once, whatever is filtered by; a rare status is found by its index, without a full scan."""
    await many(db)

    async def every(want: Filter, *, limit: int = 10_000) -> list[int]:
        found, after = [], NEWEST
        while True:
            page = await queue_list.payments(db, "n", want, after=after, limit=limit)
            found += [int(str(row["id"])[-12:], 16) for row in page.rows]
            if page.next is None:
                return found
            after = page.next

    began = time.monotonic()
    assert await every(Filter()) == list(range(ROWS, 0, -1))
    rare = list(range(ROWS - 10_000 + 3, 0, -10_000))
    assert await every(Filter(source="failed", status="failed"), limit=2) == rare
    assert await every(Filter(code="sold_out"), limit=4) == rare
    assert await every(Filter(token=Address(b"\xcd" * 20))) == list(range(ROWS - 20_000 + 7, 0, -20_000))
    payer = Address((299).to_bytes(20, "big"))
    assert await every(Filter(payer=payer), limit=50) == [n for n in range(ROWS, 0, -1) if n % 300 == 299]
    assert await every(Filter(payer=payer, source="failed", status="failed")) == [n for n in rare if n % 300 == 299]
    newest = Filter(since=dt.datetime.fromtimestamp(1_000_000_000 + ROWS / 1000 - 1, dt.UTC))
    assert len(await every(newest)) == 1_001
    assert time.monotonic() - began < 20
    floor = queue_list.CHUNK_FLOOR["payment_queue", "failed"]
    page = queue_list.PAYMENTS_PAGE["failed"]
    nothing = uuid.UUID(int=0)
    for statement, args in ((floor, ("n", NEWEST, nothing, 19_999)), (page, ("n", NEWEST, nothing, 9, *[None] * 4))):
        plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {statement}", *args))
        assert "payment_queue_failed" in plan
        assert "Seq Scan" not in plan


async def test_stuck_is_what_the_seeds_query_lists(db: Any) -> None:
    """Over five minutes in `sent`, the oldest first."""
    ids = [await payment(db, "sent") for _ in range(3)]
    for place, minutes in enumerate((6, 4, 9)):
        await db.execute(
            "UPDATE payment_queue SET processed_at = now() - $2 * interval '1 minute' WHERE id = $1",
            ids[place],
            minutes,
        )
    assert await queue_list.stuck(db, "n", older_than_s=300, limit=9) == [ids[2], ids[0]]
