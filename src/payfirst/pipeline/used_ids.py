"""Mint ids that a token holds although no transaction of ours is known to have minted them. Only reads.

A database that was restored from a backup, or a second minter, leaves such units behind. A contract that skips
used ids needs none of this; one that reverts the whole batch on them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.chain import contracts
from payfirst.chain.evidence import TOKENS_MINTED, minted_units
from payfirst.chain.rpc import RpcClient
from payfirst.store.mints import ClaimedMint
from payfirst.units import Address, BlockNumber, MintId, TxHash, hex_text

# Public endpoints answer eth_getLogs over this many blocks at once.
LOG_BLOCKS_MAX = 1_000
LOG_CALLS_MAX = 50


@dataclass(frozen=True, slots=True)
class MintedBy:
    """The transaction whose log names a mint id, and its block."""

    tx_hash: TxHash
    block: BlockNumber


async def used(rpc: RpcClient, multicall3: Address, token: Address, units: Sequence[ClaimedMint]) -> set[MintId]:
    """The mint ids among `units` that `token` holds at the head; empty for a token without `hasMinted`."""
    calls = [(token, contracts.encode_has_minted(unit.mint_id)) for unit in units]
    answers = contracts.decode_aggregate3(await rpc.eth_call(to=multicall3, data=contracts.encode_aggregate3(calls)))
    return {
        unit.mint_id
        for unit, (ok, data) in zip(units, answers, strict=True)
        if ok and len(data) == 32 and data[-1] == 1
    }


async def find(
    rpc: RpcClient, token: Address, units: Sequence[ClaimedMint], *, last: BlockNumber
) -> dict[MintId, MintedBy]:
    """Which transaction minted each of `units`, by the token's own logs up to block `last`, as far as found.

    Looked for from a little before the oldest of their payments was accepted, in a bounded number of calls, and only
    among logs that name a recipient of `units`.
    """
    wanted = {unit.mint_id for unit in units}
    topics = [
        hex_text(TOKENS_MINTED),
        sorted({hex_text(bytes(12) + unit.recipient) for unit in units}),
    ]
    found: dict[MintId, MintedBy] = {}
    first = max(0, min(unit.accepted_height for unit in units) - LOG_BLOCKS_MAX)
    for start in range(first, last + 1, LOG_BLOCKS_MAX)[:LOG_CALLS_MAX]:
        end = BlockNumber(min(start + LOG_BLOCKS_MAX - 1, last))
        hashes = await rpc.logs(address=token, topics=topics, first=BlockNumber(start), last=end)
        for receipt in await rpc.receipts(hashes):
            if receipt is None or receipt.block_number > last:
                continue
            for unit in minted_units(receipt, tokens={token}):
                if unit.mint_id in wanted:
                    found[unit.mint_id] = MintedBy(receipt.tx_hash, receipt.block_number)
        if len(found) == len(wanted):
            break
    return found
