"""What must hold after every fault, judged from the database's rows and from the chain's own blocks and logs.

    ledger = await examine(pool, chain_url, pay_to=…, asset=…)
    ledger.demand()          # raises with every violation in a sentence of its own

The chain is read here anew, with no code of payfirst: a fault of its readers must not hide itself.
minted ≤ paid · one mint per mint id · nothing minted for an unconfirmed payment · every payment ended as minted,
refunded (once, and not minted too), owed or failed without a transfer · no account nonce skipped or used twice ·
ledger equals chain.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from eth_utils.crypto import keccak

TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
AUTHORIZATION_USED = "0x" + keccak(text="AuthorizationUsed(address,bytes32)").hex()
TOKENS_MINTED = "0x" + keccak(text="TokensMinted(address,uint256,bytes32)").hex()
MINT_COUNT = "0x" + keccak(text="mintCount()").hex()[:8]
TOTAL_SUPPLY = "0x" + keccak(text="totalSupply()").hex()[:8]
BALANCE_OF = "0x" + keccak(text="balanceOf(address)").hex()[:8]
BLOCKS_PER_REQUEST = 200

Key = tuple[str, str]  # payer, authorization nonce


@dataclass(frozen=True)
class Paid:
    """An AuthorizationUsed whose very next log of the asset is the payer's Transfer to us."""

    value: int
    block: int
    block_hash: str
    log_index: int


@dataclass(frozen=True)
class MintedOnChain:
    """One TokensMinted log."""

    token: str
    to: str
    amount: int
    block: int


@dataclass
class OnChain:
    """What the canonical chain holds at its head."""

    paid: dict[Key, list[Paid]] = field(default_factory=lambda: collections.defaultdict(list))
    # Every authorized transfer of the asset, whoever was paid: to whom, and how much.
    authorized: dict[Key, list[tuple[str, int]]] = field(default_factory=lambda: collections.defaultdict(list))
    minted: dict[str, list[MintedOnChain]] = field(default_factory=lambda: collections.defaultdict(list))
    foreign: frozenset[str] = frozenset()  # mint ids that are nobody's order
    sent: dict[tuple[str, int], str] = field(default_factory=dict)  # (sender, account nonce) → hash
    balance: int = 0
    received: int = 0  # by the asset's own Transfer logs, less what was passed on
    mint_counts: dict[str, int] = field(default_factory=dict)
    supplies: dict[str, int] = field(default_factory=dict)


@dataclass
class Ledger:
    """The outcome: counts for a report, and what is wrong."""

    payments: int = 0
    settled: int = 0
    failed: int = 0
    minted: int = 0
    owed: int = 0
    refunded: int = 0
    lost: int = 0  # by a reorg, known to be: each has its owed row
    missing: int = 0  # money or units that ought to be somewhere and are not, each with a violation
    doubled: int = 0
    violations: list[str] = field(default_factory=list)

    def demand(self) -> None:
        """Raise AssertionError with every violation."""
        assert not self.violations, "invariants broken:\n  " + "\n  ".join(self.violations)


async def examine(
    pool: asyncpg.Pool,
    chain_url: str,
    *,
    asset: str,
    pay_to: str,
    ended: bool = True,
    in_order: bool = True,
    foreign: Collection[str] = (),
) -> Ledger:
    """Compare rows with chain; addresses are lower-case 0x text.

    `ended`: nothing is on its way any more, so every payment must have come to one of its ends. `in_order`: each
    unit was minted in a later block than it was paid in, which a reorg or a second minter makes untrue. `foreign`: mint
    ids that the test itself had minted by somebody else.
    """
    tokens = [row["address"] for row in await pool.fetch("SELECT address FROM tokens")]
    async with httpx.AsyncClient(base_url=chain_url, timeout=30) as client:
        chain = await _read_chain(client, asset=asset, pay_to=pay_to, tokens=tokens)
    payments = await pool.fetch("SELECT *, amount::int8 AS value FROM payment_queue ORDER BY id")
    mints = await pool.fetch("SELECT * FROM mint_queue ORDER BY id")
    owed = await pool.fetch("SELECT * FROM owed")
    chain.foreign = frozenset(foreign)
    ledger = Ledger(payments=len(payments))
    _judge_payments(ledger, payments, chain, ended=ended)
    _judge_mints(ledger, payments, mints, owed, chain, ended=ended, in_order=in_order)
    await _judge_refunds(ledger, pool, mints, chain, ended=ended)
    _judge_sums(ledger, payments, chain)
    await _judge_nonces(ledger, pool, chain, ended=ended)
    await _judge_supply(ledger, pool)
    return ledger


def _judge_payments(ledger: Ledger, payments: list[Any], chain: OnChain, *, ended: bool) -> None:
    say = ledger.violations.append
    for row in payments:
        name, status, finality = f"payment {row['id']}", row["status"], row["finality"]
        paid = [
            p
            for p in chain.paid.get((row["payer"], row["authorization_nonce"]), [])
            if p.value == row["value"] and (p.block > row["accepted_height"] or status == "completed")
        ]
        if len(paid) > 1:
            ledger.doubled += 1
            say(f"{name}: paid {len(paid)} times")
        if status == "completed":
            ledger.settled += 1
            if finality == "lost":
                ledger.lost += 1
            elif not paid and (ended or finality != "reorged"):
                ledger.missing += 1
                say(f"{name}: completed, and the chain holds no transfer for it")
            elif paid and (row["settled_block_hash"], row["settled_log_index"]) != (
                paid[0].block_hash,
                paid[0].log_index,
            ):
                say(f"{name}: its evidence is not where the chain has it")
        elif status == "failed":
            ledger.failed += 1
            if paid:
                ledger.missing += 1
                say(f"{name}: failed, and its money is with the seller")
        elif ended:
            say(f"{name}: still {status} ({row['error']})")


def _judge_mints(
    ledger: Ledger,
    payments: list[Any],
    mints: list[Any],
    owed: list[Any],
    chain: OnChain,
    *,
    ended: bool,
    in_order: bool,
) -> None:
    say = ledger.violations.append
    by_id = {row["id"]: row for row in payments}
    debts = {(row["payment_id"], row["unit"]): row for row in owed}
    ledger.owed = sum(1 for row in owed if row["status"] == "open" and row["direction"] == "to_buyer")
    ledger.refunded = sum(1 for row in owed if row["status"] == "refunded")
    units = collections.Counter(row["payment_id"] for row in mints)
    for row in payments:
        if row["status"] == "completed" and units[row["id"]] != row["quantity"]:
            say(f"payment {row['id']}: completed with {units[row['id']]} of its {row['quantity']} mint rows")
        if row["finality"] == "lost" and (row["id"], None) not in debts:
            ledger.missing += 1
            say(f"payment {row['id']}: lost, and no owed row names it")
    known = {row["mint_id"]: row for row in mints}
    for mint_id, found in chain.minted.items():
        if len(found) > 1:
            ledger.doubled += 1
            say(f"mint id {mint_id}: minted {len(found)} times")
        if mint_id not in known and mint_id not in chain.foreign:
            say(f"mint id {mint_id}: on chain, and no row has it")
    for row in mints:
        name = f"unit {row['unit']} of payment {row['payment_id']}"
        found = chain.minted.get(row["mint_id"], [])
        payment = by_id.get(row["payment_id"])
        if payment is None or payment["status"] != "completed":
            say(f"{name}: a mint row for an unconfirmed payment")
            continue
        if row["status"] == "completed":
            ledger.minted += 1
            if not found:
                ledger.missing += 1
                say(f"{name}: completed, and the token has no such mint id")
        elif row["status"] == "owed":
            if (row["payment_id"], row["unit"]) not in debts:
                ledger.missing += 1
                say(f"{name}: owed, and no owed row names it")
            if found:
                say(f"{name}: owed, and minted")
        elif ended:
            say(f"{name}: still {row['status']} ({row['error']})")
        if found:
            _judge_delivery(say, name, row, payment, found[0], chain, in_order=in_order)


async def _judge_refunds(ledger: Ledger, pool: asyncpg.Pool, mints: list[Any], chain: OnChain, *, ended: bool) -> None:
    """Each completed refund stands on chain once, as it is written down; the treasuries paid nothing else."""
    say = ledger.violations.append
    minted = {(row["payment_id"], row["unit"]) for row in mints if row["mint_id"] in chain.minted}
    rows = await pool.fetch(
        "SELECT r.*, r.amount::int8 AS value, o.payment_id, o.unit FROM refunds r JOIN owed o ON o.id = r.owed_id"
    )
    given_back = collections.Counter((r["payment_id"], r["unit"]) for r in rows if r["status"] == "completed")
    known = {(row["treasury"], row["authorization_nonce"]): row for row in rows}
    for row in rows:
        name, key = f"refund {row['id']}", (row["treasury"], row["authorization_nonce"])
        if row["status"] == "completed":
            if chain.authorized.get(key) != [(row["beneficiary"], row["value"])]:
                ledger.missing += 1
                say(f"{name}: completed, and the chain has {chain.authorized.get(key)} under its nonce")
            if (row["payment_id"], row["unit"]) in minted:
                ledger.doubled += 1
                say(f"{name}: completed, and its unit is minted")
        elif ended and row["status"] in ("approved", "sent"):
            say(f"{name}: still {row['status']} ({row['error']})")
    for unit, times in given_back.items():
        if times > 1:
            ledger.doubled += 1
            say(f"unit {unit[1]} of payment {unit[0]}: refunded {times} times")
    treasuries = {row["treasury"] for row in rows}
    for key in chain.authorized:
        found = known.get(key)
        if key[0] in treasuries and (found is None or (ended and found["status"] != "completed")):
            ledger.doubled += 1
            say(f"the treasury paid under nonce {key[1]}, and no completed refund says so")


def _judge_delivery(
    say: Any, name: str, row: Any, payment: Any, minted: MintedOnChain, chain: OnChain, *, in_order: bool
) -> None:
    if (minted.token, minted.to) != (row["token_address"], row["recipient"]):
        say(f"{name}: minted by {minted.token} to {minted.to}")
    paid = chain.paid.get((payment["payer"], payment["authorization_nonce"]), [])
    if not paid:
        if payment["finality"] not in ("lost", "reorged"):
            say(f"{name}: minted, and not paid")
    elif in_order and minted.block <= paid[0].block:
        say(f"{name}: minted in block {minted.block}, paid in block {paid[0].block}")


def _judge_sums(ledger: Ledger, payments: list[Any], chain: OnChain) -> None:
    say = ledger.violations.append
    credited = {
        (r["payer"], r["authorization_nonce"])
        for r in payments
        if r["status"] == "completed" and r["finality"] not in ("lost", "reorged")
    }
    booked = sum(r["value"] for r in payments if (r["payer"], r["authorization_nonce"]) in credited)
    came = sum(p.value for key, found in chain.paid.items() if key in credited for p in found)
    if booked != came:
        say(f"{booked} is booked as paid, {came} came")
    if chain.balance != chain.received:
        say(f"the seller has {chain.balance}, the Transfer logs say {chain.received}")
    paid_units = sum(r["quantity"] for r in payments if r["status"] == "completed")
    minted_units = sum(len(found) for mint_id, found in chain.minted.items() if mint_id not in chain.foreign)
    if minted_units > paid_units:
        say(f"{minted_units} units minted, {paid_units} paid")
    by_token: dict[str, list[MintedOnChain]] = collections.defaultdict(list)
    for one in itertools.chain.from_iterable(chain.minted.values()):
        by_token[one.token].append(one)
    for token, count in chain.mint_counts.items():
        if count != len(by_token[token]):
            say(f"token {token}: mintCount() is {count}, its logs are {len(by_token[token])}")
        if chain.supplies[token] != sum(m.amount for m in by_token[token]):
            say(f"token {token}: totalSupply() is not what its mints come to")


async def _judge_nonces(ledger: Ledger, pool: asyncpg.Pool, chain: OnChain, *, ended: bool) -> None:
    say = ledger.violations.append
    rows = await pool.fetch(
        "SELECT t.signer, t.account_nonce, t.state, t.mined_hash, array_agg(a.hash) AS hashes"
        " FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id GROUP BY t.id"
        " ORDER BY t.signer, t.account_nonce"
    )
    next_nonces = {row["address"]: row["next_nonce"] for row in await pool.fetch("SELECT * FROM signers")}
    for signer, group in itertools.groupby(rows, key=lambda row: row["signer"]):
        mine = list(group)
        nonces = [row["account_nonce"] for row in mine]
        # A nonce without a row of ours is in order where a foreign transaction has used it.
        skipped = [
            n for n in range(nonces[0], next_nonces[signer]) if n not in set(nonces) and (signer, n) not in chain.sent
        ]
        if skipped:
            say(f"signer {signer}: nonces {skipped} were skipped")
        for row in mine:
            name = f"nonce {row['account_nonce']} of {signer}"
            on_chain = chain.sent.get((signer, row["account_nonce"]))
            if on_chain is None:
                if row["state"] in ("confirmed", "final"):
                    say(f"{name}: {row['state']}, and not on chain")
                elif ended:
                    say(f"{name}: {row['state']}, and nothing of it is on chain")
            elif (on_chain in row["hashes"]) == (row["state"] == "displaced") and (ended or row["state"] != "sent"):
                say(f"{name}: {row['state']}, and the chain has {on_chain}")
            elif ended and row["state"] == "sent":
                say(f"{name}: still sent, and the chain has it")
            elif row["mined_hash"] not in (None, on_chain):
                say(f"{name}: believed mined as {row['mined_hash']}, the chain has {on_chain}")


async def _judge_supply(ledger: Ledger, pool: asyncpg.Pool) -> None:
    promised = await pool.fetch(
        "SELECT t.address, t.reserved,"
        " (SELECT coalesce(sum(quantity), 0) FROM payment_queue p WHERE p.token_address = t.address"
        "  AND supply_reserved AND status IN ('pending', 'sent'))"
        " + (SELECT count(*) FROM mint_queue m WHERE m.token_address = t.address AND status IN ('pending', 'sent'))"
        " AS promised FROM tokens t"
    )
    for row in promised:
        if row["reserved"] != row["promised"]:
            ledger.violations.append(
                f"token {row['address']}: {row['reserved']} units are reserved, {row['promised']} are promised"
            )


# ---- the chain, read by JSON-RPC alone -----------------------------------------------------------------


async def _read_chain(client: httpx.AsyncClient, *, asset: str, pay_to: str, tokens: list[str]) -> OnChain:
    chain = OnChain()
    head = int(await _call(client, "eth_blockNumber"), 16)
    for first in range(0, head + 1, BLOCKS_PER_REQUEST):
        heights = range(first, min(head + 1, first + BLOCKS_PER_REQUEST))
        blocks = await _batch(client, [("eth_getBlockByNumber", [hex(n), True]) for n in heights])
        assert None not in blocks, f"the chain has no block {heights[blocks.index(None)]}, and {head} is its head"
        for block in blocks:
            for sent in block["transactions"]:
                chain.sent[sent["from"].lower(), int(sent["nonce"], 16)] = sent["hash"]
    span = {"fromBlock": "0x0", "toBlock": hex(head)}
    _read_transfers(chain, await _call(client, "eth_getLogs", span | {"address": asset}), pay_to)
    for token in tokens:
        for log in await _call(client, "eth_getLogs", span | {"address": token, "topics": [TOKENS_MINTED]}):
            amount, mint_id = int(log["data"][2:66], 16), "0x" + log["data"][66:130]
            to = "0x" + log["topics"][1][-40:]
            chain.minted[mint_id].append(MintedOnChain(token, to, amount, int(log["blockNumber"], 16)))
        chain.mint_counts[token] = await _number(client, token, MINT_COUNT, head)
        chain.supplies[token] = await _number(client, token, TOTAL_SUPPLY, head)
    chain.balance = await _number(client, asset, BALANCE_OF + pay_to[2:].rjust(64, "0"), head)
    return chain


def _read_transfers(chain: OnChain, logs: list[dict[str, Any]], pay_to: str) -> None:
    authorized: tuple[str, str, str] | None = None  # transaction, payer, nonce of the log before
    for log in logs:
        topics = log["topics"]
        if topics[0] == AUTHORIZATION_USED:
            authorized = (log["transactionHash"], "0x" + topics[1][-40:], topics[2])
            continue
        if topics[0] == TRANSFER:
            sender, to, value = "0x" + topics[1][-40:], "0x" + topics[2][-40:], int(log["data"], 16)
            chain.received += value * (to == pay_to) - value * (sender == pay_to)
            if authorized is not None and authorized[:2] == (log["transactionHash"], sender):
                chain.authorized[sender, authorized[2]].append((to, value))
            if authorized is not None and to == pay_to and authorized[:2] == (log["transactionHash"], sender):
                paid = Paid(value, int(log["blockNumber"], 16), log["blockHash"], int(log["logIndex"], 16))
                chain.paid[sender, authorized[2]].append(paid)
            authorized = None


async def _number(client: httpx.AsyncClient, to: str, data: str, height: int) -> int:
    return int(await _call(client, "eth_call", {"to": to, "data": data}, hex(height)), 16)


async def _call(client: httpx.AsyncClient, method: str, *params: object) -> Any:
    return (await _batch(client, [(method, list(params))]))[0]


async def _batch(client: httpx.AsyncClient, calls: list[tuple[str, list[object]]]) -> list[Any]:
    body = [{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(calls)]
    answers = (await client.post("", json=body)).json()
    assert all("result" in answer for answer in answers), answers
    return [answer["result"] for answer in sorted(answers, key=lambda answer: answer["id"])]
