"""Who burned a transaction's gas: payers whose account had code when it was mined. They are set apart for a while.

An account may get code (EIP-7702) after its pre-flight, and lose it again before the next: its own gas shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.chain.failover import Call
from payfirst.chain.rpc import RpcClient
from payfirst.ops import metrics
from payfirst.ops.log import get_logger
from payfirst.pipeline.confirm_plan import BlockEvidence, BlockPlan, Mined
from payfirst.pipeline.terms import Terms
from payfirst.store import wallets
from payfirst.store.database import Connection
from payfirst.units import Address, BlockHash, TxHash, hex_text

# A transaction that used so much of its gas ran out of it somewhere: what is set aside leaves a sixth.
RAN_OUT_NUMERATOR, RAN_OUT_DENOMINATOR = 9, 10

log = get_logger()


@dataclass(frozen=True, slots=True)
class Burned:
    """A transaction that ran out of gas, and those of its payers that have code; `alone`: it carried one payment."""

    tx_hash: TxHash
    payers: tuple[Address, ...]
    alone: bool
    gas_used: int


def ran_out(mined: Mined) -> bool:
    """Whether a transaction of payments used all but a little of its gas."""
    limit = mined.known.gas_limit
    return (
        mined.known.purpose == "settle"
        and limit > 0
        and mined.receipt.gas_used * RAN_OUT_DENOMINATOR >= limit * RAN_OUT_NUMERATOR
    )


async def find(rpc: RpcClient, plan: BlockPlan, evidence: BlockEvidence, *, state: BlockHash | str) -> list[Burned]:
    """Look up the code of those whom a transaction without gas left did not serve. Raises RetriedError."""
    returned = set(plan.returned_payments)
    found: list[Burned] = []
    for mined in evidence.mined:
        payers = list({item.payer: None for item in mined.payments if item.payment_id in returned})
        if not payers or not ran_out(mined):
            continue
        at = state if isinstance(state, str) else {"blockHash": hex_text(state)}
        codes = await rpc.batch([Call("eth_getCode", (hex_text(p), at)) for p in payers], result=str)
        with_code = tuple(p for p, code in zip(payers, codes, strict=True) if len(code) > 2)
        found.append(Burned(mined.receipt.tx_hash, with_code, len(mined.payments) == 1, mined.receipt.gas_used))
    return found


async def write(connection: Connection, burned: list[Burned], *, terms: Terms) -> None:
    """Set the payers apart, in the commit that returns their payments."""
    for one in burned:
        if one.payers:
            await wallets.quarantine(
                connection, network=terms.network, payers=one.payers, burned=one.alone, for_s=terms.quarantine_s
            )


def report(burned: list[Burned]) -> None:
    """Say it, after the commit."""
    for one in burned:
        metrics.BATCHES_BURNED.add()
        log.warning(
            "gas_burned",
            message=f"A transaction of payments ran out of gas ({one.gas_used}); its payments go again in smaller ones."
            + (
                f" Set apart, for their accounts have code: {', '.join(map(hex_text, one.payers))}"
                if one.payers
                else ""
            ),
            tx_hash=hex_text(one.tx_hash),
            payers=[hex_text(p) for p in one.payers],
            alone=one.alone,
        )
