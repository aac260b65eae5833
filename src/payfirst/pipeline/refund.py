"""Refund: give back what was paid for and cannot be minted, from the treasury, each debt once.

The treasury signs an EIP-3009 authorization whose nonce is derived from what is refunded, and a refund signer sends it
by the same store-then-send as payments. The asset lets a nonce be used once: whatever is lost here, none is paid twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from payfirst.chain import contracts
from payfirst.chain.contracts import revert_reason
from payfirst.chain.fees import gas_limit
from payfirst.chain.rpc import RpcClient
from payfirst.chain.signers import Treasury
from payfirst.ops.log import get_logger
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.outbox import Outbox
from payfirst.pipeline.refund_evidence import RefundEvidence
from payfirst.pipeline.refund_plan import (
    ABOVE_AMOUNT_MAX,
    BEHIND_OTHERS,
    NEEDS_APPROVAL,
    OTHER_TREASURY,
    OVER_DAILY_MAX,
    RefundPlan,
    RefundView,
    plan_refunds,
)
from payfirst.pipeline.rounds import Rounds
from payfirst.pipeline.terms import Terms
from payfirst.store import refunds, transaction_items, treasuries
from payfirst.store.database import Connection, Pool, session, transaction
from payfirst.store.ids import Ids
from payfirst.store.refunds import DueRefund, NewRefund
from payfirst.store.wake import OnChanged
from payfirst.units import (
    Address,
    AtomicAmount,
    TxHash,
    UnixTime,
    checksum_address,
    hex_text,
)
from payfirst.x402.eip712 import domain_separator, transfer_digest
from payfirst.x402.payload import Authorization
from payfirst.x402.refund_nonce import refund_nonce

OPENED_PER_ROUND_MAX = 500
BATCH_MAX = 100
UNRESOLVED_MAX = 4
GAS_PER_REFUND = 130_000
BATCH_GAS_FLOOR = 60_000
# After that the same nonce is signed again: what was sent before can never be used beside it.
VALID_S = 3_600
BALANCE_AGAIN_S = 10.0
HELD_S = 5.0
BEHIND_S = 1.0
REFUSED_S_MAX = 600.0

AUTOMATIC = "automatic"

log = get_logger()


class Refunder:
    """One refund signer's work, for one treasury."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        treasury: Treasury,
        outbox: Outbox,
        head: HeadWatch,
        on_changed: OnChanged,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._treasury = treasury
        self._outbox = outbox
        self._head = head
        self._on_changed = on_changed
        self._domain = domain_separator(
            name=terms.asset_name, version=terms.asset_version, chain_id=terms.chain_id, contract=terms.asset
        )
        self._balance_at = float("-inf")
        self._evidence = RefundEvidence(pool, rpc, terms=terms, on_changed=on_changed)
        self.rounds = Rounds("refund", self.step, outbox=outbox)

    async def step(self) -> bool:
        """Open what is new, approve what the settings approve, and send one batch; returns whether it sent one."""
        await self._outbox.hold()
        if self._terms.refund_mode == "off":
            return False  # what is on its way is still tended
        await self._note_balance()
        await self._tidy()
        await self._open_new()
        await self._approve()
        if await self._outbox.unresolved() >= UNRESOLVED_MAX:
            return False
        async with session(self._pool, "look for refunds that are due") as connection:
            due = await refunds.due(connection, self._terms.network, self._terms.asset, limit=self._batch_max())
        return bool(due) and await self._refund(due)

    def _batch_max(self) -> int:
        # 380 bytes of calldata each, nearly all of them not zero.
        return max(1, min(BATCH_MAX, (self._terms.tx_gas_max - BATCH_GAS_FLOOR - 30_000) // (GAS_PER_REFUND + 6_000)))

    # ---- which there are, and which are approved ---------------------------------------------------

    async def _note_balance(self) -> None:
        if time.monotonic() - self._balance_at < BALANCE_AGAIN_S:
            return
        balance = await self._balance("latest")
        async with session(self._pool, "note what the treasury has") as connection:
            await treasuries.see(
                connection, self._terms.network, self._terms.asset, self._treasury.address, balance=balance
            )
        self._balance_at = time.monotonic()

    async def _balance(self, at: str) -> AtomicAmount:
        data = contracts.encode_call("balanceOf(address)", self._treasury.address)
        return AtomicAmount(int.from_bytes((await self._rpc.eth_call(to=self._terms.asset, data=data, at=at))[:32]))

    async def _tidy(self) -> None:
        """Go on with what no transaction carries any more, and give up what ended otherwise and can pay nobody."""
        network, asset = self._terms.network, self._terms.asset
        async with session(self._pool, "look for refunds that ended otherwise") as connection:
            signed = await refunds.ended_but_signed(connection, network, asset, limit=BATCH_MAX)
            known = await treasuries.known(connection, network, asset)
        unusable = await self._evidence.unusable(signed, known, self._head.head) if signed else []
        async with transaction(self._pool, "give up refunds") as connection:
            changed = await refunds.return_stranded(connection, network)
            changed += await refunds.cancel_ended(connection, network, unusable=unusable)
        self._on_changed(changed)

    async def _open_new(self) -> None:
        network, asset = self._terms.network, self._terms.asset
        async with transaction(self._pool, "open refunds") as connection:
            debts = await refunds.refundable(connection, network, asset, limit=OPENED_PER_ROUND_MAX)
            ids = Ids()
            new = [
                NewRefund(
                    id=ids.draw(),
                    owed_id=debt.owed_id,
                    nonce=refund_nonce(
                        chain_id=self._terms.chain_id, asset=asset, payer=debt.payer, nonce=debt.nonce, unit=debt.unit
                    ),
                )
                for debt in debts
            ]
            if new:
                opened = await refunds.open_new(connection, network, asset, treasury=self._treasury.address, new=new)
        if new:
            log.info("refunds_opened", message=f"{opened} refunds opened for what is owed to buyers", count=opened)

    async def _approve(self) -> None:
        async with transaction(self._pool, "approve refunds") as connection:
            network, asset, amount_max = self._terms.network, self._terms.asset, self._terms.refund_amount_max
            if self._terms.refund_mode != "automatic":
                await refunds.note_waiting(connection, network, asset, above=None, why=NEEDS_APPROVAL)
                return
            # The limit is the database's to apply: those above it, however many, keep no smaller one from its turn.
            fit = await refunds.waiting(connection, network, asset, amount_max=amount_max, limit=OPENED_PER_ROUND_MAX)
            if fit:
                await refunds.approve(connection, fit, by=AUTOMATIC)
            if amount_max is not None:
                await refunds.note_waiting(connection, network, asset, above=amount_max, why=ABOVE_AMOUNT_MAX)

    # ---- what is due -------------------------------------------------------------------------------

    async def _refund(self, due: Sequence[DueRefund]) -> bool:
        async with session(self._pool, "read what refunds are on their way") as connection:
            out = await refunds.outflow(
                connection, self._terms.network, self._terms.asset, treasury=self._treasury.address
            )
            known = await treasuries.known(connection, self._terms.network, self._terms.asset)
        view = await self._look(due, known)
        plan = plan_refunds(
            due,
            view,
            treasury=self._treasury.address,
            on_its_way=out.on_its_way,
            of_the_day=out.of_the_day,
            daily_max=self._terms.refund_daily_max,
        )
        for refund, by in plan.look_up:
            await self._evidence.look_up(refund, by)
        for refund in plan.minted:
            await self._evidence.close_minted(refund)
        # Before the first signature: the database may have lost that another treasury has paid.
        if fresh := [refund for refund in plan.send if refund.valid_before is None]:
            paid = await self._evidence.paid_elsewhere(fresh, self._head.head)
            plan.send = [refund for refund in plan.send if refund.id not in paid]
        await self._hold(plan, view)
        return bool(plan.send) and await self._send(plan.send, view)

    async def _look(self, due: Sequence[DueRefund], known: Sequence[Address]) -> RefundView:
        """One call at the head: which nonces are used, which units are minted, and what the treasury has.

        What no transaction of ours can mint any more, and the token does not hold at the head, it did not hold at any
        block below: so not at a final one either.
        """
        head = self._head.head
        asset = self._terms.asset
        calls = [(asset, contracts.encode_call("balanceOf(address)", self._treasury.address))]
        calls += [(refund.token, contracts.encode_has_minted(refund.mint_id)) for refund in due]
        calls += [
            (asset, contracts.encode_call("authorizationState(address,bytes32)", treasury, refund.nonce))
            for treasury in known
            for refund in due
        ]
        answers = contracts.decode_aggregate3(
            await self._rpc.eth_call(to=self._terms.multicall3, data=contracts.encode_aggregate3(calls), at=head.hash)
        )
        # An answer that is none counts as used and as minted: then nothing is sent.
        said = [int.from_bytes(data) if ok and len(data) == 32 else None for ok, data in answers]
        units, uses = said[1 : 1 + len(due)], said[1 + len(due) :]
        used = {
            refund.nonce: treasury
            for n, treasury in enumerate(known)
            for refund, state in zip(due, uses[n * len(due) : (n + 1) * len(due)], strict=True)
            if state != 0
        }
        return RefundView(
            time=head.time,
            balance=AtomicAmount(said[0] or 0),
            used=used,
            minted={refund.mint_id for refund, state in zip(due, units, strict=True) if state != 0},
        )

    async def _hold(self, plan: RefundPlan, view: RefundView) -> None:
        """Let what cannot be sent now wait, with the reason; say aloud, once, that the treasury is short."""
        network, asset = self._terms.network, self._terms.asset
        short = (
            f"the treasury {checksum_address(self._treasury.address)} has {view.balance} (atomic units): send it at"
            f" least {plan.missing} more, and refunds go on by themselves"
        )
        held = (
            (plan.behind, BEHIND_OTHERS, BEHIND_S),
            (plan.over_daily_max, OVER_DAILY_MAX, HELD_S),
            (plan.other_treasury, OTHER_TREASURY, HELD_S),
            (plan.short, short, HELD_S),
        )
        is_short = bool(plan.short)
        async with transaction(self._pool, "let refunds wait") as connection:
            for group, why, delay_s in held:
                if group:
                    await refunds.postpone(connection, [r.id for r in group], why=why, delay_s=delay_s)
            changed = False
            if is_short or plan.send:
                changed = await treasuries.hold(
                    connection, network, asset, self._treasury.address, reason=short if is_short else None
                )
        if changed and is_short:
            log.error(
                "treasury_short",
                message=f"{len(plan.short)} refunds wait: {short}",
                treasury=hex_text(self._treasury.address),
                balance=view.balance,
                missing=plan.missing,
            )
        elif changed:
            log.info("treasury_filled", message="The treasury has money again: refunds go on")

    # ---- sending -----------------------------------------------------------------------------------

    async def _send(self, batch: Sequence[DueRefund], view: RefundView) -> bool:
        valid_before = UnixTime(view.time + VALID_S)
        calls = {refund.id: self._call(refund, valid_before) for refund in batch}
        refused = await self._try([calls[refund.id] for refund in batch])
        for refund, reason in zip(batch, refused, strict=True):
            if reason is not None:
                await self._postpone_refused(refund, reason)
        going = [refund for refund, reason in zip(batch, refused, strict=True) if reason is None]
        if not going:
            return False
        ids = [refund.id for refund in going]
        # One refund needs no batch contract around it.
        if len(going) == 1:
            to, data = self._terms.asset, calls[ids[0]]
        else:
            to = self._terms.multicall3
            data = contracts.encode_try_aggregate([(self._terms.asset, calls[one]) for one in ids])

        async def store_items(connection: Connection, transaction_id: int, tx_hash: TxHash) -> None:
            await transaction_items.store_refund_items(connection, transaction_id, ids)
            await refunds.mark_sent(
                connection,
                self._terms.network,
                self._terms.asset,
                ids,
                tx_hash=tx_hash,
                treasury=self._treasury.address,
                valid_before=valid_before,
                of_the_day_max=self._terms.refund_daily_max,
                balance=view.balance,
            )

        sent = await self._outbox.send(
            to=to,
            data=data,
            gas_limit=gas_limit(data, execution_gas=BATCH_GAS_FLOOR + GAS_PER_REFUND * len(ids)),
            item_count=len(ids),
            store_items=store_items,
        )
        self._on_changed(refund.payment_id for refund in going)
        log.info(
            "refunds_sent",
            message=f"📤 Sent refund tx: {len(ids)} refunds (nonce: {sent.nonce}, tx: {hex_text(sent.hash)[:6]}...)",
            count=len(ids),
            amount=sum(refund.amount for refund in going),
            nonce=sent.nonce,
            tx_hash=hex_text(sent.hash),
        )
        return True

    def _call(self, refund: DueRefund, valid_before: UnixTime) -> bytes:
        authorization = Authorization(
            payer=self._treasury.address,
            pay_to=refund.beneficiary,
            value=refund.amount,
            valid_after=UnixTime(0),
            valid_before=valid_before,
            nonce=refund.nonce,
        )
        return contracts.encode_transfer_with_authorization(
            payer=authorization.payer,
            pay_to=authorization.pay_to,
            value=authorization.value,
            valid_after=authorization.valid_after,
            valid_before=authorization.valid_before,
            nonce=authorization.nonce,
            signature=self._treasury.authorize(transfer_digest(self._domain, authorization)),
        )

    async def _try(self, calls: Sequence[bytes]) -> list[str | None]:
        """Try the very calls at the head, in order: None for each that goes through, else what the asset says."""
        data = contracts.encode_aggregate3([(self._terms.asset, call) for call in calls])
        answers = contracts.decode_aggregate3(
            await self._rpc.eth_call(to=self._terms.multicall3, data=data, at=self._head.head.hash)
        )
        return [None if ok else str(revert_reason(said)) for ok, said in answers]

    async def _postpone_refused(self, refund: DueRefund, reason: str) -> None:
        """A blocked beneficiary, a paused asset: tried again, and said aloud the first time."""
        why = f"the asset refuses it: {reason}"
        async with session(self._pool, "let a refund wait") as connection:
            await refunds.postpone(
                connection, [refund.id], why=why, delay_s=min(REFUSED_S_MAX, 2.0 ** min(refund.attempts + 1, 10))
            )
        if refund.attempts == 0:
            log.error(
                "refund_refused",
                message=f"Refund {refund.id} to {checksum_address(refund.beneficiary)}: {why}",
                refund_id=refund.id,
                payment_id=refund.payment_id,
            )
