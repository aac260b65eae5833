"""Who takes part and with how much: accounts with throw-away keys that follow from a role, the same in each run."""

from __future__ import annotations

from dataclasses import dataclass, field

from payfirst.local.chain import dev_key
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, Wei, keccak
from payfirst.x402.signing import address_of

OFFICIAL_BUYERS = 20
EMPTY_ACCOUNTS = 10
BURST_PAYERS = 1_000

PRICE = AtomicAmount(10_000)  # 0.01 USDC
BUYER_FUNDS = AtomicAmount(100 * 10**6)
BURST_FUNDS = AtomicAmount(10**6)
GAS_FUNDS = Wei(100 * 10**18)


@dataclass(frozen=True, slots=True)
class Person:
    """An account and its key."""

    key: bytes = field(repr=False)
    address: Address


def person(role: str) -> Person:
    """The account of a role on the local chain."""
    key = dev_key(f"demo {role}")
    return Person(key, address_of(key))


def people(role: str, count: int) -> list[Person]:
    """`count` accounts of one role."""
    return [person(f"{role} {number}") for number in range(1, count + 1)]


def nonce(role: str, number: int) -> AuthorizationNonce:
    """An authorization nonce: another for each role and number."""
    return AuthorizationNonce(keccak(f"payfirst demo: {role} {number}".encode()))
