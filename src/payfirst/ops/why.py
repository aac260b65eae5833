"""Why one payment is where it is, and what happens next, in plain words. Pure: rows in, one verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus, TransactionState
from payfirst.store.signers import EMPTY, Purpose
from payfirst.store.story import Carrier, ChainRow, Payment, SignerRow, Story, Surroundings, Unit
from payfirst.units import AtomicAmount, Depth, format_units

# As admission and the settler have it: an older sight of the chain is none, and what ends sooner is not sent.
HEAD_SEEN_S_MAX = 30
SEND_MARGIN_S = 6
# Blocks by which confirming may be behind before that is the reason.
BEHIND_BLOCKS_MIN = 10
STUCK_S = 300


class Standing(StrEnum):
    """How a payment stands; only `stuck` wants somebody to act."""

    DONE = "done"
    MOVING = "moving"
    WAITING = "waiting"
    STUCK = "stuck"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` it is where it is; `next` is what happens by itself, or what to type."""

    standing: Standing
    why: str
    next: str

    def __str__(self) -> str:
        return f"{self.standing}: {self.why}. {self.next}"


@dataclass(frozen=True, slots=True)
class Limits:
    """The configured limits that make something wait."""

    max_fee_wei: int
    priority_fee_wei: int
    confirmations: Depth
    final_depth: Depth
    replace_after_s: int
    settle_unresolved_max: int
    mint_unresolved_max: int
    paused: frozenset[Purpose] = frozenset()  # by the operator: nothing of this purpose is signed

    def unresolved_max(self, purpose: Purpose) -> int:
        """Transactions that a signer may have on their way."""
        return self.settle_unresolved_max if purpose == "settle" else self.mint_unresolved_max


def why(story: Story, around: Surroundings, limits: Limits) -> Verdict:
    """The verdict on one payment."""
    payment = story.payment
    if payment.status is PaymentStatus.FAILED:
        return _failed(story, around)
    if payment.status is PaymentStatus.COMPLETED:
        return _completed(story, around, limits)
    chain = around.chain
    if (blind := _blind(around)) is not None or chain is None:
        return blind or _NOBODY
    if payment.status is PaymentStatus.SENT:
        return _sent(story, around, chain, limits)
    return _pending(story, around, chain, limits)


_NOBODY = Verdict(Standing.STUCK, "no worker has ever seen the chain", "Start one: payfirst work (or payfirst up)")


def _blind(around: Surroundings) -> Verdict | None:
    """What keeps everything from moving."""
    if around.chain is None:
        return _NOBODY
    seen_age_s = around.chain.seen_age_s
    if around.workers == 0:
        return Verdict(
            Standing.STUCK,
            f"no worker is alive; the chain was last looked at {span(seen_age_s)} ago",
            "Start one: payfirst work (or payfirst up)",
        )
    if seen_age_s > HEAD_SEEN_S_MAX:
        return Verdict(
            Standing.STUCK,
            f"the workers have not reached the chain for {span(seen_age_s)}",
            "Check network.rpc_urls; all goes on by itself when an endpoint answers",
        )
    return None


# ---- pending --------------------------------------------------------------------------------------


def _pending(story: Story, around: Surroundings, chain: ChainRow, limits: Limits) -> Verdict:
    payment = story.payment
    if payment.valid_before <= chain.cursor_time:
        return Verdict(
            Standing.MOVING,
            f"its authorization ended {span(chain.cursor_time - payment.valid_before)} ago, unsettled",
            "It fails at the next look, unless its use is found on chain",
        )
    if payment.held_reason is not None:
        left = span(payment.valid_before - chain.head_time)
        return Verdict(
            Standing.WAITING,
            f"held by an operator: {payment.held_reason}; its authorization ends in {left}",
            f"Type: payfirst payments release {payment.id}",
        )
    if payment.valid_before <= chain.head_time + SEND_MARGIN_S:
        return Verdict(
            Standing.WAITING,
            "its authorization ends too soon to be sent",
            "It fails when a confirmed block is past its end",
        )
    if (cannot := _cannot_sign("settle", around, chain, limits)) is not None:
        return cannot
    if (now := _claimed_or_postponed(story.payment, around)) is not None:
        return now
    if (full := _full("settle", around, limits)) is not None:
        return full
    ahead = story.ahead or 0
    line = "it is next in the queue" if ahead == 0 else f"{ahead} payments are before it in the queue"
    return Verdict(Standing.MOVING, line, "The next rounds of the settle signers take it")


def _claimed_or_postponed(row: Payment | Unit, around: Surroundings) -> Verdict | None:
    """A payment or a unit that is in somebody's hands, or was given back for a while."""
    if row.lease_until is not None and row.lease_until > around.now:
        return Verdict(
            Standing.MOVING,
            f"claimed by signer {row.lease_owner}, which is making its transaction",
            f"It is sent now, or is due again within {span((row.lease_until - around.now).total_seconds())}",
        )
    if row.error is None or row.next_attempt_at is None:
        return None
    said = row.error.rstrip(".")
    if isinstance(row, Payment) and row.suspected_code is not None:
        return Verdict(
            Standing.WAITING,
            f"suspected of {row.suspected_code} since block {row.suspected_height}: {said}",
            "It is looked at again in the next block, and fails if that says the same",
        )
    wait_s = (row.next_attempt_at - around.now).total_seconds()
    when = f"in {span(wait_s)}" if wait_s > 0 else "now"
    return Verdict(Standing.WAITING, f"postponed after {row.attempts} tries: {said}", f"It is tried again {when}")


# ---- sent -----------------------------------------------------------------------------------------


def _sent(story: Story, around: Surroundings, chain: ChainRow, limits: Limits) -> Verdict:
    carrier = _on_its_way(story.carriers, purpose="settle")
    if carrier is None:
        return Verdict(
            Standing.STUCK,
            "no transaction on its way carries it any more, and no evidence has settled it",
            "Compare the database with the chain: an authorization that was used is credited, another one can be sent",
        )
    return _carried(carrier, around, chain, limits, valid_before=story.payment.valid_before)


def _on_its_way(carriers: Sequence[Carrier], *, purpose: Purpose) -> Carrier | None:
    live = [c for c in carriers if c.state is TransactionState.SENT and c.purpose == purpose]
    return live[-1] if live else None


def _carried(
    carrier: Carrier, around: Surroundings, chain: ChainRow, limits: Limits, *, valid_before: int | None
) -> Verdict:
    """Why a transaction is not confirmed: what is in its way comes first, then what is wrong with its own bytes."""
    if carrier.waiting_block is not None:
        return Verdict(
            Standing.WAITING,
            f"its transaction was seen in block {carrier.waiting_block}, and by its amount it waits for more depth"
            " (network.large_confirmations) or for a second endpoint to agree (payments.agree_amount)",
            "It is confirmed by itself; if it takes longer, look for rpc_disagreement and evidence_waits in the"
            " workers' log",
        )
    signer = next((s for s in around.signers if s.address == carrier.signer), None)
    nonce, newest = carrier.account_nonce, carrier.newest
    if signer is not None and signer.paused_reason is not None:
        return _paused(signer, f"its transaction (nonce {nonce}) is out, and")
    if signer is None or not signer.held:
        return Verdict(
            Standing.STUCK,
            f"its transaction (nonce {nonce}) is out, and no worker holds its signer {carrier.signer}",
            "Start a worker that has this key; until then payfirst payments reset-stuck sends the stored bytes again",
        )
    behind = _blocks_to_read(chain, limits.confirmations)
    if behind >= BEHIND_BLOCKS_MIN:
        return Verdict(
            Standing.WAITING,
            f"confirming is {behind} blocks behind the chain's head (at {chain.cursor_height} of {chain.head_height})",
            "It catches up by itself; if the number does not fall, look for confirm_postponed in the workers' log",
        )
    if carrier.lowest_unresolved is not None and carrier.lowest_unresolved < nonce:
        before = carrier.lowest_unresolved
        return Verdict(
            _late(carrier, around),
            f"nonce {before} of the same signer, before its own {nonce}, is not mined yet",
            f"The worker looks after nonce {before}; to have it done now: payfirst payments reset-stuck",
        )
    if newest.broadcast_count == 0:
        return Verdict(Standing.MOVING, f"its transaction (nonce {nonce}) is stored", "It is being handed to the node")
    if newest.is_noop:
        return Verdict(
            Standing.WAITING,
            f"its account nonce {nonce} is being given up with a no-op",
            "What it carried is sent again under another nonce, or fails, once one of its hashes is mined",
        )
    if valid_before is not None and valid_before <= chain.head_time:
        return Verdict(
            Standing.WAITING,
            f"its authorization ended {span(chain.head_time - valid_before)} ago, before nonce {nonce} was mined",
            "A no-op takes the nonce, and then the payment fails without any money having moved",
        )
    return _waits_for_a_block(carrier, around, chain, limits)


def _blocks_to_read(chain: ChainRow, confirmations: Depth) -> int:
    if isinstance(confirmations, int):
        return chain.head_height - confirmations + 1 - chain.cursor_height
    return (chain.confirmable_height or chain.cursor_height) - chain.cursor_height


def _confirmed_means(confirmations: Depth) -> str:
    return f"{confirmations} blocks" if isinstance(confirmations, int) else f"in a {confirmations} block"


def _waits_for_a_block(carrier: Carrier, around: Surroundings, chain: ChainRow, limits: Limits) -> Verdict:
    nonce, newest = carrier.account_nonce, carrier.newest
    bid, base = int(newest.max_fee_wei), int(chain.base_fee_wei or 0)
    age_s = (around.now - newest.created_at).total_seconds()
    if bid < base:
        says = f"it waits for the base fee: nonce {nonce} bids {gwei(bid)} gwei, the base fee is {gwei(base)}"
        if -(-bid * 9 // 8) > limits.max_fee_wei:
            return Verdict(
                Standing.STUCK,
                f"{says}, and network.max_fee_gwei ({gwei(limits.max_fee_wei)}) leaves no room for a higher bid",
                "It is mined when the base fee falls; or raise it: payfirst settings set network.max_fee_gwei",
            )
        return Verdict(_late(carrier, around), says, "The worker that holds its signer bids higher within seconds")
    if carrier.replace_requested_at is not None:
        return Verdict(
            Standing.MOVING,
            f"an operator has asked for a replacement of nonce {nonce}",
            "The worker that holds its signer makes it within seconds",
        )
    said = "" if newest.last_error is None else f"; the node said last: {newest.last_error}"
    if age_s < limits.replace_after_s and newest.last_error is None:
        return Verdict(
            Standing.MOVING,
            f"sent {span(age_s)} ago with nonce {nonce}, the next of its signer, at {gwei(bid)} gwei",
            f"A block takes it; confirmed means {_confirmed_means(limits.confirmations)}",
        )
    return Verdict(
        _late(carrier, around),
        f"nonce {nonce} is its signer's next and bids {gwei(bid)} gwei over a base fee of {gwei(base)}, yet no block"
        f" has taken it for {span(age_s)}{said}",
        f"The worker bids higher every {limits.replace_after_s} s; to have it done now: payfirst payments reset-stuck",
    )


def _late(carrier: Carrier, around: Surroundings) -> Standing:
    age_s = (around.now - carrier.created_at).total_seconds()
    return Standing.STUCK if age_s > STUCK_S else Standing.WAITING


# ---- completed ------------------------------------------------------------------------------------


def _completed(story: Story, around: Surroundings, limits: Limits) -> Verdict:
    payment, units = story.payment, story.units
    if payment.finality is Finality.LOST:
        return Verdict(
            Standing.STUCK,
            "a reorg took its transfer, and its authorization ended before it could be sent again",
            "It is owed to the seller: payfirst owed list",
        )
    if payment.finality is Finality.REORGED:
        return Verdict(
            Standing.WAITING,
            "a reorg took its transfer; units that are not sent yet wait for its return",
            "The same bytes are being sent again; if its authorization ends first, it is lost and owed to the seller",
        )
    left = [u for u in units if u.status in (MintStatus.PENDING, MintStatus.SENT)]
    if not left:
        return _ended(story, around, limits)
    count = f"paid; {len(left)} of {len(units)} units are not minted yet: "
    chain = around.chain
    if (blind := _blind(around)) is not None or chain is None:
        return _prefixed(count, blind or _NOBODY)
    waiting = next((u for u in left if u.status is MintStatus.PENDING), None)
    carrier = _on_its_way(story.carriers, purpose="mint")
    if waiting is not None:
        return _prefixed(count, _unit_pending(story, waiting, around, chain, limits))
    if carrier is None:
        return Verdict(
            Standing.STUCK,
            f"{count}no transaction on its way carries them, and no evidence has settled them",
            "Compare the database with the chain: a mint id that the token holds is completed",
        )
    return _prefixed(count, _carried(carrier, around, chain, limits, valid_before=None))


def _unit_pending(story: Story, unit: Unit, around: Surroundings, chain: ChainRow, limits: Limits) -> Verdict:
    payment = story.payment
    if payment.held_reason is not None or unit.held_reason is not None:
        subject, reason = (payment.id, payment.held_reason) if payment.held_reason else (unit.id, unit.held_reason)
        return Verdict(Standing.WAITING, f"held by an operator: {reason}", f"Type: payfirst payments release {subject}")
    if (cannot := _cannot_sign("mint", around, chain, limits)) is not None:
        return cannot
    token = around.tokens.get(payment.token_address)
    if token is not None and token.held_reason is not None:
        return Verdict(
            Standing.STUCK,
            f"token held: it refuses to mint: {token.held_reason}",
            "It is tried again at least every minute. Check the token's pause and the mint signer's MINTER_ROLE;"
            " then payfirst mints retry tries at once",
        )
    if (now := _claimed_or_postponed(unit, around)) is not None:
        return now
    if (full := _full("mint", around, limits)) is not None:
        return full
    return Verdict(Standing.MOVING, "they are due", "The next rounds of the mint signers take them")


def _ended(story: Story, around: Surroundings, limits: Limits) -> Verdict:
    payment, units = story.payment, story.units
    undelivered = [u for u in units if u.status is MintStatus.OWED]
    open_debts = [d for d in story.debts if d.status == "open" and d.direction == "to_buyer"]
    if undelivered and open_debts:
        ids = " ".join(str(d.id) for d in open_debts[:3])
        return Verdict(
            Standing.STUCK,
            f"paid; {len(undelivered)} of {len(units)} units are owed to the buyer: {undelivered[0].error}",
            f"If there is supply again: payfirst mints retry {undelivered[0].id}."
            f" If you refund by hand: payfirst owed resolve {ids} --note",
        )
    what = f"paid in block {payment.settled_block}, "
    if undelivered:
        how = next((d.note or d.status for d in story.debts if d.status != "open"), "settled")
        what += f"{len(units) - len(undelivered)} units minted, {len(undelivered)} owed and settled ({how})"
    else:
        what += f"all {len(units)} units minted"
    if payment.finality is Finality.FINAL or payment.archived_at is not None:
        return Verdict(Standing.DONE, f"{what}, final", "Nothing more happens")
    chain = around.chain
    if isinstance(limits.final_depth, int):
        blocks = 0 if chain is None else (payment.settled_block or 0) + limits.final_depth - chain.cursor_height
        soon = f"in about {blocks} blocks" if blocks > 0 else "at the next look"
    else:
        soon = f"once nodes call its block {limits.final_depth}"
    return Verdict(Standing.DONE, what, f"It becomes final {soon}; until then a reorg is watched for")


# ---- failed ---------------------------------------------------------------------------------------


def _failed(story: Story, around: Surroundings) -> Verdict:
    payment = story.payment
    says = f"{payment.error_code or 'failed by hand'}: {payment.error or 'no reason was given'}".rstrip(".")
    chain = around.chain
    if chain is not None and payment.valid_before > chain.cursor_time:
        left = span(payment.valid_before - chain.cursor_time)
        return Verdict(
            Standing.FAILED, says, f"It is watched for {left} more: if the money comes after all, it is credited"
        )
    return Verdict(Standing.FAILED, says, "Its authorization has ended: nothing more happens")


# ---- signers and fees -----------------------------------------------------------------------------


def _cannot_sign(purpose: Purpose, around: Surroundings, chain: ChainRow, limits: Limits) -> Verdict | None:
    """Why nobody can send anything of this purpose now."""
    if purpose in limits.paused:
        setting = "pause.settling" if purpose == "settle" else "pause.minting"
        return Verdict(
            Standing.WAITING, f"the operator has paused it ({setting})", f"Type: payfirst settings unset {setting}"
        )
    base = None if chain.base_fee_wei is None else int(chain.base_fee_wei)
    if base is not None and base + limits.priority_fee_wei > limits.max_fee_wei:
        return Verdict(
            Standing.WAITING,
            f"it waits for the base fee: {gwei(base)} gwei now, network.max_fee_gwei is {gwei(limits.max_fee_wei)}",
            "It is sent when the base fee falls; or raise it: payfirst settings set network.max_fee_gwei",
        )
    signers = [s for s in around.signers if s.purpose == purpose]
    if any(s.held and s.paused_reason is None for s in signers):
        return None
    if not signers:
        return Verdict(
            Standing.STUCK, f"no {purpose} signer was ever used here", "Start a worker that has one: payfirst work"
        )
    paused = next((s for s in signers if s.paused_reason is not None), None)
    if paused is not None:
        return _paused(paused, f"no {purpose} signer can sign:")
    return Verdict(
        Standing.STUCK,
        f"no worker holds a {purpose} signer ({', '.join(s.address for s in signers)})",
        "Start a worker that has one of these keys; payfirst signers list shows them",
    )


def _paused(signer: SignerRow, lead: str) -> Verdict:
    reason = signer.paused_reason or ""
    if reason.startswith(EMPTY):
        return Verdict(
            Standing.STUCK,
            f"{lead} its signer rests: {reason}",
            f"Send {signer.address} gas money; it goes on by itself",
        )
    return Verdict(
        Standing.STUCK,
        f"{lead} signer {signer.address} is paused: {reason}",
        f"Type: payfirst signers resume {signer.address}",
    )


def _full(purpose: Purpose, around: Surroundings, limits: Limits) -> Verdict | None:
    """Every signer that could take it has all it may have on its way."""
    able = [s for s in around.signers if s.purpose == purpose and s.held and s.paused_reason is None]
    if not able or any(s.unresolved < limits.unresolved_max(purpose) for s in able):
        return None
    first = able[0]
    return Verdict(
        Standing.WAITING,
        f"the {purpose} signers have {sum(s.unresolved for s in able)} transactions on their way, as many as they may;"
        f" nonce {first.lowest_nonce} of {first.address} is the first that is not mined",
        "It is taken when a block makes room",
    )


def _prefixed(words: str, verdict: Verdict) -> Verdict:
    return Verdict(verdict.standing, words + verdict.why, verdict.next)


def gwei(wei: int | Decimal) -> str:
    """An amount of wei in gwei."""
    return format_units(AtomicAmount(int(wei)), decimals=9)


def span(seconds: float) -> str:
    """A length of time in the largest unit that says enough: 45 s, 12 min, 3 h, 2 d."""
    whole = max(0, round(seconds))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
