"""Audit: compare database and chain, and put right what the chain's evidence alone decides.

Every repair is one transaction with conditional statements and a line in `audit_log`, so it can be done twice, and by
two at once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

from payfirst.chain import depth
from payfirst.chain.rpc import RpcClient
from payfirst.errors import LeaseLost, RetriedError
from payfirst.ops.log import get_logger
from payfirst.pipeline import audit_read, minted, scan
from payfirst.pipeline.adopt import Adopter
from payfirst.pipeline.audit_kinds import KINDS, Finding, Kind, Level
from payfirst.pipeline.audit_plan import (
    Period,
    PeriodPlan,
    SeenMint,
    judge_minted,
    judge_reservations,
    judge_stranded,
    plan_period,
)
from payfirst.pipeline.recredit import Recrediter
from payfirst.pipeline.terms import Terms
from payfirst.store import audit_log, auditing, heads, owed, signers, tokens
from payfirst.store.auditing import StrandedRow
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.signers import Purpose
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockNumber, hex_text

SLICE_BLOCKS = 500
STRANDED_MAX = 1_000
# A start compares so many blocks at the most: more would make it slow, and `payfirst audit` is there for them.
START_BLOCKS_MAX = 20_000
FENCE_LOOKED_AT_S = 1.0
NONCES_LOOKED_AT_S = 30.0
RETRY_S = 1.0
SAID_MAX = 10_000
WORKER = "worker"

log = get_logger()


class Auditor:
    """Compares; with `repair`, puts right."""

    def __init__(
        self, pool: Pool, rpc: RpcClient, *, terms: Terms, recrediter: Recrediter, on_changed: OnChanged
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._recrediter = recrediter
        self._on_changed = on_changed
        self._adopter = Adopter(pool, rpc, terms=terms, on_changed=on_changed)
        self._cut: dt.datetime | None = None
        self._cut_read = False
        self._said: set[Finding] = set()

    # ---- by the workers ----------------------------------------------------------------------------

    async def fence_lost(self) -> None:
        """Before this worker writes anything: fence the signers whose chain is ahead of the database.

        What the head row says now was written by the last worker that knew all that was lost: payments up to that time
        are older than the loss, later ones may be copies of public calldata (rule 4).
        """
        if not self._cut_read:
            async with session(self._pool, "read when a worker last saw the chain") as connection:
                self._cut = await heads.seen_at(connection, self._terms.network)
            self._cut_read = True
        await self._adopter.fence_lost(cut=self._cut)

    async def at_start(self, keys: Mapping[Address, Purpose]) -> None:
        """Before this worker moves anything: adopt what is missing, then compare what no audit has compared yet.

        Raises RetriedError while the nonces cannot be looked at; the comparison is left to a later round instead.
        """
        for address, purpose in keys.items():
            await self._adopter.register(address, purpose, cut=self._cut)
        async with session(self._pool, "read how far was compared") as connection:
            audited = await heads.audited(connection, self._terms.network)
            if audited is not None:
                await heads.advance_audited(connection, self._terms.network, audited)
        self._say(await self._adopter.round(first=None, repair=True, actor=WORKER, cut=self._cut))
        # From here on rows may be younger than a loss that is found later.
        self._cut = None
        try:
            await self.routine(blocks_max=START_BLOCKS_MAX)
        except RetriedError as error:
            log.warning("audit_postponed", message=f"The audit of the start goes on later: {error}")

    async def run(self) -> None:
        """Look at nonces often and at fences more often, and compare on schedule, until cancelled."""
        loop = asyncio.get_running_loop()
        looked_at, in_vain = loop.time(), False
        while True:
            await asyncio.sleep(FENCE_LOOKED_AT_S)
            try:
                async with session(self._pool, "look for fences and a due audit") as connection:
                    fenced = await signers.fenced(connection, self._terms.network)
                    is_due = await heads.claim_audit(connection, self._terms.network, every_s=self._terms.audit_every_s)
                is_late = loop.time() - looked_at >= NONCES_LOOKED_AT_S
                # What was not found is looked for seldom: many blocks are read for it.
                if (fenced and not in_vain) or is_due or is_late:
                    looked_at = loop.time()
                    found = await self._adopter.round(first=None, repair=True, actor=WORKER)
                    in_vain = any(f.kind is Kind.TRANSACTION_NOT_FOUND for f in found)
                    self._say(found)
                if is_due:
                    await self.routine()
            except RetriedError as error:
                log.warning("audit_postponed", message=f"The audit goes on later: {error}")

    async def routine(self, *, blocks_max: int | None = None) -> None:
        """Compare and repair the blocks since the last audit; those that are final then need no other."""
        period = await self.period(blocks_max=blocks_max)
        if period is None:
            return
        self._say(await self.compare(period, repair=True, actor=WORKER))
        async with session(self._pool, "note how far was compared") as connection:
            height = BlockNumber(min(period.last, period.final))
            await heads.advance_audited(connection, self._terms.network, height)

    async def period(
        self, *, first: BlockNumber | None = None, last: BlockNumber | None = None, blocks_max: int | None = None
    ) -> Period | None:
        """Blocks that the workers have read, by default those since the last audit; None where there are none."""
        head = await self._rpc.head()
        async with session(self._pool, "read how far was compared") as connection:
            cursor = (await heads.cursor(connection, self._terms.network)).block
            audited = await heads.audited(connection, self._terms.network)
        end = min(cursor.height, head.number, cursor.height if last is None else last)
        start = (cursor.height if audited is None else audited + 1) if first is None else first
        if blocks_max is not None and end - start >= blocks_max:
            start = end - blocks_max + 1
            log.warning(
                "audit_shortened",
                message=f"Blocks before {start} are not compared at the start: payfirst audit --from-block does it",
                height=start,
            )
        if start > end:
            return None
        final = await depth.final(self._rpc, self._terms.final_depth, head=head)
        return Period(BlockNumber(start), BlockNumber(end), final)

    def _say(self, findings: Sequence[Finding]) -> None:
        """Each difference once."""
        if len(self._said) > SAID_MAX:
            self._said.clear()
        for finding in findings:
            if finding in self._said:
                continue
            self._said.add(finding)
            meaning = KINDS[finding.kind]
            write = {Level.OPERATOR: log.error, Level.REPAIR: log.warning}.get(meaning.level, log.info)
            write(
                "audit_difference",
                message=f"Audit: {meaning.meaning}: {finding.subject}: {finding.sentence} ({meaning.remedy})",
                kind=finding.kind.value,
                subject=finding.subject,
            )

    # ---- comparing and repairing -------------------------------------------------------------------

    async def nonces(
        self, *, first: BlockNumber | None, repair: bool, actor: str, cut: dt.datetime | None
    ) -> list[Finding]:
        """Every account nonce of every signer; see `Adopter.round`."""
        return await self._adopter.round(first=first, repair=repair, actor=actor, cut=cut, thorough=True)

    async def compare(self, period: Period, *, repair: bool, actor: str, thorough: bool = False) -> list[Finding]:
        """Every transfer and mint of a period, and the counts of today; returns what differed before any repair."""
        findings: list[Finding] = []
        for start in range(period.first, period.last + 1, SLICE_BLOCKS):
            end = BlockNumber(min(start + SLICE_BLOCKS - 1, period.last))
            part = Period(BlockNumber(start), end, period.final)
            view = await audit_read.read(self._pool, self._rpc, self._terms, part, thorough=thorough)
            plan = plan_period(view, part)
            findings += plan.findings
            if repair:
                await self._repair(plan, actor)
        findings += await self._rows(repair=repair, actor=actor)
        if thorough:
            findings += await self._minted()
        return findings

    async def _repair(self, plan: PeriodPlan, actor: str) -> None:
        paid = await audit_read.receipts_of(self._rpc, (seen.transfer.tx_hash for seen in plan.credit))
        for receipt in paid:
            try:
                await self._recrediter.credit(receipt, actor=actor)
            except LeaseLost as error:
                # Whoever moved the row since it was read has looked at it too; else the next audit does.
                log.info("repair_overtaken", message=f"A worker was there first: {error}")
        self._on_changed(uuid.UUID(f.subject) for f in plan.findings if f.kind is Kind.PAYMENT_NOT_CREDITED)
        if plan.owe:
            await self._owe(plan, actor)
        for mint in plan.mark:
            await self._mark(mint, actor)

    async def _owe(self, plan: PeriodPlan, actor: str) -> None:
        terms = self._terms
        async with transaction(self._pool, "name money without a payment as owed") as connection:
            written = await owed.write_unclaimed(connection, terms.network, terms.asset, plan.owe)
            for money in plan.owe:
                if (money.payer, money.nonce) not in written:
                    continue
                await audit_log.record(
                    connection,
                    actor=actor,
                    action="money_owed",
                    subject=hex_text(money.tx_hash),
                    details={
                        "payer": hex_text(money.payer),
                        "authorization_nonce": hex_text(money.nonce),
                        "amount": str(money.amount),
                        "block": money.block,
                    },
                )

    async def _mark(self, mint: SeenMint, actor: str) -> None:
        """Complete a unit that the chain has minted, with the token's count of now in the same commit.

        So its supply is never counted as free in between.
        """
        terms = self._terms
        head = await self._rpc.head()
        facts = await scan.token_facts(self._rpc, terms, [mint.token], at="latest")
        async with transaction(self._pool, "complete a unit that was minted") as connection:
            changed = await minted.write(connection, terms.network, [(mint.mint_id, mint.tx_hash)], block=mint.block)
            for fact in facts if changed else ():
                await tokens.sync(connection, terms.network, fact, height=head.number)
            for unit in changed:
                await audit_log.record(
                    connection,
                    actor=actor,
                    action="mint_completed",
                    subject=hex_text(mint.mint_id),
                    details={"payment": str(unit.payment_id), "tx_hash": hex_text(mint.tx_hash), "block": mint.block},
                )
        self._on_changed(unit.payment_id for unit in changed)

    async def _rows(self, *, repair: bool, actor: str) -> list[Finding]:
        """Rows against rows: what is sent and carried by nothing, and what is reserved for nobody."""
        network = self._terms.network
        async with session(self._pool, "compare rows") as connection:
            payments, units = await auditing.stranded(connection, network, limit=STRANDED_MAX)
            reserved = await auditing.reservations(connection, network)
        if repair:
            for row in payments:
                await self._return(row, auditing.return_stranded, actor, action="payment_returned")
            for row in units:
                await self._return(row, auditing.return_stranded_mint, actor, action="mint_returned")
            for token in (r.token for r in reserved if r.reserved != r.held):
                await self._correct(token, actor)
        return [*judge_stranded(payments, units), *judge_reservations(reserved)]

    async def _return(
        self,
        row: StrandedRow,
        give_back: Callable[[Connection, StrandedRow], Awaitable[bool]],
        actor: str,
        *,
        action: str,
    ) -> None:
        async with transaction(self._pool, "return a stranded row") as connection:
            if await give_back(connection, row):
                details = {"tx_hash": row.tx_hash}
                await audit_log.record(connection, actor=actor, action=action, subject=str(row.id), details=details)

    async def _correct(self, token: Address, actor: str) -> None:
        async with transaction(self._pool, "count a reservation again") as connection:
            found = await auditing.correct_reserved(connection, self._terms.network, token)
            if found is not None:
                details = {"from": found.reserved, "to": found.held}
                await audit_log.record(
                    connection, actor=actor, action="reserved_corrected", subject=hex_text(token), details=details
                )

    async def _minted(self) -> list[Finding]:
        async with session(self._pool, "count minted units") as connection:
            counts = await auditing.count_minted(connection, self._terms.network)
        facts = await scan.token_facts(self._rpc, self._terms, list(counts), at="latest") if counts else []
        return judge_minted(counts, {fact.address: fact.minted for fact in facts})
