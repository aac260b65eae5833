"""Settle: claim, pre-flight at a pinned block, reserve supply and store signed bytes, and only then send."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypedDict

from payfirst.chain import contracts
from payfirst.chain.contracts import Preflight, PreflightItem, PreflightRequest
from payfirst.chain.fees import gas_limit
from payfirst.chain.rpc import RpcClient, RpcRefused
from payfirst.errors import LeaseLost, RetriedError, StoreUnavailable
from payfirst.ops import metrics
from payfirst.ops.log import FlowLog, get_logger
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.on_its_way import OnItsWay
from payfirst.pipeline.outbox import LOCK_TIMEOUT_S, ItemsRefused, Outbox
from payfirst.pipeline.recredit import Recrediter, Use
from payfirst.pipeline.rounds import Rounds
from payfirst.pipeline.settle_plan import (
    NEXT_BLOCK_S,
    NONCE_USED,
    QUARANTINED,
    Batch,
    Sendable,
    SettlementPlan,
    allot,
    compose_batches,
    plan_settlement,
    preflight_groups,
    suspect_or_fail,
)
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.under_way import UnderWay
from payfirst.store import settling, short_payers, tokens, transaction_items, wallets
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.settling import Claim, ClaimedPayment, Failed, Postponed
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockHash, Gas, TxHash, UnixTime, hex_text

# Where rows are claimed one by one, those not sent within this time are due again; the signer's epoch keeps the late
# one from sending.
LEASE_S = 30.0
# An authorization that ends this soon after the head would only burn gas.
SEND_MARGIN_S = 6
NO_ROOM_S = 0.2
LOOK_UP_AGAIN_S = 5.0
# So often each signer looks for what a reorg took from somebody else's transactions.
REORGED_EVERY_S = 2.0

log = get_logger()


class _Call(TypedDict):
    """What `Outbox.send` sends, without what is stored with it."""

    to: Address
    data: bytes
    gas_limit: Gas
    item_count: int


class SupplyShort(ItemsRefused):
    """A batch asks for more units of a token than are left: who gets them is decided under its lock."""


class Settler:
    """One settle signer's work."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        outbox: Outbox,
        head: HeadWatch,
        flow_log: FlowLog,
        recrediter: Recrediter,
        under_way: UnderWay[ClaimedPayment],
        on_its_way: OnItsWay,
        on_changed: OnChanged,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._outbox = outbox
        self._head = head
        self._flow_log = flow_log
        self._recrediter = recrediter
        self._under_way = under_way
        self._on_its_way = on_its_way
        self._on_changed = on_changed
        self._caution = terms.caution(two_endpoints=rpc.can_agree)
        self._last_batch_full = False
        self._reorged_at = 0.0  # when it is looked for next, by the loop's clock
        self.rounds = Rounds("settle", self.step, outbox=outbox)

    async def step(self) -> bool:
        """Send one round of payments; returns whether anything was claimed."""
        claim = await self._outbox.hold()
        if self._terms.settling_paused:
            return False  # the signer stays held: what it has sent is looked after
        unresolved = await self._outbox.unresolved()
        room = self._terms.settle_unresolved_max - unresolved
        if room <= 0:
            return False
        room -= await self._send_reorged(claim, room)
        if room <= 0:
            return False  # what was claimed now would be tried, and given back
        if unresolved and not self._last_batch_full:
            # Others are on their way and the next block is some time off: let the batch grow.
            await asyncio.sleep(self._terms.linger_s)
        limit = self._terms.settle_batch_max if self._terms.settle_mode == "batch" else room
        async with self._under_way.taken(lambda besides: self._claim(claim, limit, besides)) as claimed:
            self._last_batch_full = len(claimed) == limit
            if not claimed:
                return False
            await self._settle(claim, claimed, room)
        return True

    async def _claim(self, claim: Claim, limit: int, besides: Collection[uuid.UUID]) -> list[ClaimedPayment]:
        async with session(self._pool, "claim payments") as connection:
            return await settling.claim_pending(
                connection,
                asset=self._terms.asset,
                claim=claim,
                lease_s=LEASE_S,
                limit=limit,
                valid_before_min=UnixTime(self._head.head.time + SEND_MARGIN_S),
                besides=besides,
                by_row=self._outbox.claims_rows,
            )

    async def _settle(self, claim: Claim, claimed: Sequence[ClaimedPayment], room: int) -> None:
        preflight = await self._preflight(claimed)
        async with session(self._pool, "look for payers set apart") as connection:
            quarantined = await wallets.quarantined(
                connection, network=self._terms.network, payers=list({p.payer for p in claimed})
            )
        plan = plan_settlement(
            claimed,
            preflight,
            await self._on_its_way.read({p.payer for p in claimed}),
            quarantined=quarantined,
            code_payer_gas=self._terms.code_payer_gas_max,
        )
        if plan.asset_paused:
            log.error("asset_paused", message="The asset is paused: nothing can be settled until it is not")
        await self._note_balances(plan, preflight)
        await self._look_up_used(plan, preflight)
        # Where two endpoints have to agree on a fault, nobody else waits for that.
        faults = [f for f in plan.failed if self._rpc.can_agree and f.code != QUARANTINED]  # that is no endpoint's word
        plan.failed = [f for f in plan.failed if f not in faults]
        await self._write_back(claim, plan)
        batches = self._batches(plan.send)
        failed = len(plan.failed)
        for batch in batches[:room]:
            try:
                await self._send(claim, batch, failed=failed)
            except SupplyShort:
                await self._send_what_fits(claim, batch, plan.send, failed=failed)
            failed = 0
        leftover = [Postponed(p.id, NO_ROOM_S) for b in batches[room:] for p in b.payments]
        if leftover:
            await self._write_back(claim, SettlementPlan(postponed=leftover))
        if faults:
            await self._write_back(claim, await self._agreed_faults(claimed, faults))

    async def _send_reorged(self, claim: Claim, room: int) -> int:
        """Send what others had submitted and a reorg took; returns in how many transactions.

        What we had sent comes back by its own bytes. Whoever submitted this need not do it again, and the payer may
        spend the money as soon as it is back: units may be minted for it already.
        """
        now = asyncio.get_running_loop().time()
        if now < self._reorged_at:
            return 0
        self._reorged_at = now + REORGED_EVERY_S
        async with session(self._pool, "claim what a reorg took") as connection:
            taken = await settling.claim_reorged(
                connection,
                network=self._terms.network,
                asset=self._terms.asset,
                claim=claim,
                lease_s=LEASE_S,  # what cannot be sent now is tried again after it
                limit=self._terms.settle_batch_max,
                valid_before_min=UnixTime(self._head.head.time + SEND_MARGIN_S),
            )
        if not taken:
            return 0
        preflight = await self._preflight(taken)
        plan = plan_settlement(taken, preflight, {}, code_payer_gas=self._terms.code_payer_gas_max)
        batches = self._batches(plan.send)[: max(1, room - 1)]  # with room left for what pays anew
        for batch in batches:
            ids = [p.id for p in batch.payments]

            async def store_items(
                connection: Connection, transaction_id: int, _tx_hash: TxHash, ids: Sequence[uuid.UUID] = ids
            ) -> None:
                await transaction_items.store_payment_items(connection, transaction_id, ids)
                await settling.note_sent_again(connection, ids, claim=claim)

            sent = await self._outbox.send(**self._transaction(batch), store_items=store_items)
            log.warning(
                "payments_sent_again",
                message=f"Sent {len(ids)} payments again that others had submitted and a reorg took"
                f" (nonce: {sent.nonce}, tx: {hex_text(sent.hash)})",
                payments=[str(id_) for id_ in ids],
                account_nonce=sent.nonce,
                tx_hash=hex_text(sent.hash),
            )
        return len(batches)

    async def _preflight(self, claimed: Sequence[ClaimedPayment]) -> Preflight:
        """One call that tries every transfer in order at one pinned block; no state changes.

        The seller may have changed payTo while payments wait: then it is one call for each payTo. What was accepted
        unverified is tried in calls of its own, so that nonsense is in nobody's way.
        """
        return await self._preflight_of(self._rpc, claimed, at=self._head.head.hash)

    async def _preflight_of(self, rpc: RpcClient, claimed: Sequence[ClaimedPayment], *, at: BlockHash) -> Preflight:
        items: dict[uuid.UUID, PreflightItem] = {}
        preflight: Preflight | None = None
        for group in preflight_groups(claimed):
            preflight = await self._try(rpc, group, group[0].pay_to, at=at)
            items.update(zip((p.id for p in group), preflight.items, strict=True))
        assert preflight is not None  # noqa: S101 - nothing claimed never gets here
        return replace(preflight, items=tuple(items[p.id] for p in claimed))

    async def _try(
        self, rpc: RpcClient, group: Sequence[ClaimedPayment], pay_to: Address, *, at: BlockHash
    ) -> Preflight:
        """One pre-flight call; where a payer with code burns all of it, halves, so that the others go on."""
        data = contracts.encode_preflight(
            self._terms.asset,
            pay_to,
            [_preflight_request(p) for p in group],
            code_payer_gas=self._terms.code_payer_gas_max,
        )
        try:
            return contracts.decode_preflight(await rpc.eth_call(to=None, data=data, at=at))
        except RpcRefused as refused:
            if not refused.is_execution:
                raise
            if len(group) == 1:
                burnt = PreflightItem(
                    code_size=1, balance=group[0].amount, used=False, ok=False, gas_used=0, revert_data=b""
                )
                head = self._head.head
                return Preflight(block_number=head.number, block_time=head.time, items=(burnt,))
            half = len(group) // 2
            first = await self._try(rpc, group[:half], pay_to, at=at)
            second = await self._try(rpc, group[half:], pay_to, at=at)
            return replace(first, items=first.items + second.items)

    async def _note_balances(self, plan: SettlementPlan, preflight: Preflight) -> None:
        """Tell admission who cannot pay, and who can again. News only: nothing here waits for it."""
        able = {s.payment.payer for s in plan.send} - plan.short.keys()
        try:
            async with session(self._pool, "note payers short of money") as connection:
                await short_payers.note(
                    connection,
                    network=self._terms.network,
                    asset=self._terms.asset,
                    short=plan.short,
                    able=able,
                    height=preflight.block_number,
                )
        except StoreUnavailable as error:
            log.warning("balances_not_noted", message=f"Admission is not told of payers' balances: {error}")

    async def _look_up_used(self, plan: SettlementPlan, preflight: Preflight) -> None:
        """Used or cancelled: only the log tells, and only one above the acceptance height is for us."""
        for payment in plan.used:
            use = Use(payment.id, payment.payer, payment.nonce, payment.accepted_height)
            try:
                found = await self._recrediter.find(use)
            except RetriedError as error:
                # One look-up that fails holds up nobody else.
                plan.postponed.append(Postponed(payment.id, LOOK_UP_AGAIN_S, reason=f"looked up again: {error}"))
                continue
            if found:
                delay_s = LOOK_UP_AGAIN_S if self._caution.waits(payment.amount) else NEXT_BLOCK_S
                plan.postponed.append(Postponed(payment.id, delay_s, reason="its use on chain is being confirmed"))
            else:
                suspect_or_fail(plan, payment, code=NONCE_USED, height=preflight.block_number)

    async def _agreed_faults(self, claimed: Sequence[ClaimedPayment], faults: Sequence[Failed]) -> SettlementPlan:
        """Nothing fails by the word of one endpoint: what a second one does not find faulty is tried again."""
        faulty = {failed.id for failed in faults}
        suspects = [payment for payment in claimed if payment.id in faulty]
        at = self._head.head.hash
        about = f"what is wrong with {len(suspects)} payments ({suspects[0].id}, …)"
        reason = "two endpoints do not find the same fault"
        try:
            found = await self._rpc.agreed(
                lambda rpc: self._preflight_of(rpc, suspects, at=at), subject="fault", about=about, same=_faults
            )
            faulty = {p.id for p, item in zip(suspects, found.items, strict=True) if item.used or not item.ok}
        except RetriedError as error:
            faulty, reason = set(), str(error)
        # The suspicion of the others stays as it was: it needs no second block again.
        return SettlementPlan(
            failed=[failed for failed in faults if failed.id in faulty],
            postponed=[
                Postponed(p.id, LOOK_UP_AGAIN_S, code=p.suspected_code, height=p.suspected_height, reason=reason)
                for p in suspects
                if p.id not in faulty
            ],
        )

    async def _send_what_fits(self, claim: Claim, batch: Batch, sendable: Sequence[Sendable], *, failed: int) -> None:
        """There is not supply for all of a batch: reserve for those that get some, and send these.

        `failed`: how many of the claim have failed before.
        """
        ids = {p.id for p in batch.payments}
        plan = SettlementPlan(send=[s for s in sendable if s.payment.id in ids])
        fitting = await self._reserve(claim, plan)
        await self._write_back(claim, plan)
        for smaller in self._batches(fitting):  # not more than one: it is a part of one
            await self._send(claim, smaller, failed=failed + len(plan.failed))

    async def _reserve(self, claim: Claim, plan: SettlementPlan) -> list[Sendable]:
        """Take supply for payments that passed; what does not fit joins the plan's other lists."""
        async with transaction(self._pool, "reserve supply", lock_timeout_s=LOCK_TIMEOUT_S) as connection:
            await settling.lock_claimed(connection, [s.payment.id for s in plan.send], claim=claim)
            supply = await tokens.lock_supply(
                connection, self._terms.network, sorted({s.payment.token for s in plan.send})
            )
            allotted = allot(plan.send, supply)
            fresh = [s.payment for s in allotted.send if not s.payment.supply_reserved]
            units: dict[Address, int] = {}
            for payment in fresh:
                units[payment.token] = units.get(payment.token, 0) + payment.quantity
            await tokens.add_reserved(connection, self._terms.network, units)
            reserved = await tokens.mark_reserved(
                connection, [p.id for p in fresh], owner=claim.owner, epoch=claim.epoch
            )
            if reserved != len(fresh):
                raise LeaseLost(f"{len(fresh) - reserved} payments were given supply by somebody else")
        plan.failed += allotted.failed
        plan.postponed += allotted.postponed
        return [replace(s, payment=replace(s.payment, supply_reserved=True)) for s in allotted.send]

    async def _write_back(self, claim: Claim, plan: SettlementPlan) -> None:
        if not plan.failed and not plan.postponed:
            return
        async with transaction(self._pool, "write back what is not sent", lock_timeout_s=LOCK_TIMEOUT_S) as connection:
            if plan.postponed:
                await settling.postpone(connection, plan.postponed, claim=claim)
            ended = await settling.fail_claimed(connection, plan.failed, claim=claim) if plan.failed else []
        self._on_changed(ended)
        reasons = {f.id: f for f in plan.failed}
        for payment_id in ended:
            metrics.PAYMENTS_FAILED.add(reasons[payment_id].code)
            log.info(
                "payment_failed",
                message=f"❌ Payment failed before sending: {payment_id} ({reasons[payment_id].sentence})",
                payment_id=payment_id,
                code=reasons[payment_id].code,
            )

    def _batches(self, sendable: Sequence[Sendable]) -> list[Batch]:
        batch_max = self._terms.settle_batch_max if self._terms.settle_mode == "batch" else 1
        return compose_batches(
            sendable,
            batch_max=batch_max,
            tx_gas_max=self._terms.tx_gas_max,
            code_payer_gas=self._terms.code_payer_gas_max,
            caution=self._caution,
        )

    def _transaction(self, batch: Batch) -> _Call:
        """What a batch's transaction calls, and how much gas it may take."""
        calls = [
            contracts.encode_transfer_with_authorization(
                payer=p.payer,
                pay_to=p.pay_to,
                value=p.amount,
                valid_after=p.valid_after,
                valid_before=p.valid_before,
                nonce=p.nonce,
                signature=p.signature,
            )
            for p in batch.payments
        ]
        # One payment needs no batch contract around it.
        if len(calls) == 1:
            to, data = self._terms.asset, calls[0]
        else:
            to = self._terms.multicall3
            data = contracts.encode_try_aggregate([(self._terms.asset, call) for call in calls])
        limit = gas_limit(data, execution_gas=batch.execution_gas)
        return _Call(to=to, data=data, gas_limit=limit, item_count=len(calls))

    async def _send(self, claim: Claim, batch: Batch, *, failed: int) -> None:
        ids = [p.id for p in batch.payments]
        units: Counter[Address] = Counter()
        for payment in batch.payments:
            if not payment.supply_reserved:
                units[payment.token] += payment.quantity
        ages_s: list[float] = []

        async def store_items(connection: Connection, transaction_id: int, tx_hash: TxHash) -> None:
            await transaction_items.store_payment_items(connection, transaction_id, ids)
            ages_s.extend(await settling.mark_sent(connection, batch.payments, tx_hash=tx_hash, claim=claim))
            # Last: the token's row is everybody's. Payments first, tokens second.
            if not await tokens.take_supply(connection, self._terms.network, units):
                raise SupplyShort

        with self._on_its_way.sending(batch.payments):
            sent = await self._outbox.send(**self._transaction(batch), store_items=store_items)
        self._on_changed(ids)
        for age_s in ages_s:
            metrics.STAGE.observe(age_s, *metrics.ACCEPTED_TO_SENT)
        for payment_id in ids:
            self._flow_log.payment_sent(payment_id=payment_id, account_nonce=sent.nonce, tx_hash=sent.hash)
        self._flow_log.batch_complete(succeeded=len(ids), failed=failed, tx_hash=sent.hash)


def _faults(preflight: Preflight) -> object:
    """What two endpoints have to find alike; what a transfer cost is no fault."""
    return [(item.used, item.ok, item.revert_data) for item in preflight.items]


def _preflight_request(payment: ClaimedPayment) -> PreflightRequest:
    return PreflightRequest(
        payer=payment.payer,
        value=payment.amount,
        valid_after=payment.valid_after,
        valid_before=payment.valid_before,
        nonce=payment.nonce,
        signature=payment.signature,
    )
