"""What the workers go by: the configuration, as bytes and numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from payfirst.pipeline.confirm_plan import Caution
from payfirst.units import Address, AtomicAmount, Depth, Wei

RefundMode = Literal["off", "approve", "automatic"]

# What an operator may change in a running system.
LIVE = (
    "poll_s",
    "max_fee",
    "priority_fee",
    "settle_batch_max",
    "settle_unresolved_max",
    "linger_s",
    "mint_batch_max",
    "mint_unresolved_max",
    "settling_paused",
    "minting_paused",
)


@dataclass(slots=True)
class Terms:
    """One chain, one asset, one payTo, and the limits of what is sent there.

    One object a worker, shared by its tasks and changed by `take_up` only: what a task needs unchanged from one await
    to the next, it keeps in a variable.
    """

    network: str  # CAIP-2
    chain_id: int
    asset: Address
    asset_name: str  # of its EIP-712 domain
    asset_version: str
    pay_to: Address
    multicall3: Address
    confirmations: Depth  # 1: included in the head block
    final_depth: Depth
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
    code_payer_gas_max: int = 1_000_000  # for a payment whose payer has code
    quarantine_s: int = 3_600
    audit_every_s: int = 600  # between two comparisons of the database with the chain
    settling_paused: bool = False  # by the operator: what was sent is still watched
    minting_paused: bool = False
    refund_mode: RefundMode = "off"
    refund_amount_max: AtomicAmount | None = None  # above it a refund waits for an approval; None: none is too large
    refund_daily_max: AtomicAmount | None = None  # of all refunds in any 24 hours
    large_amount: AtomicAmount | None = None  # payments from here on wait for `large_confirmations`
    large_confirmations: Depth = "finalized"
    agree_amount: AtomicAmount | None = None  # payments from here on are credited when two endpoints agree

    def caution(self, *, two_endpoints: bool) -> Caution:
        """Which evidence is not believed as soon as it is read."""
        return Caution(self.large_amount, self.agree_amount, two_endpoints)

    @property
    def depths(self) -> tuple[Depth, ...]:
        """Every depth that is asked for here."""
        return (self.confirmations, self.final_depth, *((self.large_confirmations,) if self.large_amount else ()))

    def take_up(self, newer: Terms) -> None:
        """Go by the `LIVE` fields of `newer` from now on."""
        for name in LIVE:
            setattr(self, name, getattr(newer, name))


@dataclass(frozen=True, slots=True)
class TakenUp:
    """What a worker is to go by while the table of settings holds what it holds, and what it says of it there."""

    terms: Terms
    said_json: str


# Lays what the table holds, JSON values by setting, over the configuration of the process.
LayOver = Callable[[Mapping[str, object]], TakenUp]
