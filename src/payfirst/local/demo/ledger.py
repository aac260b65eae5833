"""The database against the chain: everything that `checks` judges, read once when all is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from payfirst.chain import contracts
from payfirst.local.demo.stage import Stage
from payfirst.ops import queries
from payfirst.store.database import Connection, session
from payfirst.units import Address, BlockHash, hex_text

CALLS_AT_ONCE_MAX = 250
ROWS_SHOWN_MAX = 10

# paid_units: what completed payments paid for, and how much they paid.
PAID_UNITS = """
SELECT coalesce(sum(quantity), 0)::bigint AS units, coalesce(sum(amount), 0)::numeric AS amount
FROM payment_queue WHERE status = 'completed'
"""
# unconfirmed_mints: mints of payments that are not completed; the foreign key makes them impossible.
UNCONFIRMED_MINTS = """
SELECT count(*) FROM mint_queue m LEFT JOIN payment_queue p ON p.id = m.payment_id
WHERE p.status IS DISTINCT FROM 'completed'
"""
# minted_ids: the units that the database says are minted.
MINTED_IDS = "SELECT mint_id FROM mint_queue WHERE status = 'completed'"
# units_by_recipient: what each recipient is to hold.
UNITS_BY_RECIPIENT = "SELECT recipient, count(*) FROM mint_queue WHERE status = 'completed' GROUP BY recipient"
# payments_of: the payments of some payers by status, and the mints they led to.
PAYMENTS_OF = """
SELECT p.status, count(DISTINCT p.id) AS payments, count(m.id) AS mints
FROM payment_queue p LEFT JOIN mint_queue m ON m.payment_id = p.id WHERE p.payer = ANY($1::text[]) GROUP BY p.status
"""
COUNT_OWED = "SELECT count(*) FROM owed"
# transactions_of_signers: how many account nonces each signer has spent, and how many are unresolved.
TRANSACTIONS_OF_SIGNERS = """
SELECT signer, count(*) AS transactions, count(*) FILTER (WHERE state = 'sent') AS unresolved
FROM chain_transactions WHERE network = $1 GROUP BY signer
"""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One operators' query and its rows, as text."""

    name: str
    sql: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class OnChain:
    """What the chain says. `mint_ids` are those of the token's own log, one for each unit minted."""

    pay_to_balance: int
    total_supply: int
    mint_amount: int
    mint_count: int
    mint_ids: tuple[str, ...]
    holdings: dict[Address, int]  # of the token
    bad_buyer_funds: int
    account_nonces: dict[Address, int]


@dataclass(frozen=True, slots=True)
class InDatabase:
    """What the database says. Statuses map to counts, `units_by_recipient` counts completed mints."""

    payments: dict[str, int]
    mints: dict[str, int]
    paid_units: int
    paid_amount: int
    unconfirmed_mints: int
    mint_ids: frozenset[str]
    units_by_recipient: dict[Address, int]
    bad_rows: int
    empty_payments: dict[str, int]
    empty_mints: int
    owed: int
    transactions: dict[Address, int]
    unresolved: int


class _MintLog(msgspec.Struct):
    data: str


async def read_queries(connection: Connection) -> list[QueryResult]:
    """Run the operators' read-only queries as they are."""
    results = []
    for name in queries.READ_ONLY:
        sql = queries.text(name)
        statement = await connection.prepare(sql)
        rows = await statement.fetch()
        results.append(
            QueryResult(
                name=name,
                sql=sql,
                columns=tuple(attribute.name for attribute in statement.get_attributes()),
                rows=tuple(tuple("" if value is None else str(value) for value in row) for row in rows),
            )
        )
    return results


async def read_database(stage: Stage, *, bad: Sequence[Address], empty: Sequence[Address]) -> InDatabase:
    """What the database says, in one snapshot."""
    async with (
        session(stage.pool, "read the ledger") as connection,
        connection.transaction(isolation="repeatable_read"),
    ):
        paid = await connection.fetchrow(PAID_UNITS)
        assert paid is not None  # noqa: S101 - an aggregate without GROUP BY always gives a row
        of_bad = await connection.fetch(PAYMENTS_OF, [hex_text(a) for a in bad])
        of_empty = await connection.fetch(PAYMENTS_OF, [hex_text(a) for a in empty])
        signers = await connection.fetch(TRANSACTIONS_OF_SIGNERS, stage.network)
        return InDatabase(
            payments=await _by_status(connection, "payment_queue"),
            mints=await _by_status(connection, "mint_queue"),
            paid_units=paid["units"],
            paid_amount=int(paid["amount"]),
            unconfirmed_mints=int(await connection.fetchval(UNCONFIRMED_MINTS)),
            mint_ids=frozenset(row["mint_id"] for row in await connection.fetch(MINTED_IDS)),
            units_by_recipient={
                _address(row["recipient"]): row["count"] for row in await connection.fetch(UNITS_BY_RECIPIENT)
            },
            bad_rows=sum(row["payments"] for row in of_bad),
            empty_payments={row["status"]: row["payments"] for row in of_empty},
            empty_mints=sum(row["mints"] for row in of_empty),
            owed=int(await connection.fetchval(COUNT_OWED)),
            transactions={_address(row["signer"]): row["transactions"] for row in signers},
            unresolved=sum(row["unresolved"] for row in signers),
        )


async def read_chain(stage: Stage, *, holders: Sequence[Address], bad_buyer: Address) -> OnChain:
    """What the chain says, all of it at one block."""
    head = await stage.rpc.head()
    token, usdc = stage.token, stage.asset.address
    of_one = [
        (usdc, contracts.encode_call("balanceOf(address)", stage.pay_to)),
        (token, contracts.encode_call("totalSupply()")),
        (token, contracts.encode_call("mintAmount()")),
        (token, contracts.encode_call("mintCount()")),
        (usdc, contracts.encode_call("balanceOf(address)", bad_buyer)),
    ]
    of_holders = [(token, contracts.encode_call("balanceOf(address)", holder)) for holder in holders]
    pay_to_balance, total_supply, mint_amount, mint_count, funds, *held = await _read_all(
        stage, [*of_one, *of_holders], at=head.hash
    )
    query = {
        "address": hex_text(token),
        "topics": [hex_text(contracts.TOKENS_MINTED_TOPIC)],
        "fromBlock": hex(stage.first_block),
        "toBlock": hex(head.number),
    }
    logs = await stage.rpc.call("eth_getLogs", query, result=list[_MintLog])
    signers = (stage.settle_signer.address, stage.mint_signer.address)
    return OnChain(
        pay_to_balance=pay_to_balance,
        total_supply=total_supply,
        mint_amount=mint_amount,
        mint_count=mint_count,
        # data: the amount, then the mint id.
        mint_ids=tuple("0x" + log.data[66:130] for log in logs),
        holdings=dict(zip(holders, held, strict=True)),
        bad_buyer_funds=funds,
        account_nonces={a: await stage.rpc.account_nonce(a, hex(head.number)) for a in signers},
    )


async def _read_all(stage: Stage, calls: Sequence[tuple[Address, bytes]], *, at: BlockHash) -> list[int]:
    """One number for each call, read through Multicall3."""
    numbers: list[int] = []
    for start in range(0, len(calls), CALLS_AT_ONCE_MAX):
        chunk = calls[start : start + CALLS_AT_ONCE_MAX]
        data = contracts.encode_aggregate3(chunk, allow_failure=False)
        answer = await stage.rpc.eth_call(to=stage.config.network.multicall3_bytes, data=data, at=at)
        numbers += [int.from_bytes(returned) for _, returned in contracts.decode_aggregate3(answer)]
    return numbers


async def _by_status(connection: Connection, table: str) -> dict[str, int]:
    rows = await connection.fetch(f"SELECT status, count(*) FROM {table} GROUP BY status")  # noqa: S608 - our tables
    return {row["status"]: row["count"] for row in rows}


def _address(text: str) -> Address:
    return Address(bytes.fromhex(text[2:]))
