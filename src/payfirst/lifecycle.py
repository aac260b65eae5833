"""The one table of what may become what. Pure; every UPDATE of a status is tested against it.

The state diagrams in ARCHITECTURE.md are drawn from here: `python -m payfirst.lifecycle`.
"""

from __future__ import annotations

import enum


class PaymentStatus(enum.StrEnum):
    """`payment_queue.status`; `completed` means paid."""

    PENDING = "pending"
    SENT = "sent"
    COMPLETED = "completed"
    FAILED = "failed"


class Finality(enum.StrEnum):
    """`payment_queue.finality`: how firmly the chain holds a completed payment."""

    OPEN = "open"
    REORGED = "reorged"
    FINAL = "final"
    LOST = "lost"


class MintStatus(enum.StrEnum):
    """`mint_queue.status`."""

    PENDING = "pending"
    SENT = "sent"
    COMPLETED = "completed"
    OWED = "owed"


class TransactionState(enum.StrEnum):
    """`chain_transactions.state`."""

    SENT = "sent"
    CONFIRMED = "confirmed"
    FINAL = "final"
    DISPLACED = "displaced"


class RefundStatus(enum.StrEnum):
    """`refunds.status`; `completed` means that the chain shows the beneficiary's money."""

    WAITING = "waiting"
    APPROVED = "approved"
    SENT = "sent"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    IMPOSSIBLE = "impossible"


class PaymentEvent(enum.StrEnum):
    """What can happen to a payment."""

    STORED_FOR_BROADCAST = "signed bytes stored"
    TRANSFER_CONFIRMED = "transfer at depth"
    REVERTED_AT_DEPTH = "item reverted at depth"
    FAULT_SEEN_TWICE = "payer's fault at two blocks"
    SOLD_OUT = "sold out before sending"
    EXPIRED_AT_DEPTH = "expired at depth"
    WITHDRAWN_BY_OPERATOR = "operator's rollback"
    CANCELLED_UNSENT = "operator fails it unsent"


class MintEvent(enum.StrEnum):
    """What can happen to one unit that is to be minted."""

    STORED_FOR_BROADCAST = "signed bytes stored"
    MINT_CONFIRMED = "mint id at depth"
    NOT_IN_BLOCK = "transaction at depth without it"
    UNDELIVERABLE = "cannot be delivered"
    TRIED_AGAIN = "operator tries again"
    REORGED_AWAY = "reorg took it"


class FinalityEvent(enum.StrEnum):
    """What can happen to the transfer of a completed payment."""

    REORGED_AWAY = "reorg took it"
    TRANSFER_CONFIRMED = "transfer at depth"
    FINALIZED = "block final"
    EXPIRED_AT_DEPTH = "expired at depth"


class TransactionEvent(enum.StrEnum):
    """What can happen to a signed transaction of ours."""

    MINED_AT_DEPTH = "mined at depth"
    REORGED_AWAY = "reorg took it"
    FINALIZED = "block final"
    NONCE_USED_BY_OTHER = "another transaction used the nonce"


class RefundEvent(enum.StrEnum):
    """What can happen to a refund."""

    APPROVED = "approved"
    STORED_FOR_BROADCAST = "signed bytes stored"
    TRANSFER_CONFIRMED = "transfer at depth"
    NOT_IN_BLOCK = "transaction at depth without it"
    REORGED_AWAY = "reorg took it"
    DEBT_ENDED = "debt ended otherwise"
    VOID_FOR_GOOD = "authorization used up unpaid"
    OWED_AGAIN = "owed again"


class IllegalTransition(ValueError):
    """A state has no such event: a fault of the program, never of the payer."""


PAYMENT: dict[tuple[PaymentStatus, PaymentEvent], PaymentStatus] = {
    (PaymentStatus.PENDING, PaymentEvent.STORED_FOR_BROADCAST): PaymentStatus.SENT,
    (PaymentStatus.PENDING, PaymentEvent.FAULT_SEEN_TWICE): PaymentStatus.FAILED,
    (PaymentStatus.PENDING, PaymentEvent.SOLD_OUT): PaymentStatus.FAILED,
    (PaymentStatus.PENDING, PaymentEvent.EXPIRED_AT_DEPTH): PaymentStatus.FAILED,
    (PaymentStatus.PENDING, PaymentEvent.CANCELLED_UNSENT): PaymentStatus.FAILED,
    # Anyone may submit an authorization, so the money can come before we sent it and after we gave up.
    (PaymentStatus.PENDING, PaymentEvent.TRANSFER_CONFIRMED): PaymentStatus.COMPLETED,
    (PaymentStatus.SENT, PaymentEvent.TRANSFER_CONFIRMED): PaymentStatus.COMPLETED,
    (PaymentStatus.FAILED, PaymentEvent.TRANSFER_CONFIRMED): PaymentStatus.COMPLETED,
    (PaymentStatus.SENT, PaymentEvent.REVERTED_AT_DEPTH): PaymentStatus.PENDING,
    (PaymentStatus.SENT, PaymentEvent.WITHDRAWN_BY_OPERATOR): PaymentStatus.FAILED,
}

MINT: dict[tuple[MintStatus, MintEvent], MintStatus] = {
    (MintStatus.PENDING, MintEvent.STORED_FOR_BROADCAST): MintStatus.SENT,
    (MintStatus.PENDING, MintEvent.UNDELIVERABLE): MintStatus.OWED,
    (MintStatus.PENDING, MintEvent.MINT_CONFIRMED): MintStatus.COMPLETED,
    (MintStatus.SENT, MintEvent.MINT_CONFIRMED): MintStatus.COMPLETED,
    (MintStatus.OWED, MintEvent.MINT_CONFIRMED): MintStatus.COMPLETED,
    (MintStatus.OWED, MintEvent.TRIED_AGAIN): MintStatus.PENDING,
    (MintStatus.SENT, MintEvent.NOT_IN_BLOCK): MintStatus.PENDING,
    (MintStatus.COMPLETED, MintEvent.REORGED_AWAY): MintStatus.SENT,
}

FINALITY: dict[tuple[Finality, FinalityEvent], Finality] = {
    (Finality.OPEN, FinalityEvent.REORGED_AWAY): Finality.REORGED,
    (Finality.OPEN, FinalityEvent.FINALIZED): Finality.FINAL,
    (Finality.REORGED, FinalityEvent.TRANSFER_CONFIRMED): Finality.OPEN,
    (Finality.REORGED, FinalityEvent.EXPIRED_AT_DEPTH): Finality.LOST,
}

TRANSACTION: dict[tuple[TransactionState, TransactionEvent], TransactionState] = {
    (TransactionState.SENT, TransactionEvent.MINED_AT_DEPTH): TransactionState.CONFIRMED,
    (TransactionState.SENT, TransactionEvent.NONCE_USED_BY_OTHER): TransactionState.DISPLACED,
    (TransactionState.CONFIRMED, TransactionEvent.REORGED_AWAY): TransactionState.SENT,
    (TransactionState.CONFIRMED, TransactionEvent.FINALIZED): TransactionState.FINAL,
}

REFUND: dict[tuple[RefundStatus, RefundEvent], RefundStatus] = {
    (RefundStatus.WAITING, RefundEvent.APPROVED): RefundStatus.APPROVED,
    (RefundStatus.APPROVED, RefundEvent.STORED_FOR_BROADCAST): RefundStatus.SENT,
    (RefundStatus.SENT, RefundEvent.TRANSFER_CONFIRMED): RefundStatus.COMPLETED,
    # The row was lost and made again, or anyone else submitted the authorization: what the chain shows is done.
    (RefundStatus.WAITING, RefundEvent.TRANSFER_CONFIRMED): RefundStatus.COMPLETED,
    (RefundStatus.APPROVED, RefundEvent.TRANSFER_CONFIRMED): RefundStatus.COMPLETED,
    (RefundStatus.SENT, RefundEvent.NOT_IN_BLOCK): RefundStatus.APPROVED,
    (RefundStatus.COMPLETED, RefundEvent.REORGED_AWAY): RefundStatus.SENT,
    (RefundStatus.WAITING, RefundEvent.DEBT_ENDED): RefundStatus.CANCELLED,
    (RefundStatus.APPROVED, RefundEvent.DEBT_ENDED): RefundStatus.CANCELLED,
    # Cancelled with the treasury's key, or used for another payee: it pays nobody, and a person settles the debt.
    (RefundStatus.APPROVED, RefundEvent.VOID_FOR_GOOD): RefundStatus.IMPOSSIBLE,
    (RefundStatus.IMPOSSIBLE, RefundEvent.DEBT_ENDED): RefundStatus.CANCELLED,
    (RefundStatus.CANCELLED, RefundEvent.OWED_AGAIN): RefundStatus.WAITING,
}


def next_payment(status: PaymentStatus, event: PaymentEvent) -> PaymentStatus:
    """The status that follows. Raises IllegalTransition where the table has none."""
    try:
        return PAYMENT[status, event]
    except KeyError:
        raise IllegalTransition(f"a {status} payment cannot see: {event}") from None


def next_mint(status: MintStatus, event: MintEvent) -> MintStatus:
    """The status that follows. Raises IllegalTransition where the table has none."""
    try:
        return MINT[status, event]
    except KeyError:
        raise IllegalTransition(f"a {status} mint cannot see: {event}") from None


def mermaid() -> str:
    """The tables as Mermaid state diagrams, in Markdown."""
    tables: tuple[tuple[str, dict[tuple[enum.StrEnum, enum.StrEnum], enum.StrEnum]], ...] = (
        ("payment_queue.status", {(a, e): b for (a, e), b in PAYMENT.items()}),
        ("payment_queue.finality", {(a, e): b for (a, e), b in FINALITY.items()}),
        ("mint_queue.status", {(a, e): b for (a, e), b in MINT.items()}),
        ("chain_transactions.state", {(a, e): b for (a, e), b in TRANSACTION.items()}),
        ("refunds.status", {(a, e): b for (a, e), b in REFUND.items()}),
    )
    parts = []
    for title, table in tables:
        lines = [f"**{title}**", "", "```mermaid", "stateDiagram-v2"]
        lines += [f"    {before} --> {after}: {event}" for (before, event), after in table.items()]
        parts.append("\n".join([*lines, "```"]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(mermaid(), end="")
