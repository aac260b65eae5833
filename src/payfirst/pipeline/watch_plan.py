"""What to do about a transaction whose outcome is not known. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from payfirst.store.attempts import InFlight
from payfirst.units import UnixTime, Wei

# A transaction that was handed to a node this recently is not looked for yet.
SILENT_S_MIN = 3.0
# Blocks pass for this long before a bid below the base fee is raised: the fee may fall again at once.
UNDERPRICED_S = 6


class Step(Enum):
    """What comes next for one transaction. None of them ever takes another account nonce."""

    WAIT = "the node has it; only a block at depth decides"
    REBROADCAST = "send the same stored bytes again"
    REPLACE = "the same call under the same nonce, at a higher fee"
    NO_OP = "give the nonce up: nothing behind it can be mined before it is"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds of chain time, an attempt may wait before it is replaced, and before it is given up."""

    replace_after_s: int
    abandon_after_s: int


def plan_in_flight(
    sent: InFlight,
    *,
    known_to_node: bool,
    is_next: bool,
    waited_s: int,
    stuck_s: int,
    chain_time: UnixTime,
    base_fee: Wei,
    patience: Patience,
) -> Step:
    """Decide for one transaction.

    `is_next`: its nonce is the signer's next on chain, so nothing but itself holds it up. `waited_s`: chain time
    since its newest bytes were sent; `stuck_s`: chain time since it became the next. A no-op is the last resort:
    for a call that can have no effect any more, and for one that no fee has brought into a block. What an operator
    has asked to be replaced waits no longer.
    """
    if is_next and not sent.is_noop and (waited_s >= UNDERPRICED_S or sent.replace_requested):
        has_ended = sent.valid_before is not None and sent.valid_before <= chain_time
        if has_ended or stuck_s >= patience.abandon_after_s:
            return Step.NO_OP
    if sent.replace_requested:
        return Step.REPLACE
    if waited_s >= UNDERPRICED_S and sent.max_fee < base_fee:
        return Step.REPLACE
    if is_next and waited_s >= patience.replace_after_s:
        return Step.REPLACE
    # A node may acknowledge a transaction and drop it without a word: found by hash, sent again.
    return Step.WAIT if known_to_node and sent.silent_s is not None else Step.REBROADCAST
