"""Confirm: apply what each block at depth proves, one commit a block; undo what a reorg took."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import asyncpg

from payfirst.chain.blocks import Block
from payfirst.chain.rpc import RpcClient
from payfirst.errors import LeaseLost, RetriedError, StoreUnavailable
from payfirst.ops import metrics
from payfirst.ops.log import FlowLog, get_logger
from payfirst.pipeline import apply, burners, credit, minted, scan
from payfirst.pipeline.confirm_plan import BlockPlan, plan_block
from payfirst.pipeline.head import HeadWatch, read_block
from payfirst.pipeline.late import LateConfirmer
from payfirst.pipeline.settle_plan import NONCE_USED
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, heads, mints, refunds, tokens, transactions, waiting
from payfirst.store.database import Pool, session, transaction
from payfirst.store.heads import ReadBlock
from payfirst.store.mints import Minted
from payfirst.store.tokens import TokenFacts
from payfirst.store.transactions import UnresolvedHash
from payfirst.store.wake import OnChanged
from payfirst.units import Address, BlockNumber, TxHash, hex_text

BLOCKS_PER_STEP_MAX = 20
TOKEN_SYNC_S = 10.0
RETRY_S = 0.5
# The share of the newest block's rate in the moving average by which admission judges the queue.
DRAIN_WEIGHT = 0.2

log = get_logger()


class ChainUnclear(RetriedError):
    """What the node says does not fit what was read before; nothing changes until it does."""


class Confirmer:
    """Reads the chain from the stored cursor. Any number may run: the cursor moves by compare-and-swap."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        terms: Terms,
        head: HeadWatch,
        flow_log: FlowLog,
        on_capacity: Callable[[], None],
        on_mints: Callable[[], None],
        on_changed: OnChanged,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._head = head
        self._flow_log = flow_log
        self._on_capacity = on_capacity
        self._on_mints = on_mints
        self._on_changed = on_changed
        self._pay_tos: set[Address] = {terms.pay_to}
        self._tokens_synced_at = float("-inf")
        self._caution = terms.caution(two_endpoints=rpc.can_agree)
        self._late = LateConfirmer(
            pool, rpc, terms=terms, head=head, pay_tos=self._pay_tos, on_applied=self._applied_late
        )

    async def run(self) -> None:
        """Follow the head until cancelled."""
        async with session(self._pool, "read the payTo addresses") as connection:
            self._pay_tos |= await crediting.live_pay_tos(
                connection, self._terms.network, chain_time=self._head.head.time
            )
        while True:
            try:
                has_more = True
                while has_more:
                    has_more = await self.step()
                    await self._late.step()
                await self._head.wait_for_change()
            except LeaseLost as error:
                # Another worker has read this block first: that is how several of them share the work.
                log.debug("cursor_moved", message=str(error))
                await self._head.wait_for_change()
            except RetriedError as error:
                log.warning("confirm_postponed", message=f"Confirming goes on later: {error}")
                await asyncio.sleep(RETRY_S)

    async def step(self) -> bool:
        """Read a few blocks; returns whether there may be more. Raises RetriedError, with nothing changed."""
        async with session(self._pool, "read the chain cursor") as connection:
            cursor = (await heads.cursor(connection, self._terms.network)).block
        head, target = self._head.tip(self._terms.confirmations), self._head.newest(self._terms.confirmations)
        if target <= cursor.height:
            if head.number == cursor.height and head.hash != cursor.hash:
                await self._undo_reorg(cursor)
                return True
            return False
        last = min(target, cursor.height + BLOCKS_PER_STEP_MAX)
        blocks = await self._rpc.blocks(BlockNumber(cursor.height + 1), BlockNumber(last))
        if not blocks:
            return False
        if blocks[0].head.parent_hash != cursor.hash:
            await self._undo_reorg(cursor)
            return True
        await self._read(cursor, _linked(blocks), newest=BlockNumber(target))
        return True

    async def _read(self, cursor: ReadBlock, blocks: Sequence[Block], *, newest: BlockNumber) -> None:
        async with session(self._pool, "read unresolved transactions") as connection:
            unresolved = await transactions.unresolved_hashes(connection, self._terms.network)
        waiting = {u.transaction_id: u.item_count for u in unresolved.values() if u.purpose == "settle" and not u.waits}
        if waiting:
            self._flow_log.confirmations_checked(count=sum(waiting.values()))
        found = await scan.find(self._rpc, blocks, asset=self._terms.asset, pay_tos=self._pay_tos, ours=unresolved)
        for block in found:
            cursor = await self._apply(cursor, block, unresolved, is_newest=block.head.number == newest)

    async def _apply(
        self, cursor: ReadBlock, block: scan.FoundBlock, unresolved: dict[TxHash, UnresolvedHash], *, is_newest: bool
    ) -> ReadBlock:
        started = time.monotonic()
        async with session(self._pool, "read what a block concerns") as connection:
            evidence = await scan.evidence(
                connection,
                self._rpc,
                block,
                terms=self._terms,
                pay_tos=self._pay_tos,
                unresolved=unresolved,
                state=scan.state_at(block.head, head=self._head.head),
            )
        plan = plan_block(evidence, self._caution)
        burned = await burners.find(self._rpc, plan, evidence, state=scan.state_at(block.head, head=self._head.head))
        facts = await self._token_facts(block, just_minted={u.token for u in evidence.minted}, is_newest=is_newest)
        after = read_block(block.head)
        async with self._said_when_it_fails(plan, block), transaction(self._pool, "apply a block") as connection:
            await heads.move(connection, self._terms.network, before=cursor, after=after)
            await heads.remember(connection, self._terms.network, [after])
            applied = await apply.write(connection, plan, block.head, unresolved, terms=self._terms)
            await burners.write(connection, burned, terms=self._terms)
            for token in facts:
                await tokens.sync(connection, self._terms.network, token, height=after.height)
            settled = len(plan.credits) + sum(map(len, plan.waiting.values()))
            # A block without credits slows the average while there is work.
            if settled or any(not known.waits for known in unresolved.values()):
                rate = settled / max(1.0, after.time - cursor.time)
                await heads.note_drain(connection, self._terms.network, settled_per_s=rate, weight=DRAIN_WEIGHT)
        self._on_changed({*plan.payment_ids, *applied.payment_ids})
        burners.report(burned)
        seconds = time.monotonic() - started
        metrics.BLOCKS.observe(seconds)
        _count(plan, applied.units)
        self._report(plan, applied.created, block, seconds=seconds)
        return after

    @contextlib.asynccontextmanager
    async def _said_when_it_fails(self, plan: BlockPlan, block: scan.FoundBlock) -> AsyncIterator[None]:
        """Say that mints were not queued; only the database can keep them from it, and then the payments wait too."""
        try:
            yield
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            if plan.credits:
                units = sum(one.payment.quantity for one in plan.credits)
                log.error(
                    "mints_not_queued",
                    message=f"Failed to queue mints: the database did not take {units} units of {len(plan.credits)}"
                    f" payments found in block {block.head.number}: {error}. Nothing is lost: payments and units are"
                    " one commit, none of them is there, and the block is read and applied again",
                    height=block.head.number,
                    payments=len(plan.credits),
                    units=units,
                )
            raise

    async def _token_facts(
        self, block: scan.FoundBlock, *, just_minted: Collection[Address], is_newest: bool
    ) -> list[TokenFacts]:
        """Contract facts at this very block, so that `minted` and `reserved` change in one commit."""
        now = asyncio.get_running_loop().time()
        # In a block of the past a token's contract may not stand yet: all are read only where the chain is now.
        is_due = is_newest and now - self._tokens_synced_at >= TOKEN_SYNC_S
        wanted = list(just_minted)
        if is_due:
            async with session(self._pool, "read the tokens") as connection:
                wanted = [t.address for t in await tokens.read(connection, self._terms.network)]
        state = scan.state_at(block.head, head=self._head.head)
        facts = await scan.token_facts(self._rpc, self._terms, wanted, at=state) if wanted else []
        if is_due:
            self._tokens_synced_at = now
        return facts

    def _report(
        self, plan: BlockPlan, created: list[credit.Created], block: scan.FoundBlock, *, seconds: float
    ) -> None:
        if plan.credits:
            self._flow_log.payments_confirmed(count=len(plan.credits))
        for one in created:
            self._flow_log.mints_created(payment_id=one.payment_id, quantity=one.quantity)
        if plan.minted:
            log.info(
                "mints_confirmed",
                message=f"🪙 {len(plan.minted)} mints confirmed in block {block.head.number}",
                count=len(plan.minted),
                height=block.head.number,
            )
        for sentence in plan.strange:
            log.warning("strange_transfer", message=sentence, height=block.head.number)
        if plan.waiting:
            log.info(
                "payments_wait",
                message=f"⏳ {sum(map(len, plan.waiting.values()))} payments seen in block {block.head.number} wait for"
                " more depth, or for a second endpoint to agree",
                height=block.head.number,
            )
        if plan.transactions or plan.waiting:
            log.debug("block_applied", message="Block applied", height=block.head.number, seconds=round(seconds, 3))
            self._on_capacity()
        if created or plan.returned_mints:
            self._on_mints()

    def _applied_late(self, plan: BlockPlan, created: list[credit.Created], block: scan.FoundBlock) -> None:
        self._on_changed(plan.payment_ids)
        _count(plan, [])
        self._report(plan, created, block, seconds=0.0)

    async def _undo_reorg(self, cursor: ReadBlock) -> None:
        """Go back to the last block that is still canonical; what was settled or minted above it is open again."""
        async with session(self._pool, "read the remembered blocks") as connection:
            remembered = await heads.remembered(connection, self._terms.network)
        for block in remembered:
            canonical = await self._rpc.block_hash(block.height)
            if canonical is None:
                # A lagging node has not got there yet: that is no reorg.
                raise ChainUnclear(f"the node does not have block {block.height} yet")
            if canonical == block.hash:
                fork = block
                break
        else:
            raise ChainUnclear(
                "the chain has left the last final block; nothing is followed until it is back:"
                " check network.rpc_urls and network.final_depth"
            )
        if fork == cursor:
            return
        async with transaction(self._pool, "undo a reorg") as connection:
            await heads.move(connection, self._terms.network, before=cursor, after=fork)
            await heads.forget_above(connection, self._terms.network, fork.height)
            await waiting.forget_above(connection, self._terms.network, fork.height)
            reopened = await transactions.reopen_above(connection, self._terms.network, fork.height)
            taken = await crediting.reorg_above(connection, self._terms.network, fork.height)
            unminted = await mints.reorg_above(connection, self._terms.network, fork.height)
            await tokens.add_reserved(connection, self._terms.network, unminted)
            unrefunded = await refunds.reorg_above(connection, self._terms.network, fork.height)
        metrics.REORGS.add()
        metrics.REORGED.add("payment", by=len(taken))
        metrics.REORGED.add("mint", by=sum(unminted.values()))
        metrics.REORGED.add("refund", by=len(unrefunded))
        metrics.REORGED.add("transaction", by=len(reopened))
        log.warning(
            "reorg",
            message=f"Reorg: blocks above {fork.height} are gone; {len(taken)} payments,"
            f" {sum(unminted.values())} mints and {len(unrefunded)} refunds are being sent again",
            fork_height=fork.height,
            fork_hash=hex_text(fork.hash),
            cursor_height=cursor.height,
            payments=len(taken),
            mints=sum(unminted.values()),
            refunds=len(unrefunded),
            transactions=len(reopened),
        )


def _count(plan: BlockPlan, units: Sequence[Minted]) -> None:
    """For the metrics, after the commit."""
    credit.count(plan.credits)
    if plan.used_before:
        metrics.PAYMENTS_FAILED.add(NONCE_USED, by=len(plan.used_before))
    for mined in plan.transactions:
        metrics.TRANSACTIONS_MINED.add("succeeded" if mined.succeeded else "reverted")
        metrics.GAS_USED.add(by=mined.gas_used)
        metrics.GAS_PAID_WEI.add(by=mined.gas_used * mined.gas_price)
    minted.count(units)


def _linked(blocks: Sequence[Block]) -> list[Block]:
    """The leading blocks that hang together: a node may switch chains between two answers."""
    linked = [blocks[0]]
    for block in blocks[1:]:
        if block.head.parent_hash != linked[-1].head.hash:
            break
        linked.append(block)
    return linked
