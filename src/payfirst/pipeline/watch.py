"""Watch: what ends by time alone. Authorizations expire at depth; blocks become final."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from payfirst.chain import contracts
from payfirst.chain.agreement import Subject
from payfirst.chain.rpc import RpcClient
from payfirst.errors import RetriedError
from payfirst.ops import metrics
from payfirst.ops.log import get_logger
from payfirst.pipeline.displaced import DisplacedWatch
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.recredit import Recrediter, Use
from payfirst.pipeline.scan import STATES_KEPT
from payfirst.pipeline.settle_plan import NONCE_USED, SENTENCES
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, heads, owed, processes, short_payers, transactions, wallets
from payfirst.store.crediting import ExpiryCandidate
from payfirst.store.database import Pool, session, transaction
from payfirst.store.heads import ReadBlock
from payfirst.store.owed import Debt
from payfirst.store.wake import OnChanged
from payfirst.units import BlockNumber

WATCH_S = 1.0
EXPIRED_PER_ROUND_MAX = 200
FINAL_PER_ROUND_MAX = 5_000

EXPIRED = "invalid_exact_evm_payload_authorization_valid_before"
LOST_SENTENCE = "A reorg took this payment, and its authorization expired before it could be sent again."
EXPIRED_SENTENCE = "The authorization's validBefore passed before it could be settled. No money moved; pay again."

log = get_logger()


class Watcher:
    """Ends what time has ended. Any number may run: every statement names the state it expects."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        head: HeadWatch,
        recrediter: Recrediter,
        displaced: DisplacedWatch,
        on_changed: OnChanged,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._head = head
        self._recrediter = recrediter
        self._displaced = displaced
        self._on_changed = on_changed
        self._postponed: set[str] = set()

    async def run(self) -> None:
        """Look every `WATCH_S` until cancelled."""
        steps = (self.expire, self.give_up_lost, self.finalize, self._displaced.step, self._forget_old)
        while True:
            for step in steps:
                await self._try(step)
            await asyncio.sleep(WATCH_S)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        """What endpoints do not agree on may take long, and holds up none of the other steps. It is said once."""
        name = step.__qualname__
        try:
            await step()
            self._postponed.discard(name)
        except RetriedError as error:
            if name not in self._postponed:
                log.warning("watch_postponed", message=f"Watching goes on later: {error}")
            self._postponed.add(name)

    async def _forget_old(self) -> None:
        async with session(self._pool, "forget what is old") as connection:
            await processes.forget_silent(connection)
            await short_payers.forget_old(connection)
            await wallets.forget_old(connection)

    async def expire(self) -> None:
        """Fail pending payments that no later block can settle, by evidence at the block read last."""
        async with session(self._pool, "look for expired payments") as connection:
            cursor = (await heads.cursor(connection, self._terms.network)).block
            candidates = await crediting.expiry_candidates(
                connection,
                network=self._terms.network,
                asset=self._terms.asset,
                chain_time=cursor.time,
                limit=EXPIRED_PER_ROUND_MAX,
            )
        if not candidates:
            return
        used = await self._used(candidates, read=cursor, subject="expired")
        expired = [c.id for c, is_used in zip(candidates, used, strict=True) if not is_used]
        elsewhere = [c for c, is_used in zip(candidates, used, strict=True) if is_used]
        not_ours = [c.id for c in elsewhere if await self._is_not_ours(c)]
        async with transaction(self._pool, "fail expired payments") as connection:
            ended = await crediting.fail_expired(connection, expired, code=EXPIRED, sentence=EXPIRED_SENTENCE)
            used_up = await crediting.fail_expired(
                connection, not_ours, code=NONCE_USED, sentence=SENTENCES[NONCE_USED]
            )
        metrics.PAYMENTS_FAILED.add(EXPIRED, by=len(ended))
        metrics.PAYMENTS_FAILED.add(NONCE_USED, by=len(used_up))
        ended += used_up
        self._on_changed(ended)
        for payment_id in ended:
            log.info("payment_failed", message=f"❌ Payment expired unsettled: {payment_id}", payment_id=payment_id)

    async def _is_not_ours(self, candidate: ExpiryCandidate) -> bool:
        use = Use(candidate.id, candidate.payer, candidate.nonce, candidate.accepted_height)
        try:
            return not await self._recrediter.find(use)
        except RetriedError as error:
            # One look-up that fails holds up nobody else.
            log.debug("look_up_postponed", message=f"Payment {candidate.id} is looked up again: {error}")
            return False

    async def give_up_lost(self) -> None:
        """What a reorg took and time keeps from coming back: `lost`, and owed to the seller who may have minted."""
        async with session(self._pool, "look for lost payments") as connection:
            cursor = (await heads.cursor(connection, self._terms.network)).block
            candidates = await crediting.lost_candidates(
                connection,
                network=self._terms.network,
                asset=self._terms.asset,
                chain_time=cursor.time,
                limit=EXPIRED_PER_ROUND_MAX,
            )
        if not candidates:
            return
        used = await self._used(candidates, read=cursor, subject="lost")
        gone = [c.id for c, is_used in zip(candidates, used, strict=True) if not is_used]
        async with transaction(self._pool, "give up lost payments") as connection:
            lost = await crediting.mark_lost(connection, gone, sentence=LOST_SENTENCE)
            debts = [Debt(payment_id, None) for payment_id in lost]
            await owed.write(connection, debts, direction="to_seller", reason="payment_lost")
        for payment_id in lost:
            log.error("payment_lost", message=f"{LOST_SENTENCE} Payment {payment_id}", payment_id=payment_id)

    async def _used(self, candidates: list[ExpiryCandidate], *, read: ReadBlock, subject: Subject) -> list[bool]:
        """Which authorizations are used, at the block read last, which is past their end. Two endpoints have to agree.

        Where nodes have forgotten the state of that block, the head's is as good: later blocks use none of them.
        """
        head = self._head.head
        at = read.hash if head.number - read.height <= STATES_KEPT else head.hash
        calls = [
            (self._terms.asset, contracts.encode_call("authorizationState(address,bytes32)", c.payer, c.nonce))
            for c in candidates
        ]
        data = contracts.encode_aggregate3(calls)

        async def ask(rpc: RpcClient) -> list[bool]:
            answer = await rpc.eth_call(to=self._terms.multicall3, data=data, at=at)
            # An answer that is none counts as used: it is looked up, and never taken for "unused".
            return [not (ok and len(word) == 32 and not any(word)) for ok, word in contracts.decode_aggregate3(answer)]

        first = candidates[0].id
        about = f"whether the authorizations of {len(candidates)} payments that ended ({first}, …) were used"
        return await self._rpc.agreed(ask, subject=subject, about=about)

    def _final(self, cursor: BlockNumber) -> BlockNumber:
        """The newest block that is final: so deep under the block read last, or called so and read."""
        depth = self._terms.final_depth
        return BlockNumber(cursor - depth if isinstance(depth, int) else min(cursor, self._head.newest(depth)))

    async def finalize(self) -> None:
        """Mark as final what lies deep enough."""
        async with session(self._pool, "read the chain cursor") as connection:
            cursor = await heads.cursor(connection, self._terms.network)
        height = self._final(cursor.block.height)
        if height <= cursor.final_height:
            return
        async with transaction(self._pool, "mark blocks final") as connection:
            await transactions.finalize(connection, self._terms.network, height)
            changed = await crediting.finalize(connection, self._terms.network, height, limit=FINAL_PER_ROUND_MAX)
            # A round that was cut off by its limit is gone on with before the height moves.
            if changed < FINAL_PER_ROUND_MAX:
                await heads.advance_final(connection, self._terms.network, height)
