"""What proves that a payment was made, or a unit minted: event logs, never a receipt's status. Pure.

Sources: EIP-3009 (AuthorizationUsed), EIP-20 (Transfer), the token's own TokensMinted.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from payfirst.chain.blocks import Receipt
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    MintId,
    TxHash,
    keccak,
)

TRANSFER = keccak(b"Transfer(address,address,uint256)")
AUTHORIZATION_USED = keccak(b"AuthorizationUsed(address,bytes32)")
TOKENS_MINTED = keccak(b"TokensMinted(address,uint256,bytes32)")


@dataclass(frozen=True, slots=True)
class PaidTransfer:
    """One use of an authorization and the transfer that came of it."""

    payer: Address
    nonce: AuthorizationNonce
    pay_to: Address
    value: AtomicAmount
    tx_hash: TxHash
    log_index: int  # of the Transfer


@dataclass(frozen=True, slots=True)
class MintedUnit:
    """One unit that a token says it minted."""

    token: Address
    recipient: Address
    mint_id: MintId
    tx_hash: TxHash


def paid_transfers(receipt: Receipt, *, asset: Address) -> list[PaidTransfer]:
    """The transfers of `asset` that authorizations paid for, in log order.

    A Transfer counts only directly after an AuthorizationUsed of its own payer, among the asset's logs:
    so two authorizations of equal value, one spent on a self-transfer, never count one Transfer twice.
    """
    found: list[PaidTransfer] = []
    authorization: tuple[Address, AuthorizationNonce] | None = None
    for log in receipt.logs:
        if log.address != asset or not log.topics:
            continue
        if log.topics[0] == AUTHORIZATION_USED and len(log.topics) == 3:
            authorization = (Address(log.topics[1][12:]), AuthorizationNonce(log.topics[2]))
            continue
        if log.topics[0] == TRANSFER and len(log.topics) == 3 and authorization is not None:
            payer, nonce = authorization
            if log.topics[1][12:] == payer:
                found.append(
                    PaidTransfer(
                        payer=payer,
                        nonce=nonce,
                        pay_to=Address(log.topics[2][12:]),
                        value=AtomicAmount(int.from_bytes(log.data[:32], "big")),
                        tx_hash=receipt.tx_hash,
                        log_index=log.index,
                    )
                )
        authorization = None
    return found


def minted_units(receipt: Receipt, *, tokens: Container[Address]) -> list[MintedUnit]:
    """The units that any of `tokens` says it minted in this transaction, in log order."""
    return [
        MintedUnit(
            token=log.address,
            recipient=Address(log.topics[1][12:]),
            mint_id=MintId(log.data[32:64]),
            tx_hash=receipt.tx_hash,
        )
        for log in receipt.logs
        if log.address in tokens and len(log.topics) == 2 and log.topics[0] == TOKENS_MINTED
    ]
