"""Write down what a block has been found to prove, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping

from payfirst.chain.blocks import Head
from payfirst.pipeline import credit, minted
from payfirst.pipeline.confirm_plan import BlockPlan
from payfirst.pipeline.terms import Terms
from payfirst.store import crediting, mints, transactions, waiting
from payfirst.store.database import Connection
from payfirst.store.mints import Minted
from payfirst.store.transactions import UnresolvedHash
from payfirst.units import TxHash


async def write(
    connection: Connection, plan: BlockPlan, block: Head, unresolved: Mapping[TxHash, UnresolvedHash], *, terms: Terms
) -> tuple[list[credit.Created], list[Minted]]:
    """Everything that one block changes; all items of a transaction leave `sent` in this commit.

    Returns the payments it completed, and the units that were minted.
    """
    units: list[Minted] = []
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
    return created, units
