"""PostgreSQL roles with the least that each process needs: `payfirst_api`, `payfirst_worker`, `payfirst_readonly`.

What PostgreSQL refuses holds whatever a process was talked into. A new table needs one line in RIGHTS; a test fails for
a table without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import asyncpg

from payfirst.errors import OperatorError
from payfirst.store.connecting import open_connection
from payfirst.store.database import UNAVAILABLE, Connection, database_not_there

API, WORKER, READONLY = "payfirst_api", "payfirst_worker", "payfirst_readonly"
ROLES = (API, WORKER, READONLY)
# The operator's own questions end by themselves, instead of holding back the clean-up of old rows.
READONLY_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Rights:
    """What may be done to one table, in GRANT's words; nothing where empty. `payfirst_readonly` reads every table.

    `hidden_from_api` are columns that a SELECT of the API's leaves out.
    """

    api: str = ""
    worker: str = ""
    hidden_from_api: tuple[str, ...] = ()


# accepted_columns: of a payment, those that the API decides. Of all others a new row has the defaults: `pending`, no
# transaction, no evidence, no supply.
ACCEPTED_COLUMNS = (
    "id, network, asset, pay_to, token_address, payer, recipient, amount, quantity, authorization_nonce, valid_after,"
    " valid_before, signature, accepted_height"
)

RIGHTS: Mapping[str, Rights] = {
    "payment_queue": Rights(
        api=f"SELECT, INSERT ({ACCEPTED_COLUMNS})", worker="SELECT, UPDATE", hidden_from_api=("signature",)
    ),
    "authorizations": Rights(api="SELECT, INSERT", worker="SELECT"),
    "mint_queue": Rights(api="SELECT", worker="SELECT, INSERT, UPDATE"),
    "chain_transactions": Rights(worker="SELECT, INSERT, UPDATE"),
    "chain_attempts": Rights(worker="SELECT, INSERT, UPDATE"),
    "chain_transaction_items": Rights(worker="SELECT, INSERT, UPDATE"),
    "signers": Rights(worker="SELECT, INSERT, UPDATE"),
    # What the chain says, and what is promised; price and pause are the seller's.
    "tokens": Rights(
        api="SELECT",
        worker="SELECT, UPDATE (name, symbol, mint_amount, max_mint_count, minted, reserved, held_reason,"
        " synced_height, synced_at)",
    ),
    "short_payers": Rights(api="SELECT", worker="SELECT, INSERT, UPDATE, DELETE"),
    "wallet_payments": Rights(api="SELECT, INSERT", worker="SELECT, DELETE"),
    "quarantined_payers": Rights(api="SELECT", worker="SELECT, INSERT, UPDATE, DELETE"),
    "chain_heads": Rights(api="SELECT", worker="SELECT, INSERT, UPDATE"),
    "chain_blocks": Rights(worker="SELECT, INSERT, UPDATE, DELETE"),
    "waiting_evidence": Rights(worker="SELECT, INSERT, UPDATE, DELETE"),
    # A buyer is shown how far a refund is; what the seller noted about a debt is the seller's.
    "owed": Rights(api="SELECT (id, payment_id, unit)", worker="SELECT, INSERT, UPDATE"),
    "refunds": Rights(api="SELECT (id, owed_id, status, amount, tx_hash)", worker="SELECT, INSERT, UPDATE"),
    "treasuries": Rights(worker="SELECT, INSERT, UPDATE"),
    "settings": Rights(api="SELECT", worker="SELECT"),
    "audit_log": Rights(worker="SELECT, INSERT"),
    # Of these a policy shows the API only its own role's to write: it cannot beat, or end, for a worker.
    "processes": Rights(
        api="SELECT, INSERT (id, role, network, host, pid, stats), UPDATE (heartbeat_at, stats, settings), DELETE",
        worker="SELECT, INSERT, UPDATE, DELETE",
    ),
    "payment_history": Rights(api="SELECT", worker="SELECT", hidden_from_api=("signature",)),
    "mint_history": Rights(api="SELECT", worker="SELECT"),
    "payfirst_version": Rights(api="SELECT", worker="SELECT"),
}

# policies: whoever may read `processes` reads all of it; a role writes only rows of its kind,
# and a worker forgets the dead.
POLICIES = (
    "ALTER TABLE processes ENABLE ROW LEVEL SECURITY",
    "DROP POLICY IF EXISTS payfirst_read ON processes",
    "CREATE POLICY payfirst_read ON processes FOR SELECT USING (true)",
    "DROP POLICY IF EXISTS payfirst_api_beats ON processes",
    f"CREATE POLICY payfirst_api_beats ON processes TO {API} USING (role = 'api') WITH CHECK (role = 'api')",
    "DROP POLICY IF EXISTS payfirst_worker_beats ON processes",
    f"CREATE POLICY payfirst_worker_beats ON processes TO {WORKER} USING (true) WITH CHECK (role = 'worker')",
)

# columns_of: a table's columns, in order; none where there is no such table.
COLUMNS_OF = """
SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) AS columns
FROM information_schema.columns WHERE table_schema = current_schema() GROUP BY table_name
"""

# find_roles: which of the roles there are, and whether one of them may do what none of them should.
FIND_ROLES = """
SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls AS mighty
FROM pg_roles WHERE rolname = ANY($1::text[])
"""

# owned_by: tables here that one of the roles owns; an owner may do everything to them.
OWNED_BY = """
SELECT tablename, tableowner FROM pg_tables WHERE schemaname = current_schema() AND tableowner = ANY($1::text[]) LIMIT 1
"""

# are_set_up: whether the roles were given their rights in this database (they are the whole cluster's).
ARE_SET_UP = """
SELECT coalesce((SELECT has_column_privilege(oid, 'payment_queue', 'id', 'INSERT') FROM pg_roles WHERE rolname = $1),
                false)
"""


class RolesRefused(OperatorError):
    """The roles cannot be made or given their rights by this user."""


async def apply(url: str) -> list[str]:
    """Make the roles that are missing and give each exactly its rights; returns the roles that were made.

    One transaction: running processes see the rights of before or of after. Raises RolesRefused or DatabaseNotThere.
    """
    connection = await _connect(url)
    try:
        async with connection.transaction():
            made = await _missing(connection)
            for statement in await statements(connection):
                await connection.execute(statement)
        return made
    except asyncpg.InsufficientPrivilegeError as error:
        raise RolesRefused(
            f"PostgreSQL refuses: {error}. Connect as the owner of the tables, who may create roles"
            " (payfirst db roles --sql prints the statements for whoever may)"
        ) from error
    finally:
        await connection.close()


async def script(url: str) -> list[str]:
    """The statements that `apply` would run, without running them."""
    connection = await _connect(url)
    try:
        return await statements(connection)
    finally:
        await connection.close()


async def refresh(url: str) -> bool:
    """Give the roles their rights anew if they had some here: an upgrade may have made tables. Returns whether."""
    connection = await _connect(url)
    try:
        if not await connection.fetchval(ARE_SET_UP, API):
            return False
    finally:
        await connection.close()
    await apply(url)
    return True


async def statements(connection: Connection) -> list[str]:
    """What makes the roles and gives each exactly its rights. Raises RolesRefused when one of them could do more."""
    schema: str = await connection.fetchval("SELECT quote_ident(current_schema())")
    missing = await _missing(connection)
    columns = {row["table_name"]: row["columns"] for row in await connection.fetch(COLUMNS_OF)}
    # No password: PostgreSQL then lets nobody in by password until one is set.
    made = [f"CREATE ROLE {role} LOGIN" for role in missing]
    everyone = ", ".join(ROLES)
    return [
        *made,
        f"ALTER ROLE {READONLY} SET default_transaction_read_only = on",
        f"ALTER ROLE {READONLY} SET statement_timeout = '{READONLY_TIMEOUT_S}s'",
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        f"REVOKE ALL ON SCHEMA {schema} FROM {everyone}",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {everyone}",
        f"GRANT USAGE ON SCHEMA {schema} TO {everyone}",
        *(grant for table in RIGHTS if table in columns for grant in _grants(table, columns[table])),
        *POLICIES,
    ]


def _grants(table: str, columns: list[str]) -> Iterator[str]:
    rights = RIGHTS[table]
    if rights.api:
        words = rights.api
        if rights.hidden_from_api:
            shown = ", ".join(f'"{column}"' for column in columns if column not in rights.hidden_from_api)
            words = words.replace("SELECT", f"SELECT ({shown})", 1)
        yield f"GRANT {words} ON {table} TO {API}"
    if rights.worker:
        yield f"GRANT {rights.worker} ON {table} TO {WORKER}"
    yield f"GRANT SELECT ON {table} TO {READONLY}"


async def _missing(connection: Connection) -> list[str]:
    found = {row["rolname"]: row["mighty"] for row in await connection.fetch(FIND_ROLES, list(ROLES))}
    mighty = [role for role, may_do_more in found.items() if may_do_more]
    if mighty:
        raise RolesRefused(
            f"{mighty[0]} is a superuser, or may create roles or databases, replicate or bypass row security: take that"
            " from it, or nothing that is granted here limits it"
        )
    owned = await connection.fetchrow(OWNED_BY, list(ROLES))
    if owned is not None:
        raise RolesRefused(f"{owned['tableowner']} owns {owned['tablename']}, and an owner may do everything to it")
    return [role for role in ROLES if role not in found]


async def _connect(url: str) -> Connection:
    try:
        return await open_connection(url)
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise database_not_there(url, error) from error
