"""One batch of payments from acceptance to the last mint, by the store's own functions, and what each step costs.

There is no chain here: what a worker would have read from it is made up. The cost of a step is the CPU time of the
PostgreSQL process that serves this one connection, which others on the machine do not change, and the wall-clock beside
it, which they do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import asyncpg

from benchmarks.growth_fill import ASSET, NETWORK, PAY_TO, SIGNER, TOKEN
from payfirst.lifecycle import PaymentStatus
from payfirst.store import (
    admission,
    attempts,
    crediting,
    mints,
    monitoring,
    payments,
    queue_stats,
    settling,
    tokens,
    transaction_items,
    transactions,
)
from payfirst.store.crediting import Completion, CreditCandidate
from payfirst.store.mints import NewMint
from payfirst.store.payments import NewPayment
from payfirst.store.settling import Claim
from payfirst.store.signers import Purpose
from payfirst.store.transaction_items import ItemOutcome
from payfirst.store.transactions import Envelope, MinedTransaction
from payfirst.units import (
    AccountNonce,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    MintId,
    TxHash,
    UnixTime,
    Wei,
    uuid7,
)

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BATCH = 100
UNITS = 5
UNITS_A_TRANSACTION = 250
LEASE_S = 30.0
ASSET_BYTES, TOKEN_BYTES, PAY_TO_BYTES, SIGNER_BYTES = (
    Address(bytes.fromhex(text[2:])) for text in (ASSET, TOKEN, PAY_TO, SIGNER)
)
CLAIM = Claim(NETWORK, SIGNER, 0)  # as the filled row of the signer has it


@dataclass(slots=True)
class Meter:
    """CPU and wall-clock seconds of each step, a sample a batch."""

    pid: int
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wall_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextlib.contextmanager
    def step(self, name: str, *, of: int) -> Iterator[None]:
        """Measure what is done inside, `of` so many things: a sample is one's share."""
        cpu, wall = self._cpu_ns(), time.perf_counter()
        yield
        self.wall_s[name].append((time.perf_counter() - wall) / of)
        self.cpu_s[name].append((self._cpu_ns() - cpu) / 1e9 / of)

    def _cpu_ns(self) -> int:
        # Linux: the nanoseconds a process was on a CPU; /proc/<pid>/stat would count in hundredths of a second.
        return int(Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()[0])


@contextlib.asynccontextmanager
async def metered(url: str) -> AsyncIterator[tuple[Db, Meter]]:
    """A connection as the pool makes it, and the meter of the process that serves it."""
    connection = await asyncpg.connect(url, server_settings={"jit": "off"})
    try:
        yield connection, Meter(await connection.fetchval("SELECT pg_backend_pid()"))
    finally:
        await connection.close()


class Life:
    """Batches through one database, one after the other."""

    def __init__(self, connection: Db, meter: Meter, *, block: int) -> None:
        self._db = connection
        self._meter = meter
        self._block = itertools.count(block)
        self._seen: list[uuid.UUID] = []

    async def batch(self) -> None:
        """Accept, claim, send, confirm, mint, and what watchers and buyers ask meanwhile."""
        accepted = await self._accept()
        await self._settle(accepted)
        candidates = await self._confirm(accepted)
        for _ in range(BATCH * UNITS // UNITS_A_TRANSACTION):
            await self._mint()
        await self._watch()
        await self._look_up([c.id for c in candidates], accepted)
        await self._stats()

    async def _accept(self) -> list[NewPayment]:
        now_ms = time.time_ns() // 1_000_000
        offered = [
            NewPayment(
                id=uuid7(now_ms=now_ms, random_bits=int.from_bytes(os.urandom(10), "big")),
                token=TOKEN_BYTES,
                quantity=UNITS,
                recipient=(payer := Address(os.urandom(20))),
                payer=payer,
                amount=AtomicAmount(10_000 * UNITS),
                nonce=AuthorizationNonce(os.urandom(32)),
                valid_after=UnixTime(0),
                valid_before=UnixTime(int(time.time()) + 3_600),
                signature=os.urandom(65),
            )
            for _ in range(BATCH)
        ]
        with self._meter.step("admission", of=1):
            await admission.read_workers(self._db, NETWORK)
            await admission.read_tokens(self._db, NETWORK)
            await admission.count_queue(self._db, NETWORK, asset=ASSET_BYTES, count_max=100_000, crowded_min=50)
        with self._meter.step("accept", of=BATCH):
            taken = await payments.insert(
                self._db, network=NETWORK, asset=ASSET_BYTES, pay_to=PAY_TO_BYTES, payments=offered
            )
        assert len(taken) == BATCH  # noqa: S101 - random nonces do not meet
        return offered

    async def _settle(self, accepted: Sequence[NewPayment]) -> None:
        with self._meter.step("claim", of=BATCH):
            claimed = await settling.claim_pending(
                self._db, asset=ASSET_BYTES, claim=CLAIM, lease_s=LEASE_S, limit=BATCH, valid_before_min=UnixTime(0),
                besides=(), by_row=False,
            )  # fmt: skip
            await settling.on_its_way(self._db, network=NETWORK, asset=ASSET_BYTES)
        ids = [c.id for c in claimed]
        assert {*ids} == {p.id for p in accepted}  # noqa: S101 - nothing else waits
        envelope = self._envelope("settle")
        with self._meter.step("send", of=BATCH):
            async with self._db.transaction():
                transaction_id = await transactions.store(self._db, envelope, item_count=len(ids))
                await transaction_items.store_payment_items(self._db, transaction_id, ids)
                await settling.mark_sent(self._db, claimed, tx_hash=envelope.hash, claim=CLAIM)
                await tokens.take_supply(self._db, NETWORK, {TOKEN_BYTES: len(ids) * UNITS})
            await attempts.in_flight(self._db, NETWORK, SIGNER_BYTES)

    async def _confirm(self, accepted: Sequence[NewPayment]) -> list[CreditCandidate]:
        with self._meter.step("confirm", of=BATCH):
            async with self._db.transaction():
                unresolved = await transactions.unresolved_hashes(self._db, NETWORK)
                items = await transaction_items.payment_items(self._db, [u.transaction_id for u in unresolved.values()])
                candidates = await crediting.credit_candidates(
                    self._db, network=NETWORK, asset=ASSET_BYTES, keys=[(p.payer, p.nonce) for p in accepted]
                )
                mined = [self._mined(u.transaction_id, u.hash) for u in unresolved.values()]
                outcomes = [ItemOutcome(i.transaction_id, i.position, "done") for i in items]
                await transactions.confirm(self._db, mined, outcomes)
                await crediting.mark_completed(
                    self._db, [_completion(c, mined[0], place) for place, c in enumerate(candidates)]
                )
                await mints.insert(self._db, network=NETWORK, mints=[m for c in candidates for m in _units(c)])
        return candidates

    async def _mint(self) -> None:
        with self._meter.step("claim mints", of=UNITS_A_TRANSACTION):
            await mints.tokens_with_work(self._db, network=NETWORK)
            claimed = await mints.claim(
                self._db,
                token=TOKEN_BYTES,
                claim=CLAIM,
                lease_s=LEASE_S,
                limit=UNITS_A_TRANSACTION,
                besides=(),
                by_row=False,
            )
        ids = [m.id for m in claimed]
        envelope = self._envelope("mint")
        with self._meter.step("send mints", of=UNITS_A_TRANSACTION):
            async with self._db.transaction():
                await mints.lock_paid(self._db, [m.payment_id for m in claimed])
                transaction_id = await transactions.store(self._db, envelope, item_count=len(ids))
                await transaction_items.store_mint_items(self._db, transaction_id, ids)
                await mints.mark_sent(self._db, ids, tx_hash=envelope.hash, claim=CLAIM)
        with self._meter.step("confirm mints", of=UNITS_A_TRANSACTION):
            async with self._db.transaction():
                items = await transaction_items.mint_items(self._db, [transaction_id])
                mined = self._mined(transaction_id, envelope.hash)
                outcomes = [ItemOutcome(i.transaction_id, i.position, "done") for i in items]
                await transactions.confirm(self._db, [mined], outcomes)
                done = await mints.mark_minted(
                    self._db, [(m.mint_id, envelope.hash) for m in claimed], block=mined.block
                )
                await tokens.add_reserved(self._db, NETWORK, {TOKEN_BYTES: -len(done)})
        assert len(done) == UNITS_A_TRANSACTION  # noqa: S101 - each was sent

    async def _watch(self) -> None:
        now = UnixTime(int(time.time()))
        with self._meter.step("watch", of=1):
            await crediting.expiry_candidates(self._db, network=NETWORK, asset=ASSET_BYTES, chain_time=now, limit=200)
            await crediting.lost_candidates(self._db, network=NETWORK, asset=ASSET_BYTES, chain_time=now, limit=200)
            await crediting.live_pay_tos(self._db, NETWORK, chain_time=now)
        with self._meter.step("finalize", of=BATCH):
            async with self._db.transaction():
                height = BlockNumber(next(self._block))
                await transactions.finalize(self._db, NETWORK, height)
                await crediting.finalize(self._db, NETWORK, height, limit=5_000)

    async def _look_up(self, ids: Sequence[uuid.UUID], accepted: Sequence[NewPayment]) -> None:
        with self._meter.step("look-up", of=len(ids)):
            for payment_id in ids:
                await payments.show(self._db, payment_id)
        with self._meter.step("same header again", of=BATCH):
            await payments.find_by_authorization(
                self._db, network=NETWORK, asset=ASSET_BYTES, keys=[(p.payer, p.nonce) for p in accepted]
            )

    async def _stats(self) -> None:
        with self._meter.step("stats", of=1):
            for queue in queue_stats.RECENT_SPEED:
                await self._db.fetchrow(queue_stats.RECENT_SPEED[queue])
                await self._db.fetchrow(queue_stats.WAITING[queue], queue_stats.STUCK_S)
            await monitoring.read(self._db)

    def _envelope(self, purpose: Purpose) -> Envelope:
        return Envelope(
            network=NETWORK, signer=SIGNER_BYTES, nonce=AccountNonce(time.time_ns()), purpose=purpose, epoch=1,
            to=ASSET_BYTES, gas_limit=9_000_000, hash=TxHash(os.urandom(32)), signed=os.urandom(200 * BATCH),
            max_fee=Wei(2), max_priority_fee=Wei(1),
        )  # fmt: skip

    def _mined(self, transaction_id: int, tx_hash: TxHash) -> MinedTransaction:
        return MinedTransaction(
            id=transaction_id, hash=tx_hash, block=BlockNumber(next(self._block)), block_hash=BlockHash(os.urandom(32)),
            succeeded=True, gas_used=4_000_000, gas_price=Wei(1),
        )  # fmt: skip


async def start_up(connection: Db, meter: Meter) -> None:
    """What processes ask before they serve and sign."""
    with meter.step("start-up", of=1):
        await admission.read_workers(connection, NETWORK)
        await admission.read_tokens(connection, NETWORK)
        await admission.count_queue(connection, NETWORK, asset=ASSET_BYTES, count_max=100_000, crowded_min=50)
        await settling.free_claims(connection, CLAIM)
        await mints.free_claims(connection, CLAIM)
        await attempts.in_flight(connection, NETWORK, SIGNER_BYTES)
        await transactions.unresolved_hashes(connection, NETWORK)
        await transactions.count_unresolved(connection, NETWORK, SIGNER_BYTES)


def _completion(payment: CreditCandidate, mined: MinedTransaction, place: int) -> Completion:
    return Completion(
        id=payment.id, expected=PaymentStatus.SENT, tx_hash=mined.hash, block=mined.block, block_hash=mined.block_hash,
        log_index=place, ours=True, was_reserved=payment.supply_reserved, reserved=payment.supply_reserved,
        result_json='{"queueIds":[]}',
    )  # fmt: skip


def _units(payment: CreditCandidate) -> list[NewMint]:
    now_ms = time.time_ns() // 1_000_000
    return [
        NewMint(
            id=uuid7(now_ms=now_ms, random_bits=int.from_bytes(os.urandom(10), "big")),
            payment_id=payment.id, unit=unit,
            payment_tx_hash=payment.tx_hash or TxHash(bytes(32)), token=TOKEN_BYTES, recipient=payment.recipient,
            mint_id=MintId(os.urandom(32)),
        )
        for unit in range(payment.quantity)
    ]  # fmt: skip
