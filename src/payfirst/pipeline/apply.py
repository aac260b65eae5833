"""Write down what a block has been found to prove, in the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payfirst.chain.blocks import Head
from payfirst.ops.log import get_logger
from payfirst.pipeline import credit, minted
from payfirst.pipeline.confirm_plan import BlockPlan
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, mints, refunds, transactions, waiting
from payfirst.store.database import Connection
from payfirst.store.mints import Minted
from payfirst.store.transactions import UnresolvedHash
from payfirst.units import TxHash

log = get_logger()


@dataclass(frozen=True, slots=True)
class Applied:
    """What a block changed: the payments it completed, the units it minted, the payments it refunded units of."""

    created: list[credit.Created]
    units: list[Minted]
    refunded: set[uuid.UUID]

    @property
    def payment_ids(self) -> set[uuid.UUID]:
        """The payments of which something was delivered or given back."""
        return {*(unit.payment_id for unit in self.units), *self.refunded}


async def write(
    connection: Connection, plan: BlockPlan, block: Head, unresolved: Mapping[TxHash, UnresolvedHash], *, terms: Terms
) -> Applied:
    """Everything that one block changes; all items of a transaction leave `sent` in this commit."""
    units: list[Minted] = []
    refunded: set[uuid.UUID] = set()
    # A row may name another hash of the nonce than the one that was mined.
    resolved = {t.id for t in plan.transactions}
    mined = [tx_hash for tx_hash, known in unresolved.items() if known.transaction_id in resolved]
    created = await credit.write(connection, plan.credits, block=block, terms=terms)
    if plan.back:
        await crediting.mark_back(connection, [credit.completion(c, block) for c in plan.back])
    if plan.used_before:
        await credit.refuse_used_before(connection, plan.used_before)
    if plan.waiting:
        await waiting.note(connection, terms.network, plan.waiting, block=block.number, block_hash=block.hash)
    if plan.transactions:
        await transactions.confirm(connection, plan.transactions, plan.outcomes)
    if plan.returned_payments:
        await crediting.return_reverted(connection, plan.returned_payments, mined=mined)
    if plan.minted:
        units = await minted.write(connection, terms.network, plan.minted, block=block.number)
    if plan.returned_mints:
        await mints.return_to_queue(connection, plan.returned_mints, mined=mined)
    if any(known.purpose == "refund" for known in unresolved.values() if known.transaction_id in resolved):
        refunded = await _write_refunds(connection, plan, block, mined, terms=terms)
    return Applied(created, units, refunded)


async def _write_refunds(
    connection: Connection, plan: BlockPlan, block: Head, mined: Sequence[TxHash], *, terms: Terms
) -> set[uuid.UUID]:
    """What was refunded is completed; what the mined transactions carried besides is to be sent again."""
    changed: set[uuid.UUID] = set()
    if plan.refunded:
        done, payments = await refunds.complete(
            connection, terms.network, terms.asset, plan.refunded, block=block.number
        )
        changed.update(payments)
        if done:
            log.info(
                "refunds_confirmed",
                message=f"↩️ {len(done)} refunds confirmed in block {block.number}",
                count=len(done),
                height=block.number,
            )
    return changed.union(await refunds.return_unpaid(connection, mined))
