"""Believe later what a block shows of large payments: deeper, or once two endpoints agree on it.

The scan has passed the block and noted the transaction in the same commit. Its payments stay `sent` until it is read
again here, in the same canonical block, and then all of its items change in one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from payfirst.chain.agreement import RpcDisagreement
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.errors import RetriedError
from payfirst.ops.log import get_logger
from payfirst.pipeline import apply, burners, scan
from payfirst.pipeline.confirm_plan import BlockPlan, plan_block
from payfirst.pipeline.credit import Created
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.scan import FoundBlock
from payfirst.pipeline.terms import Terms
from payfirst.store import heads, transactions, waiting
from payfirst.store.database import Pool, session, transaction
from payfirst.store.waiting import Evidence
from payfirst.units import Address, TxHash, hex_text

SAID_MAX = 10_000

log = get_logger()

OnApplied = Callable[[BlockPlan, list[Created], FoundBlock], None]


class LateConfirmer:
    """Any number may run: whoever deletes the row of what waited applies it, in the same commit."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        head: HeadWatch,
        pay_tos: Set[Address],
        on_applied: OnApplied,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._head = head
        self._pay_tos = pay_tos
        self._on_applied = on_applied
        self._said: set[TxHash] = set()

    async def step(self) -> None:
        """Look at what waits. What cannot be told now holds up nothing else. Raises RetriedError of the database."""
        async with session(self._pool, "look for evidence that waits") as connection:
            cursor = (await heads.cursor(connection, self._terms.network)).block
            found = await waiting.read(connection, self._terms.network, up_to=cursor.height)
        for evidence in found:
            if not self._is_deep(evidence):
                continue
            try:
                await self._apply(evidence)
            except (RpcUnavailable, RpcRefused, RpcDisagreement) as error:
                self._say(evidence, error)

    def _is_deep(self, evidence: Evidence) -> bool:
        large = self._terms.large_amount
        if large is None or evidence.amount < large:
            return True
        return evidence.block <= self._head.newest(self._terms.large_confirmations)

    async def _apply(self, evidence: Evidence) -> None:
        network = self._terms.network
        found = await self._look(self._rpc, evidence)
        if not found.receipts and not self._rpc.can_agree:
            raise RpcUnavailable(f"RPC: no receipt of {hex_text(evidence.tx_hash)} in block {evidence.block}")
        plan, unresolved, burned = await self._plan(found)
        agree = self._terms.agree_amount
        # That the block holds no such transaction after all needs a second endpoint as well.
        if not found.receipts or plan.used_before or (agree is not None and evidence.amount >= agree):
            about = f"the payments in transaction {hex_text(evidence.tx_hash)}"
            found = await self._rpc.agreed(
                lambda rpc: self._look(rpc, evidence), subject="payment", about=about, same=_as_evidence
            )
            plan, unresolved, burned = await self._plan(found)
        async with transaction(self._pool, "apply evidence that waited") as connection:
            cursor = (await heads.lock_cursor(connection, network)).block
            remembered = await heads.hash_at(connection, network, evidence.block)
            if evidence.block > cursor.height or remembered not in (None, evidence.block_hash):
                return  # a reorg is being undone
            if not await waiting.take(connection, network, evidence):
                return
            applied = await apply.write(connection, plan, found.head, unresolved, terms=self._terms)
            await burners.write(connection, burned, terms=self._terms)
        burners.report(burned)
        self._said.discard(evidence.tx_hash)
        self._on_applied(plan, applied.created, found)

    async def _look(self, rpc: RpcClient, evidence: Evidence) -> FoundBlock:
        """The block, and the receipt if it is in it. Raises RpcUnavailable where it is another: a reorg, or a lag."""
        blocks = await rpc.blocks(evidence.block, evidence.block)
        (receipt,) = await rpc.receipts([evidence.tx_hash])
        if not blocks or blocks[0].head.hash != evidence.block_hash:
            raise RpcUnavailable(f"RPC: block {evidence.block} is not the one that was read")
        is_there = receipt is not None and receipt.block_hash == evidence.block_hash
        return FoundBlock(blocks[0].head, (receipt,) if receipt is not None and is_there else ())

    async def _plan(
        self, found: FoundBlock
    ) -> tuple[BlockPlan, dict[TxHash, transactions.UnresolvedHash], list[burners.Burned]]:
        async with session(self._pool, "read what waits for this evidence") as connection:
            unresolved = await transactions.unresolved_hashes(connection, self._terms.network)
            evidence = await scan.evidence(
                connection,
                self._rpc,
                found,
                terms=self._terms,
                pay_tos=self._pay_tos,
                unresolved=unresolved,
                state="latest",
            )
        plan = plan_block(evidence)
        return plan, unresolved, await burners.find(self._rpc, plan, evidence, state="latest")

    def _say(self, evidence: Evidence, error: RetriedError) -> None:
        """Once for each transaction: it is tried again with each block."""
        if evidence.tx_hash in self._said or isinstance(error, RpcDisagreement):
            return
        if len(self._said) > SAID_MAX:
            self._said.clear()
        self._said.add(evidence.tx_hash)
        log.warning(
            "evidence_waits",
            message=f"{len(evidence.payment_ids)} payments in {hex_text(evidence.tx_hash)} wait: {error}",
            tx_hash=hex_text(evidence.tx_hash),
            height=evidence.block,
        )


def _as_evidence(found: FoundBlock) -> object:
    """What has to be the same: nodes differ in what they say beside it."""
    return found.head.hash, [(receipt.succeeded, receipt.logs) for receipt in found.receipts]
