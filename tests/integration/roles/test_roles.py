"""The database roles, on every supported PostgreSQL: each does all of its work, and the server refuses the rest."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import asyncpg
import pytest
from api.shop import Buyer, Shop, configure, open_shop, running, until
from flow.rig import open_rig
from postgres import Cluster

from payfirst.store import (
    admission,
    crediting,
    heads,
    migrate,
    mints,
    monitoring,
    owed,
    payments,
    processes,
    queue_stats,
    refund_list,
    refunds,
    roles,
    settling,
    signers,
    tokens,
    transactions,
    treasuries,
)
from payfirst.store.roles import API, READONLY, RIGHTS, ROLES, WORKER


@dataclass(frozen=True)
class Installed:
    """A database whose roles were made, with a connection of its owner's."""

    owner_url: str
    pool: asyncpg.Pool

    def url(self, role: str) -> str:
        """The same database as `role`."""
        return self.owner_url.replace("payfirst@", f"{role}@", 1)

    @contextlib.asynccontextmanager
    async def as_role(self, role: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection of `role`'s."""
        connection = await asyncpg.connect(self.url(role))
        try:
            yield connection
        finally:
            await connection.close()

    async def refuses(self, role: str, sql: str) -> bool:
        """Whether PostgreSQL itself refuses the statement for want of a right."""
        async with self.as_role(role) as connection:
            try:
                await connection.execute(sql)
            except asyncpg.InsufficientPrivilegeError:
                return True
            except asyncpg.ReadOnlySQLTransactionError:
                return True
        return False


@pytest.fixture
async def installed(any_database_url: str) -> AsyncIterator[Installed]:
    """Tables and roles."""
    await roles.apply(any_database_url)
    async with asyncpg.create_pool(any_database_url, min_size=1, max_size=4) as pool:
        yield Installed(any_database_url, pool)


@pytest.fixture
async def shop(installed: Installed) -> AsyncIterator[Shop]:
    """An API that connects as its role."""
    await open_shop(installed.pool)
    async with running(configure(installed.url(API)), installed.pool) as opened:
        yield opened


async def test_the_api_sells_and_shows_as_its_role(shop: Shop, installed: Installed) -> None:
    """402, 202, the same header again, the payment, a wait, statistics, tokens, readiness."""
    assert (await shop.mint()).status_code == 402
    header = Buyer().header()
    accepted = await shop.mint(header)
    assert accepted.status_code == 202, accepted.text
    assert (await shop.mint(header)).json() == accepted.json()
    payment = f"/api/payment/{accepted.json()['paymentQueueId']}"
    assert (await shop.client.get(payment)).json()["status"] == "pending"
    waited = await shop.client.get(payment, headers={"Prefer": "wait=1"})
    assert waited.status_code == 200, waited.text
    for path in ("/api/payment/stats", "/api/queue/stats", "/api/tokens", "/ready"):
        assert (await shop.client.get(path)).status_code == 200, path
    assert (await shop.client.get(f"/api/queue/{uuid.uuid4()}")).status_code == 404


async def test_the_api_beats_hears_and_leaves_as_its_role(installed: Installed) -> None:
    """Its heartbeat is written, a NOTIFY reaches it, and its row is gone when it stops in good order."""
    await open_shop(installed.pool)
    count = "SELECT count(*) FROM processes WHERE role = 'api'"
    async with running(configure(installed.url(API)), installed.pool) as shop:
        accepted = await shop.mint(Buyer().header())

        async def beats() -> bool:
            return bool(await installed.pool.fetchval(count) == 1)

        await until(beats)
        waiting = asyncio.create_task(
            shop.client.get(
                f"/api/payment/{accepted.json()['paymentQueueId']}",
                headers={"Prefer": "wait=20"},
            )
        )
        await installed.pool.execute("UPDATE payment_queue SET status = 'failed', error_code = 'expired'")
        assert (await waiting).json()["status"] == "failed"
    assert await installed.pool.fetchval(count) == 0


async def test_everything_is_settled_and_minted_by_the_two_roles(installed: Installed) -> None:
    """API and worker, each as its role, on a real chain: paid and minted, and all invariants hold."""
    async with open_rig(installed.url(API), installed.pool) as opened:
        rig = replace(opened, database_url=installed.url(WORKER))
        buyers = await rig.buyers(3)
        (poor,) = await rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money at all
        async with rig.working():
            for buyer in buyers:
                await rig.pay(buyer, 2)
            await rig.pay(poor)
            await rig.until_counts(mints_completed=6, payments_completed=3, payments_failed=1)
        await rig.check_invariants()


INSERT_SENT = """
INSERT INTO payment_queue (id, network, asset, pay_to, token_address, payer, recipient, amount, quantity,
    authorization_nonce, valid_after, valid_before, signature, accepted_height, {column})
SELECT gen_random_uuid(), network, asset, pay_to, token_address, payer, recipient, amount, quantity,
    authorization_nonce, valid_after, valid_before, ''::bytea, accepted_height, {value} FROM payment_queue LIMIT 1
"""

FORBIDDEN_TO_API = {
    "insert a completed payment": INSERT_SENT.format(column="status", value="'completed'"),
    "insert a payment with a transaction": INSERT_SENT.format(column="tx_hash", value="NULL"),
    "insert a payment with evidence": INSERT_SENT.format(column="settled_block", value="1"),
    "insert a payment that holds supply": INSERT_SENT.format(column="supply_reserved", value="true"),
    "complete a payment": "UPDATE payment_queue SET status = 'completed'",
    "change an amount": "UPDATE payment_queue SET amount = 0",
    "lease a payment": "UPDATE payment_queue SET lease_owner = 'me'",
    "delete a payment": "DELETE FROM payment_queue",
    "free an authorization": "DELETE FROM authorizations",
    "move an authorization": "UPDATE authorizations SET payment_id = gen_random_uuid()",
    "create a mint": "INSERT INTO mint_queue (id) VALUES (gen_random_uuid())",
    "mark a mint done": "UPDATE mint_queue SET status = 'completed'",
    "delete a mint": "DELETE FROM mint_queue",
    "read buyers' signatures": "SELECT signature FROM payment_queue",
    "read signed transactions": "SELECT signed_bytes FROM chain_attempts",
    "read transactions": "SELECT * FROM chain_transactions",
    "read signers": "SELECT * FROM signers",
    "move a nonce": "UPDATE signers SET next_nonce = 0",
    "add a signer": "INSERT INTO signers (network, address, purpose, next_nonce) VALUES ('', '', 'mint', 0)",
    "store a transaction": "INSERT INTO chain_attempts (hash) VALUES ('0x')",
    "move the chain's head": "UPDATE chain_heads SET head_height = 0",
    "reprice a token": "UPDATE tokens SET price = 1",
    "offer a token": "INSERT INTO tokens (network, address, price) VALUES ('n', 'a', 1)",
    "read what was noted about a debt": "SELECT note FROM owed",
    "read what refunds are paid from": "SELECT * FROM treasuries",
    "write a debt": "UPDATE owed SET status = 'resolved'",
    "approve a refund": "UPDATE refunds SET status = 'approved'",
    "change a setting": "INSERT INTO settings (key, value, updated_by) VALUES ('a', '1', 'me')",
    "write the audit log": "INSERT INTO audit_log (actor, action, subject) VALUES ('a', 'b', 'c')",
    "pretend that a worker lives": "INSERT INTO processes (id, role, network, host, pid)"
    " VALUES (gen_random_uuid(), 'worker', 'n', 'h', 1)",
    "empty a table": "TRUNCATE payment_queue CASCADE",
    "drop a table": "DROP TABLE refunds",
    "switch a trigger off": "ALTER TABLE payment_queue DISABLE TRIGGER ALL",
    "make a table": "CREATE TABLE mine (id int)",
    "make a role": "CREATE ROLE helper",
    "become a worker": f"SET ROLE {WORKER}",
}


@pytest.fixture
async def with_rows(shop: Shop, installed: Installed) -> Installed:
    """A database in which there is something to do harm to."""
    assert (await shop.mint(Buyer().header())).status_code == 202
    return installed


async def test_postgresql_refuses_the_api_everything_else(with_rows: Installed, subtests: pytest.Subtests) -> None:
    """Each line is one thing that somebody who has taken over the API would like to do."""
    for deed, sql in FORBIDDEN_TO_API.items():
        with subtests.test(deed):
            assert await with_rows.refuses(API, sql)
            async with with_rows.pool.acquire() as owner, owner.transaction():
                state = await owner.fetchrow("SELECT count(*) AS n, min(status) AS status FROM payment_queue")
                assert state is not None
                assert tuple(state) == (1, "pending")


async def test_the_api_ends_no_worker(with_rows: Installed) -> None:
    """Row security: a worker's heartbeat is not there for the API to write; it reads it, and its own it may end."""
    async with with_rows.as_role(API) as connection:
        assert await connection.fetchval("SELECT count(*) FROM processes WHERE role = 'worker'") == 1
        assert await connection.execute("DELETE FROM processes WHERE role = 'worker'") == "DELETE 0"
        assert await connection.execute("UPDATE processes SET stats = '{}' WHERE role = 'worker'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM processes WHERE role = 'api'") != "DELETE 0"


FORBIDDEN_TO_WORKER = {
    "reprice a token": "UPDATE tokens SET price = 1",
    "drop a table": "DROP TABLE refunds",
    "empty a table": "TRUNCATE payment_queue CASCADE",
    "switch a trigger off": "ALTER TABLE payment_queue DISABLE TRIGGER ALL",
    "drop a constraint": "ALTER TABLE mint_queue DROP CONSTRAINT payment_first",
    "replace a function": "CREATE OR REPLACE FUNCTION payfirst_units_complete() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN RETURN NULL; END $$",
    "make a table": "CREATE TABLE mine (id int)",
    "invent a payment": "INSERT INTO payment_queue (id) VALUES (gen_random_uuid())",
    "delete a payment": "DELETE FROM payment_queue",
    "delete a mint": "DELETE FROM mint_queue",
    "free an authorization": "DELETE FROM authorizations",
    "delete a transaction": "DELETE FROM chain_transactions",
    "rewrite the audit log": "UPDATE audit_log SET actor = 'nobody'",
    "change a setting": "UPDATE settings SET value = '1'",
    "offer a token": "INSERT INTO tokens (network, address, price) VALUES ('n', 'a', 1)",
    "make a role": "CREATE ROLE helper",
}


async def test_postgresql_refuses_the_worker_what_is_not_its_work(
    with_rows: Installed, subtests: pytest.Subtests
) -> None:
    """It settles and mints; it changes no schema and forgets nothing."""
    for deed, sql in FORBIDDEN_TO_WORKER.items():
        with subtests.test(deed):
            assert await with_rows.refuses(WORKER, sql)


async def test_the_onlooker_reads_everything_and_changes_nothing(
    with_rows: Installed, subtests: pytest.Subtests
) -> None:
    """`payfirst_readonly` is for operators and for the exporter."""
    async with with_rows.as_role(READONLY) as connection:
        for table in RIGHTS:
            with subtests.test(table):
                await connection.fetch(f"SELECT * FROM {table}")
    for sql in ("UPDATE tokens SET price = 1", "DELETE FROM payment_queue", "CREATE TABLE mine (id int)"):
        with subtests.test(sql):
            assert await with_rows.refuses(READONLY, sql)
            assert await with_rows.refuses(READONLY, f"BEGIN READ WRITE; {sql}")


async def test_every_table_has_a_decision(installed: Installed) -> None:
    """A new table is one line in RIGHTS; without it this fails, and so does a line for a table that is gone."""
    tables = await installed.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row["tablename"] for row in tables} == set(RIGHTS)


async def test_hidden_columns_exist(installed: Installed) -> None:
    """What is kept from the API is named as the tables name it."""
    for table, rights in RIGHTS.items():
        for column in rights.hidden_from_api:
            assert await installed.pool.fetchval(
                "SELECT count(*) FROM information_schema.columns WHERE table_name = $1 AND column_name = $2",
                table,
                column,
            ), f"{table}.{column}"


async def test_rights_are_taken_back_and_given_anew(installed: Installed) -> None:
    """Applied again after somebody granted too much: exactly the rights of this release, and no role is made twice."""
    await installed.pool.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {API}")
    await installed.pool.execute("GRANT UPDATE ON signers TO PUBLIC")
    assert not await installed.refuses(API, "DELETE FROM signers")
    assert await roles.apply(installed.owner_url) == []
    assert await installed.refuses(API, "DELETE FROM signers")
    assert await installed.refuses(API, "UPDATE signers SET next_nonce = 0")
    assert not await installed.refuses(API, "SELECT * FROM tokens")


async def test_a_role_that_could_do_more_is_said(installed: Installed) -> None:
    """Grants limit no superuser and no owner: that is an error, not a comfort."""
    try:
        await installed.pool.execute(f"ALTER ROLE {API} CREATEROLE")
        with pytest.raises(roles.RolesRefused, match=f"{API} is a superuser, or may create roles"):
            await roles.apply(installed.owner_url)
    finally:
        await installed.pool.execute(f"ALTER ROLE {API} NOCREATEROLE")
    await installed.pool.execute(f"ALTER TABLE refunds OWNER TO {WORKER}")
    with pytest.raises(roles.RolesRefused, match=f"{WORKER} owns refunds"):
        await roles.apply(installed.owner_url)


async def test_who_may_not_grant_is_told_who_may(installed: Installed) -> None:
    """One sentence with the way out."""
    with pytest.raises(roles.RolesRefused, match="payfirst db roles --sql"):
        await roles.apply(installed.url(WORKER))


async def test_an_upgrade_renews_rights_only_where_there_are_some(any_postgres: Cluster) -> None:
    """The roles are the cluster's: another payfirst's database is not opened to them by its own upgrade."""
    with (
        any_postgres.database(template=any_postgres.migrated_template) as first,
        any_postgres.database(template=any_postgres.migrated_template) as second,
    ):
        await roles.apply(first)
        assert await roles.refresh(first)
        assert not await roles.refresh(second)
        connection = await asyncpg.connect(second.replace("payfirst@", f"{API}@", 1))
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("SELECT * FROM tokens")
        finally:
            await connection.close()


async def test_the_tables_go_down_and_up_again_under_the_roles(any_empty_database_url: str) -> None:
    """Policies and grants do not stand in a migration's way."""
    url = any_empty_database_url
    await asyncio.to_thread(migrate.upgrade, url)
    await roles.apply(url)
    await asyncio.to_thread(migrate.downgrade, url, "base")
    await asyncio.to_thread(migrate.upgrade, url)
    assert await roles.apply(url) == []
    assert len(ROLES) == 3


# What each process runs, whole modules; a module of operators' commands is in neither list.
RUN_BY = {
    API: (admission, payments, queue_stats, processes, refund_list),
    WORKER: (
        admission,
        crediting,
        heads,
        mints,
        owed,
        processes,
        refunds,
        settling,
        signers,
        tokens,
        transactions,
        treasuries,
    ),
    READONLY: (monitoring, queue_stats, payments),
}
# Statements in those modules that the role does not run: operators' commands, and the other process's.
NOT_RUN_BY = {
    API: {"refund_list.LIST_REFUNDS", "refund_list.STATUS_OF"},
    WORKER: {"tokens.ADD_TOKEN", "tokens.CHANGE_PRICE", "tokens.PAUSE_TOKEN", "tokens.RESUME_TOKEN"},
    READONLY: {"payments.INSERT_PAYMENTS"},
}


def sql_of(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The statements of a module of the store, by name."""
    short = module.__name__.rpartition(".")[2]
    for name, value in vars(module).items():
        for sql in value.values() if isinstance(value, dict) else [value]:
            if name[0].isupper() and isinstance(sql, str) and re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", sql):
                yield f"{short}.{name}", sql


@pytest.mark.parametrize("role", RUN_BY)
async def test_every_statement_of_a_process_is_within_its_rights(
    postgres_18: Cluster, role: str, subtests: pytest.Subtests
) -> None:
    """Also those of bad days: reorgs, replacements, debts. Newer PostgreSQL can be asked without running them."""
    with postgres_18.database(template=postgres_18.migrated_template) as url:
        await roles.apply(url)
        connection = await asyncpg.connect(url.replace("payfirst@", f"{role}@", 1))
        try:
            for module in RUN_BY[role]:
                for name, sql in sql_of(module):
                    if name not in NOT_RUN_BY[role]:
                        with subtests.test(name):
                            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
                    else:
                        with subtests.test(name), pytest.raises(asyncpg.InsufficientPrivilegeError):
                            await connection.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
        finally:
            await connection.close()
