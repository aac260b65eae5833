"""What `payfirst doctor` asks of the database: each query reads, none of them waits for a lock of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.rows import address_of
from payfirst.units import Address, AuthorizationNonce, Wei, checksum_address

# read_server: version, durability, connections, and the time there.
READ_SERVER = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS is_standby,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('max_connections')::int AS connections_max,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS connections,
       (SELECT extract(epoch FROM max(now() - state_change)) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%')::float8 AS idle_in_transaction_s,
       pg_database_size(current_database()) AS size_bytes,
       extract(epoch FROM clock_timestamp())::float8 AS clock
"""

# has_versions: whether the table of migrations is there at all.
HAS_VERSIONS = "SELECT to_regclass('payfirst_version') IS NOT NULL"

# read_version: the revision of the tables.
READ_VERSION = "SELECT version_num FROM payfirst_version"

# read_head: what the workers saw last, and how far they have read.
READ_HEAD = """
SELECT head_height, cursor_height, final_height, base_fee_wei, confirmable_height,
       extract(epoch FROM now() - head_seen_at)::float8 AS age_s
FROM chain_heads WHERE network = $1
"""

# count_held: pending rows that no worker claims until an operator lets them go on.
COUNT_HELD = """
SELECT (SELECT count(*) FROM payment_queue
        WHERE network = $1 AND status = 'pending' AND held_reason IS NOT NULL) AS payments,
       (SELECT count(*) FROM mint_queue
        WHERE network = $1 AND status = 'pending' AND held_reason IS NOT NULL) AS mints
"""

# held_tokens: tokens whose contract refuses to mint.
HELD_TOKENS = "SELECT address, held_reason FROM tokens WHERE network = $1 AND held_reason IS NOT NULL ORDER BY address"

# count_owed: open debts, by whom they are owed to.
COUNT_OWED = """
SELECT count(*) FILTER (WHERE direction = 'to_buyer') AS to_buyers,
       count(*) FILTER (WHERE direction = 'to_seller') AS to_seller,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
FROM owed WHERE network = $1 AND status = 'open'
"""

# unknown_authorizations: which of these uses no payment of this database has, live or archived.
UNKNOWN_AUTHORIZATIONS = f"""
SELECT k.payer, k.nonce FROM unnest($3::bytea[], $4::bytea[]) AS k(payer, nonce)
WHERE NOT EXISTS (
    SELECT FROM authorizations WHERE {where_held("k.payer", "k.nonce", "$2", "$1::text")}
)
"""


@dataclass(frozen=True, slots=True)
class Server:
    """`version` as server_version_num; `settings` those on which durability rests; `clock` in Unix seconds."""

    version: int
    is_standby: bool
    settings: dict[str, str]
    connections_max: int
    connections: int
    idle_in_transaction_s: float | None
    size_bytes: int
    clock: float


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """Heights, `confirmable` being the newest that is deep enough; `age_s` since the head was seen.

    The base fee there and `confirmable` are None where no worker has noted them yet.
    """

    height: int
    cursor: int
    final: int
    age_s: float
    base_fee: Wei | None = None
    confirmable: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Counts of held rows, and held tokens with their reasons."""

    payments: int
    mints: int
    tokens: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Debts:
    """Open rows of `owed`."""

    to_buyers: int
    to_seller: int
    oldest_s: float


async def server(connection: Connection) -> Server:
    """The server's own facts; needs no table of ours."""
    row = await connection.fetchrow(READ_SERVER)
    assert row is not None  # noqa: S101 - a SELECT without FROM always gives a row
    durability = ("fsync", "synchronous_commit", "full_page_writes")
    rest = {name: row[name] for name in row.keys() if name not in durability}  # noqa: SIM118 - a Record is no dict
    return Server(settings={name: row[name] for name in durability}, **rest)


async def revision(connection: Connection) -> str | None:
    """The revision of the tables, None where there are none."""
    if not await connection.fetchval(HAS_VERSIONS):
        return None
    found: str | None = await connection.fetchval(READ_VERSION)
    return found


async def head(connection: Connection, network: str) -> HeadFacts | None:
    """What the workers saw last, None before the first did."""
    row = await connection.fetchrow(READ_HEAD, network)
    if row is None:
        return None
    base_fee = None if row["base_fee_wei"] is None else Wei(int(row["base_fee_wei"]))
    return HeadFacts(
        row["head_height"], row["cursor_height"], row["final_height"], row["age_s"], base_fee, row["confirmable_height"]
    )


async def held(connection: Connection, network: str) -> Held:
    """What stands still until somebody acts."""
    row = await connection.fetchrow(COUNT_HELD, network)
    assert row is not None  # noqa: S101 - a SELECT without FROM always gives a row
    tokens = await connection.fetch(HELD_TOKENS, network)
    named = tuple((checksum_address(address_of(t["address"])), t["held_reason"]) for t in tokens)
    return Held(row["payments"], row["mints"], named)


async def debts(connection: Connection, network: str) -> Debts:
    """What is owed."""
    row = await connection.fetchrow(COUNT_OWED, network)
    assert row is not None  # noqa: S101 - aggregates without GROUP BY always give a row
    return Debts(row["to_buyers"], row["to_seller"], row["oldest_s"])


async def unknown_uses(
    connection: Connection, network: str, asset: Address, uses: Sequence[tuple[Address, AuthorizationNonce]]
) -> set[tuple[Address, AuthorizationNonce]]:
    """Those of the authorizations, (payer, nonce), that no payment of this database holds."""
    rows = await connection.fetch(
        UNKNOWN_AUTHORIZATIONS, network, asset, [payer for payer, _ in uses], [nonce for _, nonce in uses]
    )
    return {(Address(row["payer"]), AuthorizationNonce(row["nonce"])) for row in rows}
