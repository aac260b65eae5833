"""Whose rows are while they are worked with: a process that is alone writes nothing, several claim row by row."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from test_schema import A, completed, payment

from payfirst.errors import LeaseLost, StoreUnavailable
from payfirst.pipeline import on_its_way
from payfirst.pipeline.on_its_way import OnItsWay
from payfirst.pipeline.under_way import UnderWay
from payfirst.store import database, mints, settling
from payfirst.store.mints import ClaimedMint
from payfirst.store.settling import Claim, ClaimedPayment, Failed, Postponed
from payfirst.units import Address, TxHash, UnixTime

OWN = Address(bytes.fromhex(A[2:]))
MINE, OTHER = Claim("n", "0x" + "e1" * 20, 1), Claim("n", "0x" + "e2" * 20, 1)
HASH = TxHash(b"\x01" * 32)
WAITING = """
INSERT INTO waiting_evidence (network, tx_hash, block, block_hash, transaction_id, payment_ids)
VALUES ('n', '0x' || repeat('1', 64), 1, '0x' || repeat('2', 64), $1, $2)
"""


@pytest.fixture
async def db(any_database_url: str) -> AsyncIterator[Any]:
    """A connection to a fresh database, where one process holds a settle and a mint signer."""
    connection = await asyncpg.connect(any_database_url)
    await hold(connection, MINE, "settle")
    await hold(connection, Claim("n", "0x" + "f1" * 20, 1), "mint")
    yield connection
    await connection.close()


async def hold(db: Any, claim: Claim, purpose: str, *, process: str = "mine", seconds: float = 60.0) -> None:
    """A process holds this signer for so long."""
    await db.execute(
        "INSERT INTO signers (network, address, purpose, next_nonce, epoch, lease_owner, lease_until)"
        " VALUES ($6, $1, $2, 0, $3, $4, now() + $5 * interval '1 second')",
        claim.owner, purpose, claim.epoch, process, seconds, claim.network,
    )  # fmt: skip


async def take(
    db: Any, claim: Claim = MINE, *, limit: int = 9, besides: Collection[uuid.UUID] = (), by_row: bool = False
) -> list[ClaimedPayment]:
    """What a settler of this signer takes now."""
    return await settling.claim_pending(
        db, asset=OWN, claim=claim, lease_s=30, limit=limit, valid_before_min=UnixTime(0), besides=besides,
        by_row=by_row,
    )  # fmt: skip


async def take_units(
    db: Any, claim: Claim = MINE, *, limit: int = 9, besides: Collection[uuid.UUID] = (), by_row: bool = False
) -> list[ClaimedMint]:
    """What a minter of this signer takes now."""
    return await mints.claim(
        db, token=OWN, claim=claim, lease_s=30, limit=limit, besides=besides, by_row=by_row
    )  # fmt: skip


def ids(rows: Sequence[ClaimedPayment] | Sequence[ClaimedMint]) -> list[uuid.UUID]:
    """Their keys."""
    return [row.id for row in rows]


async def leased(db: Any, table: str = "payment_queue") -> int:
    """How many rows are claimed one by one."""
    count: int = await db.fetchval(f"SELECT count(*) FROM {table} WHERE lease_until > now()")
    return count


async def test_who_is_alone_takes_rows_without_writing_them(db: Any) -> None:
    """Not a version of a row, and no lock: the lease of the signer stands for them, and leaves out what it says."""
    first, second = sorted([await payment(db, "pending"), await payment(db, "pending")])
    await completed(db)
    await hold(db, Claim("n", "0x" + "e3" * 20, 1), "settle")  # a second signer of the same process
    await hold(db, Claim("n", "0x" + "f2" * 20, 1), "mint", process="gone", seconds=-1)
    await hold(db, Claim("n", "0x" + "e4" * 20, 1), "refund", process="another purpose")
    await hold(db, Claim("m", "0x" + "e5" * 20, 1), "settle", process="another network")
    before = await db.fetch("SELECT ctid, xmax FROM payment_queue UNION ALL SELECT ctid, xmax FROM mint_queue")
    assert ids(await take(db)) == [first, second]
    assert ids(await take(db, besides=[first])) == [second]
    one, other = ids(await take_units(db))
    assert ids(await take_units(db, besides=[one])) == [other]
    assert await db.fetch("SELECT ctid, xmax FROM payment_queue UNION ALL SELECT ctid, xmax FROM mint_queue") == before


async def test_several_processes_claim_row_by_row(db: Any) -> None:
    """Two signers never work with the same, and what they have claimed is due again when the claim ends."""
    for _ in range(4):
        await payment(db, "pending")
    await completed(db)
    await hold(db, OTHER, "settle", process="another")
    await hold(db, Claim("n", "0x" + "f2" * 20, 1), "mint", process="another")
    mine, theirs = await take(db, limit=2), await take(db, OTHER, limit=2)
    assert len({*ids(mine), *ids(theirs)}) == await leased(db) == 4
    units, others = await take_units(db, limit=1), await take_units(db, OTHER, limit=1)
    assert len({*ids(units), *ids(others)}) == await leased(db, "mint_queue") == 2
    assert await take(db) == []
    await db.execute("UPDATE payment_queue SET lease_until = now() - interval '1 second'")
    assert len(await take(db)) == 4


async def test_who_does_not_know_whether_it_is_alone_claims_row_by_row(db: Any) -> None:
    """Its lease has run out, so others may believe to be alone too."""
    await payment(db, "pending")
    await completed(db)
    await db.execute("UPDATE signers SET lease_until = now() - interval '1 second'")
    assert len(await take(db)) == await leased(db) == 1
    assert len(await take_units(db)) == await leased(db, "mint_queue") == 2


async def test_rows_that_somebody_has_locked_are_passed_over_one_by_one(db: Any, any_database_url: str) -> None:
    """An open transaction of an operator holds up its own row, and no other."""
    locked, free = await payment(db, "pending"), await payment(db, "pending")
    operator = await asyncpg.connect(any_database_url)
    async with operator.transaction():
        await operator.execute("UPDATE payment_queue SET error = 'looked at' WHERE id = $1", locked)
        assert ids(await take(db, by_row=True)) == [free]
    paid, other = await completed(db), await completed(db, log=1)
    async with operator.transaction():
        await operator.execute("UPDATE payment_queue SET error = 'looked at' WHERE id = $1", paid)
        assert {unit.payment_id for unit in await take_units(db, by_row=True)} == {other}
    await operator.close()


async def test_what_another_process_has_claimed_since_is_not_sent(db: Any) -> None:
    """It was alone when it read the rows; a claim that has ended is nobody's."""
    await payment(db, "pending")
    await completed(db)
    mine, units = await take(db), await take_units(db)
    assert len(await take(db, OTHER)) == 0  # nobody holds that signer yet
    await hold(db, OTHER, "settle", process="another")
    await hold(db, Claim("n", "0x" + "f2" * 20, 1), "mint", process="another")
    assert ids(await take(db, OTHER)) == ids(mine)
    assert ids(await take_units(db, OTHER)) == ids(units)
    with pytest.raises(LeaseLost):
        await settling.mark_sent(db, mine, tx_hash=HASH, claim=MINE)
    with pytest.raises(LeaseLost):
        await mints.mark_sent(db, ids(units), tx_hash=HASH, claim=MINE)
    with pytest.raises(LeaseLost):
        await settling.lock_claimed(db, ids(mine), claim=MINE)
    for table in ("payment_queue", "mint_queue"):
        await db.execute(f"UPDATE {table} SET lease_until = now() - interval '1 second'")
    await settling.mark_sent(db, mine, tx_hash=HASH, claim=MINE)
    await mints.mark_sent(db, ids(units), tx_hash=HASH, claim=MINE)
    with pytest.raises(LeaseLost):  # once
        await settling.mark_sent(db, mine, tx_hash=HASH, claim=OTHER)


async def test_who_has_lost_the_signer_takes_nothing_and_changes_nothing(db: Any) -> None:
    """What it had read under its old epoch is neither ended, put off, given up nor held by it."""
    await payment(db, "pending")
    await completed(db)
    mine, units = await take(db), await take_units(db)
    assert len(mine) == 1
    assert len(units) == 2
    await db.execute("UPDATE signers SET epoch = epoch + 1, lease_owner = 'another'")
    assert await take(db) == await take(db, by_row=True) == []
    assert await take_units(db) == await take_units(db, by_row=True) == []
    before = [await db.fetch(f"SELECT * FROM {table}") for table in ("payment_queue", "mint_queue")]
    assert await settling.fail_claimed(db, [Failed(mine[0].id, "insufficient_funds", "no money")], claim=MINE) == []
    await settling.postpone(db, [Postponed(mine[0].id, 9.0)], claim=MINE)
    await mints.postpone(db, ids(units), delay_s=9.0, code=None, height=None, reason=None, claim=MINE)
    assert await mints.mark_owed(db, ids(units), sentence="full", code="token_cap_reached", claim=MINE) == []
    with pytest.raises(LeaseLost):
        await settling.lock_claimed(db, ids(mine), claim=MINE)
    assert [await db.fetch(f"SELECT * FROM {table}") for table in ("payment_queue", "mint_queue")] == before
    newer = replace(MINE, epoch=MINE.epoch + 1)
    assert ids(await take(db, newer)) == ids(mine)
    assert len(await settling.fail_claimed(db, [Failed(mine[0].id, "c", "s")], claim=newer)) == 1


async def test_two_signers_of_one_process_never_work_with_the_same(db: Any, any_database_url: str) -> None:
    """However they meet: who comes second is told what the first one works with."""
    for _ in range(6):
        await payment(db, "pending")
    under_way: UnderWay[ClaimedPayment] = UnderWay()
    at_work: set[uuid.UUID] = set()
    done: list[uuid.UUID] = []

    async def sign() -> None:
        connection = await asyncpg.connect(any_database_url)
        while True:
            async with under_way.taken(lambda besides: take(connection, limit=2, besides=besides)) as rows:
                if not rows:
                    break
                assert at_work.isdisjoint(ids(rows))
                at_work.update(ids(rows))
                await asyncio.sleep(0.05)
                await settling.mark_sent(connection, rows, tx_hash=HASH, claim=MINE)
                at_work.difference_update(ids(rows))
                done.extend(ids(rows))
        await connection.close()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(sign())
    assert len(done) == len({*done}) == 6


async def test_rows_are_free_again_when_a_round_fails() -> None:
    """Whatever the round raises, the next one is given them."""
    under_way: UnderWay[Any] = UnderWay()
    row = Failed(uuid.uuid4(), "", "")
    seen: list[set[uuid.UUID]] = []

    async def read(besides: Collection[uuid.UUID]) -> list[Any]:
        seen.append(set(besides))
        return [] if besides else [row]

    async def failing() -> None:
        async with under_way.taken(read):
            async with under_way.taken(read) as others:
                assert others == []
            raise LeaseLost("it failed")

    with pytest.raises(LeaseLost):
        await failing()
    async with under_way.taken(read):
        pass
    assert seen == [set(), {row.id}, set()]


async def test_what_is_on_its_way_is_read_once_a_second_and_knows_what_was_sent_since(
    db: Any, any_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never less than what this process sends; what was confirmed since is off with the next reading."""
    monkeypatch.setattr(on_its_way, "READ_EVERY_S", 3600.0)
    pool = await database.connect(any_database_url, name="test", size=1)
    known = OnItsWay(pool, network="n", asset=OWN)

    async def read() -> int:
        return (await known.read([OWN]))[OWN]

    await payment(db, "sent")
    await payment(db, "pending")
    assert await read() == 20
    taken = await take(db)
    with known.sending(taken):
        assert await read() == 40
        monkeypatch.setattr(on_its_way, "READ_EVERY_S", 0.0)
        assert await read() == 40  # not stored yet, so the reading has not seen it
        monkeypatch.setattr(on_its_way, "READ_EVERY_S", 3600.0)
        await settling.mark_sent(db, taken, tx_hash=HASH, claim=MINE)
    assert await read() == 40
    await db.execute("UPDATE payment_queue SET status = 'failed', tx_hash = NULL")
    assert await read() == 40
    monkeypatch.setattr(on_its_way, "READ_EVERY_S", 0.0)
    assert await read() == 0
    await pool.close()


@pytest.mark.parametrize(("error", "counts"), [(LeaseLost("no"), 0), (StoreUnavailable("unknown"), 20)])
async def test_what_was_certainly_not_sent_does_not_count(
    db: Any, any_database_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception, counts: int
) -> None:
    """Where the commit was cut it may have been; a reading that fails forgets nothing."""
    monkeypatch.setattr(on_its_way, "READ_EVERY_S", 3600.0)
    pool = await database.connect(any_database_url, name="test", size=1)
    known = OnItsWay(pool, network="n", asset=OWN)
    await known.read([OWN])
    await payment(db, "pending")
    sending = known.sending(await take(db))
    with pytest.raises(type(error)), sending:
        raise error
    assert await known.read([OWN]) == {OWN: counts}
    monkeypatch.setattr(on_its_way, "READ_EVERY_S", 0.0)
    await db.execute("ALTER TABLE payment_queue RENAME TO elsewhere")
    with pytest.raises(asyncpg.UndefinedTableError):
        await known.read([OWN])
    monkeypatch.setattr(on_its_way, "READ_EVERY_S", 3600.0)
    assert await known.read([OWN]) == {OWN: counts}
    await pool.close()


async def test_what_waits_for_more_depth_is_off_the_balance(db: Any) -> None:
    """It was seen on chain, so the balance knows of it."""
    seen, _ = await payment(db, "sent"), await payment(db, "sent")
    assert await settling.on_its_way(db, network="n", asset=OWN) == {OWN: 40}
    transaction = await db.fetchval(
        "INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,"
        " item_count) VALUES ('n', $1, 0, 'settle', 1, $2, 1, 1) RETURNING id", MINE.owner, A
    )  # fmt: skip
    await db.execute(WAITING, transaction, [seen])
    assert await settling.on_its_way(db, network="n", asset=OWN) == {OWN: 20}
