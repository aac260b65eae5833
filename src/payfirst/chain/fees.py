"""Fees and gas limits. Pure. Sources: EIP-1559 (fees), EIP-2028 and EIP-7623 (calldata), EIP-7825 (cap)."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.units import Gas, Wei

TRANSACTION_GAS = 21_000
ZERO_BYTE_GAS = 4
NONZERO_BYTE_GAS = 16
FLOOR_ZERO_BYTE_GAS = 10
FLOOR_NONZERO_BYTE_GAS = 40

# Nodes of the geth family refuse a transaction above 128 KiB; the rest is for the envelope.
CALLDATA_BYTES_MAX = 120_000


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers for its gas, in wei a gas."""

    max_fee: Wei
    max_priority_fee: Wei


def fees_at(base_fee: Wei, *, priority_fee: Wei, max_fee_cap: Wei) -> Fees | None:
    """Fees that stay valid while the base fee doubles; None when the cap is below the base fee."""
    if base_fee + priority_fee > max_fee_cap:
        return None
    max_fee = min(2 * base_fee + priority_fee, max_fee_cap)
    return Fees(max_fee=Wei(max_fee), max_priority_fee=Wei(min(priority_fee, max_fee)))


def replacement_fees(previous: Fees, base_fee: Wei, *, priority_fee: Wei, max_fee_cap: Wei) -> Fees | None:
    """Fees for the same account nonce again; None when the cap leaves no room for a bid that nodes take as one.

    Nodes ask for both fees to be a tenth (geth) or an eighth (others) above those of the transaction in their pool.
    """
    max_fee = max(_an_eighth_more(previous.max_fee), min(2 * base_fee + priority_fee, max_fee_cap))
    tip = max(_an_eighth_more(previous.max_priority_fee), priority_fee)
    if max_fee > max_fee_cap or tip > max_fee:
        return None
    return Fees(max_fee=Wei(max_fee), max_priority_fee=Wei(tip))


def _an_eighth_more(fee: Wei) -> int:
    return max(fee + 1, -(-fee * 9 // 8))


def intrinsic_gas(calldata: bytes) -> Gas:
    """What a call costs before its first instruction."""
    zeros = calldata.count(0)
    return Gas(TRANSACTION_GAS + ZERO_BYTE_GAS * zeros + NONZERO_BYTE_GAS * (len(calldata) - zeros))


def gas_limit(calldata: bytes, *, execution_gas: int) -> Gas:
    """The limit for a call that needs `execution_gas` after its calldata was paid for."""
    zeros = calldata.count(0)
    floor = TRANSACTION_GAS + FLOOR_ZERO_BYTE_GAS * zeros + FLOOR_NONZERO_BYTE_GAS * (len(calldata) - zeros)
    return Gas(max(intrinsic_gas(calldata) + execution_gas, floor))
