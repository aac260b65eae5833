"""What PostgreSQL itself refuses, on each supported version: payment first is no matter of discipline."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import asyncpg
import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from payfirst.store import alembic_run, migrate

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

A = "0x" + "aa" * 20
TX = "0x" + "11" * 32
BLOCK = "0x" + "22" * 32


@pytest.fixture
async def db(any_database_url: str) -> AsyncIterator[Db]:
    """A connection to a fresh database with a token of 100 mints."""
    connection = await asyncpg.connect(any_database_url)
    await connection.execute(
        "INSERT INTO tokens (network, address, price, max_mint_count, reserved) VALUES ('n', $1, 1, 100, 7)", A
    )
    yield connection
    await connection.close()


LOCKS_WANTED = (
    "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
    " WHERE NOT granted AND datname = current_database()"
)


async def payment(db: Db, status: str, *, quantity: int = 2, log: int = 0) -> uuid.UUID:
    """A payment row as it stands in a status, without mints."""
    found: uuid.UUID = await db.fetchval(
        "INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,"
        " authorization_nonce, valid_after, valid_before, signature, accepted_height, status, tx_hash, settled_block,"
        " settled_block_hash, settled_log_index) VALUES ($1, 'n', $2, $2, $2, $2, 20, $3, $2, $4, 0, 1, '', 1, $5, $6,"
        " $7, $8, $9) RETURNING id",
        uuid.uuid4(), A, quantity, "0x" + uuid.uuid4().hex * 2, status,
        TX if status in ("sent", "completed") else None,
        *((1, BLOCK, log) if status == "completed" else (None, None, None)),
    )  # fmt: skip
    return found


async def mint(db: Db, payment_id: uuid.UUID, unit: int, **columns: object) -> None:
    """A mint row."""
    fields = {
        "id": uuid.uuid4(), "payment_id": payment_id, "unit": unit, "payment_tx_hash": TX, "network": "n",
        "token_address": A, "recipient": A, "mint_id": "0x" + uuid.uuid4().hex * 2, **columns,
    }  # fmt: skip
    names = ", ".join(fields)
    places = ", ".join(f"${n + 1}" for n in range(len(fields)))
    await db.execute(f"INSERT INTO mint_queue ({names}) VALUES ({places})", *fields.values())


async def completed(db: Db, *, quantity: int = 2, log: int = 0) -> uuid.UUID:
    """A completed payment with all its mint rows."""
    async with db.transaction():
        payment_id = await payment(db, "completed", quantity=quantity, log=log)
        for unit in range(quantity):
            await mint(db, payment_id, unit)
    return payment_id


@pytest.mark.parametrize("status", ["pending", "sent", "failed"])
async def test_a_mint_for_an_unconfirmed_payment_is_refused(db: Db, status: str) -> None:
    """Not even by hand: the foreign key names the status."""
    payment_id = await payment(db, status)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await mint(db, payment_id, 0)
    with pytest.raises(asyncpg.CheckViolationError):
        await mint(db, payment_id, 0, payment_status=status)


async def test_a_mint_for_a_confirmed_payment_is_taken(db: Db) -> None:
    """The other side of the rule."""
    await completed(db)
    assert await db.fetchval("SELECT count(*) FROM mint_queue") == 2


async def test_a_payment_with_mints_cannot_be_uncompleted(db: Db) -> None:
    """The foreign key holds the status fast."""
    payment_id = await completed(db)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await db.execute("UPDATE payment_queue SET status = 'failed' WHERE id = $1", payment_id)


async def test_a_mint_without_its_payments_transaction_is_refused(db: Db) -> None:
    """The seed's unpaid-mints query can only ever answer 0."""
    payment_id = await completed(db, quantity=3)
    with pytest.raises(asyncpg.NotNullViolationError):
        await mint(db, payment_id, 0, payment_tx_hash=None)


@pytest.mark.parametrize("units", [0, 1])
async def test_a_completed_payment_with_too_few_mints_is_refused_at_commit(db: Db, units: int) -> None:
    """Exactly `quantity`, checked when the transaction ends."""
    transaction = db.transaction()
    await transaction.start()
    payment_id = await payment(db, "completed")
    for unit in range(units):
        await mint(db, payment_id, unit)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="of its 2 mint rows"):
        await transaction.commit()


async def test_a_mint_too_many_is_refused(db: Db) -> None:
    """Nobody gets a third unit for the price of two."""
    payment_id = await completed(db)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="more mint rows than it paid for"):
        await mint(db, payment_id, 2)


async def test_mints_of_a_completed_payment_cannot_be_deleted(db: Db) -> None:
    """What was paid for does not vanish by a slip in psql."""
    payment_id = await completed(db)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="0 of its 2 mint rows"):
        await db.execute("DELETE FROM mint_queue WHERE payment_id = $1", payment_id)


async def test_payment_and_mints_may_leave_together(db: Db) -> None:
    """That is how history is moved."""
    payment_id = await completed(db)
    async with db.transaction():
        await db.execute("DELETE FROM mint_queue WHERE payment_id = $1", payment_id)
        await db.execute("DELETE FROM payment_queue WHERE id = $1", payment_id)
    assert await db.fetchval("SELECT count(*) FROM payment_queue") == 0


async def test_one_transfer_log_pays_for_one_payment(db: Db) -> None:
    """The evidence is unique."""
    await completed(db, log=5)
    with pytest.raises(asyncpg.UniqueViolationError, match="payment_queue_evidence"):
        await completed(db, log=5)


async def test_completed_without_evidence_is_refused(db: Db) -> None:
    """A hash alone proves nothing."""
    payment_id = await payment(db, "sent")
    with pytest.raises(asyncpg.CheckViolationError, match="completed_has_evidence"):
        await db.execute("UPDATE payment_queue SET status = 'completed' WHERE id = $1", payment_id)


async def test_an_account_nonce_is_given_once(db: Db) -> None:
    """No two transactions of a signer share a nonce."""
    insert = (
        "INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,"
        " item_count) VALUES ('n', $1, 3, 'settle', 1, $1, 1, 1)"
    )
    await db.execute(insert, A)
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute(insert, A)


async def test_failing_by_hand_clears_the_transaction_and_gives_supply_back(
    db: Db,
) -> None:
    """The seed's rollback SQL is whole, because a trigger makes it so."""
    payment_id = await payment(db, "sent")
    await db.execute("UPDATE payment_queue SET supply_reserved = true")
    await db.execute(
        "UPDATE payment_queue SET status = 'failed', error = 'Rollback to sync mode'"
        " WHERE status IN ('sent', 'payment_pending')"
    )
    row = await db.fetchrow("SELECT status, tx_hash, supply_reserved FROM payment_queue WHERE id = $1", payment_id)
    assert row is not None
    assert tuple(row) == ("failed", None, False)
    assert await db.fetchval("SELECT reserved FROM tokens") == 5


@pytest.mark.parametrize("parameters", ["sslmode=prefer", "sslmode=disable&application_name=mine"])
def test_a_url_with_the_drivers_parameters_is_understood(database_url: str, parameters: str) -> None:
    """As hosted databases hand them out; the pool takes them too."""
    assert migrate.status(f"{database_url}?{parameters}").is_current


def test_the_tables_go_up_and_down_and_up_again(any_empty_database_url: str) -> None:
    """Nothing is left behind, and nothing is in the way."""
    assert migrate.status(any_empty_database_url).current is None
    migrate.upgrade(any_empty_database_url)
    assert migrate.status(any_empty_database_url).is_current
    migrate.downgrade(any_empty_database_url, "base")
    assert migrate.status(any_empty_database_url).current is None
    migrate.upgrade(any_empty_database_url)
    assert migrate.status(any_empty_database_url).pending == ()


async def test_an_upgrade_that_has_to_wait_lets_others_pass(empty_database_url: str) -> None:
    """Somebody reads for long: who wants the table after the upgrade did waits half a second, not for both."""
    migrate.upgrade(empty_database_url, migrate.revisions()[0])
    reading, buying = [await asyncpg.connect(empty_database_url) for _ in range(2)]
    async with reading.transaction():
        await reading.execute("SELECT FROM payment_queue")
        upgrading = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
        for _ in range(2):  # it comes back
            while not await buying.fetchval(LOCKS_WANTED):  # noqa: ASYNC110 - a lock has no event
                await asyncio.sleep(0.01)
            await buying.execute("SELECT FROM payment_queue", timeout=5)
        assert not upgrading.done()
    await upgrading
    assert migrate.status(empty_database_url).is_current
    await reading.close()
    await buying.close()


@pytest.fixture
def give_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to give way once has given up."""
    monkeypatch.setattr(alembic_run, "GIVE_UP_S", 0.0)


@pytest.mark.usefixtures("give_up_at_once")
async def test_an_upgrade_that_never_may_says_so_and_goes_on_later(empty_database_url: str) -> None:
    """In a sentence with what to do; what was gone through before is kept."""
    first, last = migrate.revisions()[0], migrate.revisions()[-1]
    migrate.upgrade(empty_database_url, first)
    reading = await asyncpg.connect(empty_database_url)
    async with reading.transaction():
        await reading.execute("SELECT FROM owed")
        with pytest.raises(alembic_run.TablesInUse, match=r"half done.* and run payfirst db upgrade;"):
            await asyncio.to_thread(migrate.upgrade, empty_database_url)
        stands = migrate.status(empty_database_url).current
        assert stands not in (None, first, last)
        with pytest.raises(alembic_run.TablesInUse, match=f" and run payfirst db upgrade {last};"):
            await asyncio.to_thread(migrate.upgrade, empty_database_url, last)
        assert migrate.status(empty_database_url).current == stands
    await reading.close()
    migrate.upgrade(empty_database_url)
    assert migrate.status(empty_database_url).is_current


@pytest.mark.usefixtures("give_up_at_once")
async def test_a_downgrade_that_stops_midway_names_the_command_that_ends_where_it_was_to(database_url: str) -> None:
    """Asked for some steps, it names the revision: those steps from where it stopped would be too many."""
    order = migrate.revisions()
    reading = await asyncpg.connect(database_url)
    async with reading.transaction():
        await reading.execute("SELECT FROM owed")
        with pytest.raises(alembic_run.TablesInUse, match=f"and run payfirst db downgrade {order[1]};"):
            await asyncio.to_thread(migrate.downgrade, database_url, f"-{len(order) - 2}")
    await reading.close()
    stands = migrate.status(database_url).current
    assert stands in order[2:-1]
    migrate.downgrade(database_url, order[1])
    assert migrate.status(database_url).current == order[1]


async def test_who_finds_the_tables_taken_the_other_way_says_so(empty_database_url: str) -> None:
    """One that goes up and one that goes down would take turns for ever."""
    order = migrate.revisions()
    migrate.upgrade(empty_database_url, order[5])
    both = (migrate.upgrade, order[-1]), (migrate.downgrade, order[1])
    ends = await asyncio.gather(
        *(asyncio.to_thread(move, empty_database_url, to) for move, to in both), return_exceptions=True
    )
    told = [end for end in ends if end is not None]
    assert [type(end) for end in told] in ([], [alembic_run.TablesInUse])
    ends_at = [to for (_, to), end in zip(both, ends, strict=True) if end is None]
    assert migrate.status(empty_database_url).current in ends_at
    assert all("takes the tables the other way" in str(end) for end in told)


def test_what_is_left_may_not_grow(empty_database_url: str) -> None:
    """What tells that another process takes the tables the other way, without a race."""

    def always_three(stands: str | None) -> tuple[str, ...]:
        return ("0001", "0002", "0003") if stands is None else ("0002", "0003", "0004", "0005")

    with pytest.raises(alembic_run.TablesInUse, match=r"the other way, they stand at 0001: wait .*, and run it again"):
        asyncio.run(alembic_run.upgrade(empty_database_url, always_three, "it again"))
    assert migrate.status(empty_database_url).current == "0001"


async def test_upgrades_at_once_are_one(empty_database_url: str) -> None:
    """Each waits for the one before, and finds nothing to do."""
    await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, empty_database_url) for _ in range(4)))
    assert migrate.status(empty_database_url).is_current


async def test_who_waits_for_another_begins_where_the_other_ended(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that is beyond what this release knows: an upgrade is done, a downgrade is the other release's."""
    order = migrate.revisions()
    monkeypatch.setattr(alembic_run, "AGAIN_S", 0.01)
    migrate.upgrade(empty_database_url, order[-2])
    other = await asyncpg.connect(empty_database_url)
    await other.execute("SELECT pg_advisory_lock(7402402)")
    waiting = [
        asyncio.create_task(asyncio.to_thread(*move))
        for move in (
            (migrate.upgrade, empty_database_url),
            (migrate.upgrade, empty_database_url, order[-1]),
            (migrate.downgrade, empty_database_url, "-1"),
        )
    ]
    async with asyncio.timeout(60):
        while await other.fetchval(LOCKS_WANTED) < len(waiting):  # noqa: ASYNC110 - a lock has no event
            await asyncio.sleep(0.01)
    await other.execute("UPDATE payfirst_version SET version_num = '9999'")
    await other.close()
    done, to_a_name, back = await asyncio.gather(*waiting, return_exceptions=True)
    assert done is None
    assert isinstance(to_a_name, migrate.SchemaIsNewer)
    assert isinstance(back, migrate.SchemaIsNewer)
    assert migrate.status(empty_database_url).current == "9999"


@pytest.mark.parametrize(
    ("move", "revision", "sentence"),
    [
        (migrate.upgrade, "12", "no revision 12: this release has 0001 to "),
        (migrate.upgrade, "+1", r"no revision \+1: "),
        (migrate.downgrade, "12", "no revision 12: "),
        (migrate.downgrade, "-6", "the tables stand at 5 of "),
        (migrate.downgrade, "0009", "0009 comes after 0005, .*: payfirst db upgrade 0009 goes there$"),
    ],
)
def test_a_revision_that_is_none_is_refused_with_those_there_are(
    empty_database_url: str, move: Callable[[str, str], None], revision: str, sentence: str
) -> None:
    """Before anything is asked or changed."""
    migrate.upgrade(empty_database_url, "0005")
    with pytest.raises(migrate.RevisionUnknown, match=sentence):
        move(empty_database_url, revision)
    assert migrate.status(empty_database_url).current == "0005"


def test_an_empty_database_is_at_its_base(empty_database_url: str) -> None:
    """Nothing to take back is no error; a step back is one, and where the tables stand already is nothing to do."""
    migrate.downgrade(empty_database_url, "base")
    with pytest.raises(migrate.RevisionUnknown, match="goes back too far: the tables stand at 0 of "):
        migrate.downgrade(empty_database_url, "-1")
    with pytest.raises(migrate.RevisionUnknown, match="0001 comes after no revision"):
        migrate.downgrade(empty_database_url, "0001")
    migrate.upgrade(empty_database_url, "0002")
    migrate.upgrade(empty_database_url, "0001")
    migrate.downgrade(empty_database_url, "0002")
    assert migrate.status(empty_database_url).current == "0002"


@pytest.mark.usefixtures("give_up_at_once")
async def test_statistics_wait_for_a_vacuum(database_url: str) -> None:
    """What PostgreSQL is told of its tables keeps nobody from a row, so it need not give way at once.

    It outwaits a vacuum of PostgreSQL's own, which is ended for it after a second.
    """
    migrate.downgrade(database_url, "0011")
    vacuuming = await asyncpg.connect(database_url)
    async with vacuuming.transaction():
        await vacuuming.execute("LOCK TABLE mint_queue IN SHARE UPDATE EXCLUSIVE MODE")
        upgrading = asyncio.create_task(asyncio.to_thread(migrate.upgrade, database_url))
        while not await vacuuming.fetchval(LOCKS_WANTED):
            assert not upgrading.done()
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)  # PostgreSQL's deadlock_timeout, after which it ends a vacuum of its own
        assert not upgrading.done()
    await upgrading
    assert migrate.status(database_url).is_current
    await vacuuming.close()


async def test_the_downgrade_leaves_nothing(any_empty_database_url: str) -> None:
    """No table, no function, no index of payfirst's stays."""
    migrate.upgrade(any_empty_database_url)
    migrate.downgrade(any_empty_database_url, "base")
    connection = await asyncpg.connect(any_empty_database_url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        functions = await connection.fetch("SELECT proname FROM pg_proc WHERE proname LIKE 'payfirst%'")
    finally:
        await connection.close()
    assert [row["tablename"] for row in tables] == ["payfirst_version"]
    assert functions == []


def test_the_revisions_are_read_as_alembic_reads_them() -> None:
    """What is cheap to look at is what alembic would run."""
    config = AlembicConfig()
    config.set_main_option("script_location", "payfirst:store/migrations")
    scripts = ScriptDirectory.from_config(config)
    in_order = [script.revision for script in scripts.walk_revisions()][::-1]
    assert list(migrate.revisions()) == in_order
    assert len(in_order) == len(list(migrate.VERSIONS.glob("*.py")))


@pytest.mark.parametrize(
    "run",
    [
        "import payfirst.cli.main",
        "import payfirst.cli.main, payfirst.cli.serve",
        "import payfirst.cli.main, payfirst.cli.payments",
        "from payfirst.cli.main import app; app(['--help'], standalone_mode=False)",
        "from payfirst.cli.main import app; app(['payments', 'list', '--help'], standalone_mode=False)",
    ],
)
def test_a_command_does_not_load_what_only_some_need(run: str) -> None:
    """Each command starts a process, the API's too; what migrates, signs or asks a chain would double it."""
    of_some = "{'alembic', 'sqlalchemy', 'eth_account', 'eth_abi', 'aiohttp', 'payfirst.cli.tokens'}"
    code = f"import sys\n{run}\nprint('loaded', {of_some} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("loaded set()\n")


OWED_BEFORE = (
    "INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)"
    " VALUES ('to_buyer', 'n', $1, $2, 'r', $3, 1, $3) ON CONFLICT (payment_id, unit, reason) DO NOTHING"
)
OWED_MONEY = (
    "INSERT INTO owed (direction, network, reason, asset, amount, beneficiary, authorization_nonce, tx_hash)"
    " VALUES ('to_buyer', 'n', 'money_without_payment', $1, 1, $1, $2, $2) ON CONFLICT DO NOTHING"
)


async def test_a_debt_is_written_once_with_a_payment_and_without(db: Db) -> None:
    """The previous release's statement still names its key; two uses without a payment are two debts."""
    payment_id = uuid.uuid4()
    for unit in (0, 0, 1):
        await db.execute(OWED_BEFORE, payment_id, unit, A)
    for nonce in (TX, TX, BLOCK):
        await db.execute(OWED_MONEY, A, nonce)
    assert await db.fetchval("SELECT count(*) FROM owed WHERE payment_id IS NOT NULL") == 2
    assert await db.fetchval("SELECT count(*) FROM owed WHERE payment_id IS NULL") == 2
    await db.execute(OWED_BEFORE, payment_id, None, A)
    with pytest.raises(asyncpg.UniqueViolationError, match="owed_payment_once"):
        await db.execute(OWED_BEFORE, payment_id, None, A)


async def test_a_debt_for_nothing_is_refused(db: Db) -> None:
    """It names a payment, or the authorization and the transaction by which the money came."""
    with pytest.raises(asyncpg.CheckViolationError, match="owed_for_something"):
        await db.execute(OWED_BEFORE, None, None, A)


async def test_debts_without_a_payment_survive_older_tables_in_the_audit_log(any_database_url: str, db: Db) -> None:
    """What the older tables cannot hold is written down whole before it goes."""
    await db.execute(OWED_MONEY, A, TX)
    await asyncio.to_thread(migrate.downgrade, any_database_url, "0003")
    (kept,) = await db.fetch("SELECT action, subject, details->>'tx_hash' FROM audit_log")
    assert tuple(kept) == ("owed_without_payment", A, TX)
    assert await db.fetchval("SELECT count(*) FROM owed") == 0
    await asyncio.to_thread(migrate.upgrade, any_database_url)
    await db.execute(OWED_MONEY, A, TX)
