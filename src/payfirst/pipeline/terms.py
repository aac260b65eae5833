"""What the workers go by: the configuration, as bytes and numbers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from payfirst.units import Address, Wei


@dataclass(frozen=True, slots=True)
class Terms:
    """One chain, one asset, one payTo, and the limits of what is sent there."""

    network: str  # CAIP-2
    chain_id: int
    asset: Address
    asset_name: str  # of its EIP-712 domain
    asset_version: str
    pay_to: Address
    multicall3: Address
    confirmations: int  # 1: included in the head block
    final_depth: int  # blocks
    poll_s: float
    log_blocks_max: int  # of one eth_getLogs
    lag_blocks_max: int  # an endpoint further behind than this goes last
    tx_gas_max: int
    max_fee: Wei
    priority_fee: Wei
    replace_after_s: int  # of chain time, before a transaction that is not mined is bid higher
    abandon_after_s: int  # of chain time, before its account nonce is given up
    settle_mode: Literal["batch", "single"]
    settle_batch_max: int
    settle_unresolved_max: int
    linger_s: float
    mint_batch_max: int
    mint_unresolved_max: int
    mint_gas_per_unit: int
    audit_every_s: int = 600  # between two comparisons of the database with the chain
