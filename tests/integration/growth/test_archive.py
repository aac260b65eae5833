"""Payments that nothing can move any more leave the live tables, and nobody who asks for them sees a difference."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from pathlib import Path

import asyncpg
import pytest
from ops.command import invoke

from growth.filled import ADDRESS, NETWORK
from payfirst.store import archive, payments
from payfirst.store.archive import Batch, Span
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, UnixTime, uuid7

ASSET = Address(bytes.fromhex(ADDRESS[2:]))
FINAL = 100
FINAL_TIME = 1_000_000
NOW = dt.datetime.now(dt.UTC)
OLD = NOW - dt.timedelta(days=40)
FIRST, NEWEST = uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)
MONTH = Span(NETWORK, FIRST, NEWEST, NOW - dt.timedelta(days=30))

PAYMENT = """
INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,
    authorization_nonce, valid_after, valid_before, signature, accepted_height, status, finality, tx_hash,
    settled_block, settled_block_hash, settled_log_index, error, error_code, result, created_at, processed_at)
VALUES ($1, $2, $3, $3, $3, $3, 20000, 2, $3, $4, 0, $5, 'ab', 1, $6::text, $7, CASE WHEN $9 THEN $4 END,
    CASE WHEN $9 THEN 90 END, CASE WHEN $9 THEN $4 END, CASE WHEN $9 THEN 1 END, 'why', 'code',
    CASE WHEN $9 THEN '{"queueIds": []}'::jsonb END, $8, $8)
"""
UNIT = """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,
    mint_tx_hash, minted_block, created_at, processed_at)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8::text, CASE WHEN $8::text = 'completed' THEN $4 END, $9, $10, $10)
"""


@pytest.fixture(autouse=True)
async def chain(pool: asyncpg.Pool) -> None:
    """The chain as workers read it: final up to block 100."""
    await pool.execute(
        "INSERT INTO chain_heads (network, head_height, head_hash, head_time, cursor_height, cursor_hash, cursor_time,"
        " final_height) VALUES ($1, 120, '0x', 0, 120, '0x', 0, $2)", NETWORK, FINAL,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO chain_blocks VALUES ($1, $2, '0x', $3), ($1, $2 + 1, '0x', $3 + 500)", NETWORK, FINAL, FINAL_TIME
    )


async def payment(
    pool: asyncpg.Pool,
    status: str = "completed",
    *,
    finality: str = "final",
    valid_before: int = FINAL_TIME,
    at: dt.datetime = OLD,
    minted: str = "completed",
    minted_block: int | None = FINAL,
) -> uuid.UUID:
    """A payment that can be archived, but for what is said otherwise, with its key and two units."""
    number = uuid.uuid4()
    payment_id = uuid7(now_ms=int(at.timestamp() * 1000), random_bits=number.int)
    key = f"0x{number.hex * 2}"
    async with pool.acquire() as connection, connection.transaction():
        finality = finality if status == "completed" else "open"
        await connection.execute(
            PAYMENT, payment_id, NETWORK, ADDRESS, key, valid_before, status, finality, at, status == "completed"
        )
        await connection.execute(
            "INSERT INTO authorizations VALUES ($1, $2, $2, $3, $4)", NETWORK, ASSET, bytes.fromhex(key[2:]), payment_id
        )
        for unit in range(2) if status == "completed" else ():
            mint_id = f"0x{uuid.uuid4().hex * 2}"
            state = minted if unit else "completed"
            await connection.execute(
                UNIT, uuid.uuid4(), payment_id, unit, key, NETWORK, ADDRESS, mint_id, state,
                minted_block if unit else FINAL, at,
            )  # fmt: skip
    return payment_id


async def move(pool: asyncpg.Pool, span: Span = MONTH, *, limit: int = 100) -> Batch:
    """One batch."""
    async with pool.acquire() as connection, connection.transaction():
        return await archive.move(connection, span, limit=limit)


async def live(pool: asyncpg.Pool) -> set[uuid.UUID]:
    """The payments that are in the live table."""
    return {row["id"] for row in await pool.fetch("SELECT id FROM payment_queue")}


async def test_final_and_failed_payments_move_whole(pool: asyncpg.Pool) -> None:
    """Every column of every row arrives, and nothing stays behind but the key."""
    ids = {await payment(pool), await payment(pool, "failed")}
    before = {table: await pool.fetch(f"SELECT * FROM {table}_queue ORDER BY id") for table in ("payment", "mint")}
    assert await move(pool) == Batch(completed=1, failed=1, units=2, last=None)
    assert await live(pool) == set()
    for table, rows in before.items():
        moved = await pool.fetch(f"SELECT * FROM {table}_history ORDER BY id")
        assert [{k: v for k, v in row.items() if k != "archived_at"} for row in moved] == [dict(row) for row in rows]
    assert await pool.fetchval("SELECT count(*) FROM mint_queue") == 0
    assert {row["payment_id"] for row in await pool.fetch("SELECT payment_id FROM authorizations")} == ids


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "pending"},
        {"finality": "open"},
        {"finality": "reorged"},
        {"finality": "lost"},
        {"minted": "pending", "minted_block": None},
        {"minted": "owed", "minted_block": None},
        {"minted_block": FINAL + 1},
        {"status": "failed", "valid_before": FINAL_TIME + 1},
        {"at": NOW - dt.timedelta(days=29)},
    ],
    ids=lambda columns: " ".join(f"{k}={v}" for k, v in columns.items() if k != "at") or "young",
)
async def test_what_can_still_move_stays(pool: asyncpg.Pool, columns: dict[str, object]) -> None:
    """By reorg, by late money, by a mint, or because somebody may still be looking."""
    payment_id = await payment(pool, **columns)  # type: ignore[arg-type]  # each row above has its type
    assert await move(pool) == Batch(0, 0, 0, None)
    assert await live(pool) == {payment_id}


@pytest.mark.parametrize("status", ["open", "resolved"])
async def test_a_payment_with_an_open_debt_stays(pool: asyncpg.Pool, status: str) -> None:
    """A debt that was settled holds nobody back."""
    payment_id = await payment(pool)
    await pool.execute(
        "INSERT INTO owed (direction, network, payment_id, reason, asset, amount, beneficiary, status)"
        " VALUES ('to_buyer', $1, $2, 'r', $3, 1, $3, $4)", NETWORK, payment_id, ADDRESS, status,
    )  # fmt: skip
    assert (await move(pool)).completed == (0 if status == "open" else 1)


@pytest.mark.parametrize("carries", ["payment", "unit"])
@pytest.mark.parametrize(("state", "moved"), [("sent", 0), ("confirmed", 0), ("final", 1)])
async def test_what_a_transaction_in_flight_carries_stays(
    pool: asyncpg.Pool, carries: str, state: str, moved: int
) -> None:
    """Someone else settled it, say, and ours may still be mined."""
    payment_id = await payment(pool)
    transaction = await pool.fetchval(
        "INSERT INTO chain_transactions (network, signer, account_nonce, purpose, state, signer_epoch, to_address,"
        " gas_limit, item_count) VALUES ($1, $2, 0, 'settle', $3, 1, $2, 1, 1) RETURNING id", NETWORK, ADDRESS, state,
    )  # fmt: skip
    queue_id = await pool.fetchval("SELECT id FROM mint_queue ORDER BY unit DESC LIMIT 1")
    subject = (payment_id, None) if carries == "payment" else (None, queue_id)
    await pool.execute("INSERT INTO chain_transaction_items VALUES ($1, 0, $2, $3)", transaction, *subject)
    assert (await move(pool)).completed == moved


async def test_nothing_moves_before_the_chain_was_read_to_a_final_block(pool: asyncpg.Pool) -> None:
    """Without a final block nothing is known to be final."""
    await payment(pool)
    await pool.execute("DELETE FROM chain_blocks")
    assert (await move(pool)).completed == 0


async def test_an_archived_payment_is_found_and_shown_as_before(pool: asyncpg.Pool) -> None:
    """By its id, by a unit's id, and by its authorization; beside one that is live."""
    archived, stays = await payment(pool), await payment(pool, at=NOW)
    queue_ids = [row["id"] for row in await pool.fetch("SELECT id FROM mint_queue WHERE payment_id = $1", archived)]
    nonces = [bytes.fromhex(r["authorization_nonce"][2:]) for r in await pool.fetch("SELECT * FROM payment_queue")]
    keys = [(ASSET, AuthorizationNonce(nonce)) for nonce in nonces]
    async with pool.acquire() as connection:
        before = [await payments.show(connection, archived), await payments.show(connection, stays)]
        held = await payments.find_by_authorization(connection, network=NETWORK, asset=ASSET, keys=keys)
        await move(pool)
        assert await live(pool) == {stays}
        assert [await payments.show(connection, archived), await payments.show(connection, stays)] == before
        both = await payments.show_many(connection, [archived, stays])
        assert {p.id: len(p.mints) for p in both} == {archived: 2, stays: 2}
        assert await payments.find_by_authorization(connection, network=NETWORK, asset=ASSET, keys=keys) == held
        assert [await payments.payment_of_mint(connection, q) for q in queue_ids] == [archived, archived]
        assert await payments.payment_of_mint(connection, uuid.uuid4()) is None
        assert await payments.show(connection, uuid.uuid4()) is None


async def test_the_authorization_of_an_archived_payment_cannot_be_used_again(pool: asyncpg.Pool) -> None:
    """The never-reuse key is kept for ever; another nonce of the payer is free."""
    await payment(pool)
    used = bytes.fromhex((await pool.fetchval("SELECT authorization_nonce FROM payment_queue"))[2:])
    await move(pool)
    offered = [
        payments.NewPayment(
            uuid.uuid4(), ASSET, 1, ASSET, ASSET, AtomicAmount(1), AuthorizationNonce(nonce), UnixTime(0),
            UnixTime(2), b"",
        )
        for nonce in (used, bytes(32))
    ]  # fmt: skip
    async with pool.acquire() as connection:
        taken = await payments.insert(connection, network=NETWORK, asset=ASSET, pay_to=ASSET, payments=offered)
    assert taken == {offered[1].id}


async def test_a_payment_that_another_transaction_holds_is_left_for_another_time(pool: asyncpg.Pool) -> None:
    """Nobody who serves waits for the archive, nor the archive for them."""
    held, free = await payment(pool), await payment(pool)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM payment_queue WHERE id = $1 FOR UPDATE", held)
        assert (await asyncio.wait_for(move(pool), 10)).completed == 1
        assert await live(pool) == {held}
    assert (await move(pool)).completed == 1
    assert free != held


async def test_an_interrupted_batch_moves_nothing(pool: asyncpg.Pool) -> None:
    """A payment and its units are in one place, whatever happens in between."""
    await payment(pool)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert (await archive.move(connection, MONTH, limit=9)).units == 2
        await transaction.rollback()
    assert await pool.fetchval("SELECT count(*) FROM mint_queue") == 2
    assert await pool.fetchval("SELECT count(*) FROM payment_history") == 0


async def test_the_history_has_every_column_of_the_live_tables(pool: asyncpg.Pool) -> None:
    """A migration that adds a column adds it to both, and to what is moved."""
    for table, moved in (("payment", archive.PAYMENT_COLUMNS), ("mint", archive.MINT_COLUMNS)):
        found = {
            row["table_name"]: set(row["columns"])
            for row in await pool.fetch(
                "SELECT table_name::text, array_agg(column_name::text) AS columns FROM information_schema.columns"
                " WHERE table_name IN ($1, $2) GROUP BY 1", f"{table}_queue", f"{table}_history",
            )
        }  # fmt: skip
        assert found[f"{table}_history"] == found[f"{table}_queue"] | {"archived_at"}
        assert set(moved.split(", ")) == found[f"{table}_queue"]


async def test_the_command_counts_and_then_moves_in_batches(
    pool: asyncpg.Pool, database_url: str, tmp_path: Path
) -> None:
    """A dry run moves nothing; a second run finds nothing."""
    for _ in range(5):
        await payment(pool)
    young = await payment(pool, at=NOW)

    def run(*words: str) -> dict[str, object]:
        done = invoke("db", "archive", "--json", *words, cwd=tmp_path, DATABASE_URL=database_url)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    counted = {"completed": 5, "failed": 0, "units": 10}
    assert run("--dry-run", "--batch", "2") == {**counted, "dryRun": True}
    assert len(await live(pool)) == 6
    assert run("--batch", "2") == {**counted, "dryRun": False}
    assert await live(pool) == {young}
    assert run() == {"completed": 0, "failed": 0, "units": 0, "dryRun": False}


def test_the_command_refuses_to_take_what_the_operators_queries_look_at(database_url: str, tmp_path: Path) -> None:
    """They look back an hour."""
    done = invoke("db", "archive", "--older-than", "59m", cwd=tmp_path, DATABASE_URL=database_url)
    assert done.returncode == 2
    assert "--older-than must be 1h at least" in done.stderr
