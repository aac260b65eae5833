"""What to do about a transaction that an operator calls stuck, once the chain was asked about it. Pure.

Nothing here ever takes another account nonce: stored bytes are sent again, or other bytes are asked for under the
same one, so whichever is mined, it is mined once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store.resetting import Unresolved
from payfirst.units import AccountNonce, BlockNumber, TxHash, Wei, hex_text


@dataclass(frozen=True, slots=True)
class Mined:
    """The block in which one of a transaction's hashes was found."""

    hash: TxHash
    block: BlockNumber


@dataclass(frozen=True, slots=True)
class ChainView:
    """What the chain says of one transaction.

    `account_nonce` is the signer's next on chain; `known` whether a node has its newest bytes.
    """

    head: BlockNumber
    base_fee: Wei
    account_nonce: AccountNonce
    mined: Mined | None
    known: bool


@dataclass(frozen=True, slots=True)
class ResetStep:
    """What was found, in a sentence; whether the stored bytes go out again, and whether a replacement is asked for."""

    found: str
    send_again: bool = False
    replace: bool = False
    advice: str | None = None


def plan_reset(
    sent: Unresolved,
    view: ChainView,
    *,
    stored_nonces: Sequence[AccountNonce],
    cursor: BlockNumber,
    confirmations: int,
) -> ResetStep:
    """Decide for one transaction; `stored_nonces` are those that its signer has unresolved here."""
    if view.mined is not None:
        return _mined(view.mined, view.head, waits=sent.waits, cursor=cursor, confirmations=confirmations)
    nonce, following = sent.nonce, view.account_nonce
    if following > nonce:
        # A receipt that is missing proves nothing: an endpoint may lag behind another one.
        return ResetStep(
            f"the chain has used account nonce {nonce}, and no node shows a receipt of any of its"
            f" {len(sent.attempts)} hashes",
            advice="If this stays so, another program signs with this key, or the database is older than the chain:"
            " stop whatever else uses the key, and compare the database with the chain",
        )
    if following < nonce:
        return _behind(sent, view, stored_nonces)
    if not view.known:
        return ResetStep(f"nonce {nonce} is the signer's next, and no node has it (any more)", send_again=True)
    newest = sent.attempts[-1]
    if newest.max_fee < view.base_fee:
        return ResetStep(
            f"nonce {nonce} is the signer's next; it bids {newest.max_fee} wei a gas, and the base fee is"
            f" {view.base_fee}",
            replace=True,
        )
    return ResetStep(
        f"nonce {nonce} is the signer's next, a node has it, its bid is above the base fee, and no block takes it",
        send_again=True,
        replace=True,
    )


def _mined(mined: Mined, head: BlockNumber, *, waits: bool, cursor: BlockNumber, confirmations: int) -> ResetStep:
    where = f"mined in block {mined.block} under {hex_text(mined.hash)}"
    missing = mined.block + confirmations - 1 - head
    if missing > 0:
        return ResetStep(f"{where}: {missing} more blocks until it counts as confirmed")
    if cursor < mined.block:
        return ResetStep(f"{where}: the workers have read the chain up to {cursor} and come by there")
    if waits:
        return ResetStep(f"{where}: by its amount it waits for more depth, or for a second endpoint to agree")
    return ResetStep(
        f"{where}, which the workers have read",
        advice="Look again in a few seconds; if it stays so, compare the database with the chain",
    )


def _behind(sent: Unresolved, view: ChainView, stored_nonces: Sequence[AccountNonce]) -> ResetStep:
    following = view.account_nonce
    says = f"nonce {sent.nonce} waits for nonce {following} of the same signer"
    if following not in stored_nonces:
        return ResetStep(
            f"{says}, which this database has not on its way",
            send_again=not view.known,
            advice="If this stays so, a worker's node lags, or the database is older than the chain:"
            " compare the database with the chain",
        )
    return ResetStep(f"{says}, which is looked after first", send_again=not view.known)
