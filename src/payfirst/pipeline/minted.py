"""Write down what the chain has minted: the units, the supply they held, and what was owed for them."""

from __future__ import annotations

from collections.abc import Sequence

from payfirst.ops import metrics
from payfirst.store import mints, owed, tokens
from payfirst.store.database import Connection
from payfirst.store.mints import Minted
from payfirst.units import Address, BlockNumber, MintId, TxHash


async def write(
    connection: Connection, network: str, found: Sequence[tuple[MintId, TxHash]], *, block: BlockNumber
) -> list[Minted]:
    """Complete the units whose mint ids stand in `block`; returns those that were not."""
    minted = await mints.mark_minted(connection, found, block=block)
    freed: dict[Address, int] = {}
    for unit in minted:
        # An owed unit gave its supply back when it was given up.
        if unit.before != "owed":
            freed[unit.token] = freed.get(unit.token, 0) - 1
    await tokens.add_reserved(connection, network, freed)
    given_up = [unit.id for unit in minted if unit.before == "owed"]
    if given_up:
        await owed.settle_minted(connection, given_up)
    return minted


def count(minted: Sequence[Minted]) -> None:
    """For the metrics: call it after the commit."""
    metrics.UNITS_MINTED.add(by=len(minted))
    for unit in minted:
        metrics.STAGE.observe(unit.age_s, *metrics.COMPLETED_TO_MINTED)
        metrics.STAGE.observe(unit.paid_s, *metrics.ACCEPTED_TO_MINTED)
