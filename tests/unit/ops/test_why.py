"""Why a payment is late, in plain words: one verdict for each reason, and what to do about it."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus, TransactionState
from payfirst.ops.timeline import timeline
from payfirst.ops.why import Limits, Standing, span, why
from payfirst.store.story import (
    Attempt,
    Carrier,
    ChainRow,
    Entry,
    Item,
    OwedRow,
    Payment,
    SignerRow,
    Story,
    Surroundings,
    TokenRow,
    Unit,
)

GWEI = 10**9
NOW = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.UTC)
CHAIN_TIME = int(NOW.timestamp())
ID, QUEUE_ID = uuid.UUID(int=1), uuid.UUID(int=2)
TOKEN, SETTLER, MINTER = "0x" + "aa" * 20, "0x" + "bb" * 20, "0x" + "cc" * 20
HASH = "0x" + "11" * 32
LIMITS = Limits(
    max_fee_wei=50 * GWEI, priority_fee_wei=GWEI // 1000, confirmations=1, final_depth=64, replace_after_s=30,
    settle_unresolved_max=16, mint_unresolved_max=16,
)  # fmt: skip


def ago(seconds: float) -> dt.datetime:
    """A moment before NOW."""
    return NOW - dt.timedelta(seconds=seconds)


PENDING = Payment(
    id=ID, network="n", token_address=TOKEN, asset=TOKEN, payer=TOKEN, pay_to=TOKEN, amount=Decimal(10_000), quantity=2,
    recipient=TOKEN, authorization_nonce=HASH, valid_after=0, valid_before=CHAIN_TIME + 600,
    status=PaymentStatus.PENDING, finality=Finality.OPEN, tx_hash=None, settled_block=None, settled_block_hash=None,
    settled_log_index=None,
    settled_by_us=None, error=None, error_code=None, accepted_height=90, supply_reserved=False, attempts=0,
    suspected_code=None, suspected_height=None, held_reason=None, next_attempt_at=None, lease_owner=None,
    lease_until=None, created_at=ago(60), processed_at=None, archived_at=None,
)  # fmt: skip
SENT = replace(PENDING, status=PaymentStatus.SENT, tx_hash=HASH, processed_at=ago(40))
PAID = replace(
    SENT, status=PaymentStatus.COMPLETED, settled_block=95, settled_block_hash=HASH, settled_log_index=3,
    settled_by_us=True,
)  # fmt: skip
FAILED = replace(PENDING, status=PaymentStatus.FAILED, error_code="sold_out", error="The token sold out.")
UNIT = Unit(
    id=QUEUE_ID, payment_id=ID, unit=0, recipient=TOKEN, mint_id=HASH, status=MintStatus.PENDING, tx_hash=None,
    minted_block=None, error=None, error_code=None, attempts=0, suspected_code=None, suspected_height=None,
    held_reason=None, next_attempt_at=None, lease_owner=None, lease_until=None, created_at=ago(30), processed_at=None,
)  # fmt: skip
ATTEMPT = Attempt(
    hash=HASH, max_fee_wei=Decimal(2 * GWEI), priority_fee_wei=Decimal(1), is_noop=False, broadcast_count=1,
    last_broadcast_at=ago(4), last_error=None, created_at=ago(5),
)  # fmt: skip
CARRIER = Carrier(
    id=7, signer=SETTLER, account_nonce=18, purpose="settle", state=TransactionState.SENT, item_count=1,
    mined_hash=None, mined_block=None, succeeded=None, gas_used=None, created_at=ago(5), confirmed_at=None,
    replace_requested_at=None, lowest_unresolved=18, attempts=(ATTEMPT,), items=(Item(0, ID, None, None),),
)  # fmt: skip
MINTING = replace(CARRIER, purpose="mint", signer=MINTER, items=(Item(0, None, QUEUE_ID, None),))
CHAIN = ChainRow(
    head_height=100, head_time=CHAIN_TIME, base_fee_wei=Decimal(GWEI), cursor_height=100, cursor_time=CHAIN_TIME,
    final_height=36, seen_age_s=0.5,
)  # fmt: skip
SIGNERS = (
    SignerRow(SETTLER, "settle", None, True, 19, 1, 18),
    SignerRow(MINTER, "mint", None, True, 19, 1, 18),
)
AROUND = Surroundings(NOW, workers=1, chain=CHAIN, signers=SIGNERS)
DEBT = OwedRow(4, ID, 0, "to_buyer", "token_cap_reached", Decimal(1), TOKEN, "open", None, None, ago(9), None)


def told(story: Story, around: Surroundings = AROUND, limits: Limits = LIMITS) -> tuple[Standing, str]:
    """The standing and the whole sentence."""
    verdict = why(story, around, limits)
    return verdict.standing, f"{verdict.why}. {verdict.next}."


def signers(**changes: Any) -> Surroundings:
    """Both signers with something changed."""
    return replace(AROUND, signers=tuple(replace(s, **changes) for s in SIGNERS))


def chain(**changes: Any) -> Surroundings:
    """The chain with something changed."""
    return replace(AROUND, chain=replace(CHAIN, **changes))


def carried(carrier: Carrier = CARRIER, **attempt: Any) -> Story:
    """A sent payment whose newest attempt has something changed."""
    return Story(SENT, carriers=(replace(carrier, attempts=(*carrier.attempts[:-1], replace(ATTEMPT, **attempt))),))


PENDING_CASES = {
    "next": (Story(PENDING, ahead=0), AROUND, Standing.MOVING, "next in the queue"),
    "in line": (Story(PENDING, ahead=12), AROUND, Standing.MOVING, "12 payments are before it"),
    "no worker": (Story(PENDING), replace(AROUND, workers=0), Standing.STUCK, "no worker is alive"),
    "no worker ever": (Story(PENDING), Surroundings(NOW, 0, None), Standing.STUCK, "Start one: payfirst work"),
    "blind": (Story(PENDING), chain(seen_age_s=45.0), Standing.STUCK, "not reached the chain for 45 s"),
    "held": (
        Story(replace(PENDING, held_reason="buyer asked")),
        AROUND,
        Standing.WAITING,
        f"held by an operator: buyer asked; its authorization ends in 10 min. Type: payfirst payments release {ID}",
    ),
    "held and ended": (
        Story(replace(PENDING, held_reason="buyer asked", valid_before=CHAIN_TIME - 1)),
        AROUND,
        Standing.MOVING,
        "It fails at the next look",
    ),
    "too near its end": (
        Story(replace(PENDING, valid_before=CHAIN_TIME + 5)),
        AROUND,
        Standing.WAITING,
        "ends too soon to be sent",
    ),
    "base fee": (
        Story(PENDING),
        chain(base_fee_wei=Decimal(60 * GWEI)),
        Standing.WAITING,
        "waits for the base fee: 60 gwei now, network.max_fee_gwei is 50",
    ),
    "no signer ever": (Story(PENDING), replace(AROUND, signers=()), Standing.STUCK, "no settle signer was ever used"),
    "nobody holds a signer": (Story(PENDING), signers(held=False), Standing.STUCK, "no worker holds a settle signer"),
    "paused": (
        Story(PENDING),
        signers(paused_reason="key rotation"),
        Standing.STUCK,
        f"is paused: key rotation. Type: payfirst signers resume {SETTLER}",
    ),
    "no gas money": (
        Story(PENDING),
        signers(paused_reason="balance too low: it has 1 wei"),
        Standing.STUCK,
        f"Send {SETTLER} gas money",
    ),
    "claimed": (
        Story(replace(PENDING, lease_owner=SETTLER, lease_until=NOW + dt.timedelta(seconds=20))),
        AROUND,
        Standing.MOVING,
        f"claimed by signer {SETTLER}",
    ),
    "suspected": (
        Story(
            replace(
                PENDING,
                suspected_code="insufficient_funds",
                suspected_height=99,
                error="Too little.",
                attempts=1,
                next_attempt_at=NOW,
            )
        ),
        AROUND,
        Standing.WAITING,
        "suspected of insufficient_funds since block 99: Too little. It is looked at again in the next block",
    ),
    "postponed": (
        Story(replace(PENDING, error="the asset is paused", attempts=3, next_attempt_at=NOW + dt.timedelta(seconds=4))),
        AROUND,
        Standing.WAITING,
        "postponed after 3 tries: the asset is paused. It is tried again in 4 s",
    ),
    "no room": (Story(PENDING), signers(unresolved=16), Standing.WAITING, "as many as they may; nonce 18"),
}


@pytest.mark.parametrize("name", PENDING_CASES)
def test_a_pending_payment_says_what_it_waits_for(name: str) -> None:
    """From nobody being there to its place in line."""
    story, around, standing, words = PENDING_CASES[name]
    found, sentence = told(story, around)
    assert (found, words in sentence) == (standing, True), sentence


SENT_CASES = {
    "just sent": (carried(), AROUND, Standing.MOVING, "sent 5 s ago with nonce 18, the next of its signer, at 2 gwei"),
    "not handed over": (carried(broadcast_count=0), AROUND, Standing.MOVING, "being handed to the node"),
    "another nonce first": (
        carried(replace(CARRIER, lowest_unresolved=17)),
        AROUND,
        Standing.WAITING,
        "nonce 17 of the same signer, before its own 18, is not mined yet",
    ),
    "another nonce first, for long": (
        carried(replace(CARRIER, lowest_unresolved=17, created_at=ago(301))),
        AROUND,
        Standing.STUCK,
        "payfirst payments reset-stuck",
    ),
    "outbid": (
        carried(),
        chain(base_fee_wei=Decimal(3 * GWEI)),
        Standing.WAITING,
        "waits for the base fee: nonce 18 bids 2 gwei, the base fee is 3. The worker that holds its signer bids higher",
    ),
    "outbid at the cap": (
        carried(max_fee_wei=Decimal(50 * GWEI)),
        chain(base_fee_wei=Decimal(60 * GWEI)),
        Standing.STUCK,
        "or raise it: payfirst settings set network.max_fee_gwei",
    ),
    "asked for": (
        carried(replace(CARRIER, replace_requested_at=NOW)),
        AROUND,
        Standing.MOVING,
        "an operator has asked for a replacement of nonce 18",
    ),
    "given up": (carried(is_noop=True), AROUND, Standing.WAITING, "being given up with a no-op"),
    "refused by the node": (
        carried(last_error="RPC: nonce too low"),
        AROUND,
        Standing.WAITING,
        "the node said last: RPC: nonce too low",
    ),
    "no block takes it": (
        carried(replace(CARRIER, created_at=ago(400)), created_at=ago(90)),
        AROUND,
        Standing.STUCK,
        "yet no block has taken it for 90 s",
    ),
    "ended": (
        replace(carried(), payment=replace(SENT, valid_before=CHAIN_TIME - 10)),
        AROUND,
        Standing.WAITING,
        "A no-op takes the nonce",
    ),
    "its signer is paused": (
        carried(),
        signers(paused_reason="key rotation"),
        Standing.STUCK,
        f"payfirst signers resume {SETTLER}",
    ),
    "nobody holds its signer": (carried(), signers(held=False), Standing.STUCK, "no worker holds its signer"),
    "confirming is behind": (carried(), chain(cursor_height=50), Standing.WAITING, "confirming is 50 blocks behind"),
    "no transaction": (Story(SENT), AROUND, Standing.STUCK, "no transaction on its way carries it"),
}


@pytest.mark.parametrize("name", SENT_CASES)
def test_a_sent_payment_says_what_keeps_it_from_a_block(name: str) -> None:
    """What is before it in line comes first, then its own bid."""
    story, around, standing, words = SENT_CASES[name]
    found, sentence = told(story, around)
    assert (found, words in sentence) == (standing, True), sentence


MINTED = replace(UNIT, status=MintStatus.COMPLETED, tx_hash=HASH, minted_block=96, processed_at=ago(8))
OWED = replace(UNIT, status=MintStatus.OWED, error="The token's cap was reached.", error_code="token_cap_reached")
HELD_TOKEN = replace(AROUND, tokens={TOKEN: TokenRow(TOKEN, "active", "EnforcedPause()", None, Decimal(0), 0)})
COMPLETED_CASES = {
    "minted": (
        Story(PAID, (MINTED,)),
        AROUND,
        Standing.DONE,
        "all 1 units minted. It becomes final in about 59 blocks",
    ),
    "final": (Story(replace(PAID, finality=Finality.FINAL), (MINTED,)), AROUND, Standing.DONE, "Nothing more happens"),
    "reorged": (Story(replace(PAID, finality=Finality.REORGED), (UNIT,)), AROUND, Standing.WAITING, "a reorg took"),
    "lost": (Story(replace(PAID, finality=Finality.LOST), (UNIT,)), AROUND, Standing.STUCK, "payfirst owed list"),
    "due": (Story(PAID, (UNIT,)), AROUND, Standing.MOVING, "paid; 1 of 1 units are not minted yet: they are due"),
    "held with its payment": (
        Story(replace(PAID, held_reason="fraud?"), (UNIT,)),
        AROUND,
        Standing.WAITING,
        f"held by an operator: fraud?. Type: payfirst payments release {ID}",
    ),
    "held by itself": (
        Story(PAID, (replace(UNIT, held_reason="wait"),)),
        AROUND,
        Standing.WAITING,
        f"payfirst payments release {QUEUE_ID}",
    ),
    "token held": (Story(PAID, (UNIT,)), HELD_TOKEN, Standing.STUCK, "token held: it refuses to mint: EnforcedPause()"),
    "no worker": (Story(PAID, (UNIT,)), replace(AROUND, workers=0), Standing.STUCK, "no worker is alive"),
    "no mint signer": (Story(PAID, (UNIT,)), replace(AROUND, signers=SIGNERS[:1]), Standing.STUCK, "no mint signer"),
    "postponed": (
        Story(PAID, (replace(UNIT, error="the token refuses: x", attempts=2, next_attempt_at=ago(1)),)),
        AROUND,
        Standing.WAITING,
        "postponed after 2 tries: the token refuses: x. It is tried again now",
    ),
    "on its way": (
        Story(PAID, (replace(UNIT, status=MintStatus.SENT, tx_hash=HASH),), (MINTING,)),
        AROUND,
        Standing.MOVING,
        "1 of 1 units are not minted yet: sent 5 s ago with nonce 18",
    ),
    "owed": (
        Story(PAID, (OWED,), debts=(DEBT,)),
        AROUND,
        Standing.STUCK,
        f"payfirst mints retry {QUEUE_ID}. If you refund by hand: payfirst owed resolve 4 --note",
    ),
    "owed and settled": (
        Story(PAID, (OWED,), debts=(replace(DEBT, status="resolved", note="refunded in 0x12"),)),
        AROUND,
        Standing.DONE,
        "0 units minted, 1 owed and settled (refunded in 0x12)",
    ),
}


@pytest.mark.parametrize("name", COMPLETED_CASES)
def test_a_paid_payment_says_where_its_units_are(name: str) -> None:
    """Minted, on their way, held up, or owed."""
    story, around, standing, words = COMPLETED_CASES[name]
    found, sentence = told(story, around)
    assert (found, words in sentence) == (standing, True), sentence


def test_a_failed_payment_says_why_and_how_long_it_is_watched() -> None:
    """And, once its authorization has ended, that nothing more happens."""
    standing, sentence = told(Story(FAILED))
    assert (standing, sentence) == (
        Standing.FAILED,
        "sold_out: The token sold out. It is watched for 10 min more: if the money comes after all, it is credited.",
    )
    assert "nothing more happens" in told(Story(replace(FAILED, valid_before=CHAIN_TIME - 1)))[1]


def test_a_failed_payment_needs_no_worker_to_be_explained() -> None:
    """What has ended is told also while nothing runs."""
    assert told(Story(FAILED), Surroundings(NOW, 0, None))[0] is Standing.FAILED


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7_300, "2 h"), (200_000, "2 d")]
)
def test_a_span_is_told_in_the_largest_unit_that_says_enough(seconds: float, words: str) -> None:
    """So that 119 s is not 1 min."""
    assert span(seconds) == words


def test_the_timeline_is_in_order_and_ends_with_what_is_so_now() -> None:
    """Accepted, stored, handed to a node, asked for, mined, completed, minted, owed, and who did what by hand."""
    carrier = replace(
        CARRIER, state=TransactionState.CONFIRMED, confirmed_at=ago(3), mined_hash=HASH, mined_block=95, succeeded=True,
        gas_used=90_000, items=(Item(0, ID, None, "done"),),
        attempts=(ATTEMPT, replace(ATTEMPT, created_at=ago(4.5), last_error="underpriced", last_broadcast_at=ago(3.5))),
    )  # fmt: skip
    story = Story(
        replace(PAID, processed_at=ago(3), finality=Finality.REORGED),
        (replace(UNIT, created_at=ago(3), error="the token refuses", attempts=2),),
        (carrier,),
        (replace(DEBT, created_at=ago(2), resolved_at=ago(1), status="resolved", note="sent back"),),
        (Entry(ago(10), "ada@ops", "payments.hold", {"reason": "looked odd"}),),
    )
    events = timeline(story, asset="USDC", decimals=6)
    dated = [e.at for e in events if e.at is not None]
    assert dated == sorted(dated)
    assert events[0].what.startswith("accepted at height 90: 2x ")
    assert [e.at for e in events[-2:]] == [None, None]
    said = "\n".join(e.what for e in events)
    for words in (
        "0.01 USDC", "nonce 18 of", "attempt 2", "the node said: underpriced", "succeeded in block 95",
        "this payment done", "log 3, by our transaction", "1 mint row created", "ada@ops did payments.hold",
        "debt 4: unit 0 is owed to buyer", "sent back", "its transfer is reorged", "given back after 2 tries",
    ):  # fmt: skip
        assert words in said, words
    assert said.index("succeeded in block 95") < said.index("completed: Transfer")


def test_what_the_operator_has_paused_waits_and_says_how_it_goes_on() -> None:
    """A pending payment while settling is paused, its units while minting is; the other purpose is not held up."""
    standing, sentence = told(Story(PENDING), limits=replace(LIMITS, paused=frozenset({"settle"})))
    assert standing is Standing.WAITING
    assert "payfirst settings unset pause.settling" in sentence
    standing, sentence = told(Story(PENDING), limits=replace(LIMITS, paused=frozenset({"mint"})))
    assert "pause" not in sentence
    paid = Story(PAID, (UNIT,))
    standing, sentence = told(paid, limits=replace(LIMITS, paused=frozenset({"mint"})))
    assert (standing, "payfirst settings unset pause.minting" in sentence) == (Standing.WAITING, True)


def test_a_large_payment_that_was_seen_says_what_it_waits_for() -> None:
    """It is neither stuck nor unmined, however long it takes, and whoever holds its signer."""
    standing, says = told(carried(replace(CARRIER, waiting_block=97)), signers(held=False))
    assert standing is Standing.WAITING
    assert "seen in block 97" in says
    assert "network.large_confirmations" in says
    assert "payments.agree_amount" in says


def test_confirmed_and_final_are_told_in_the_words_that_are_configured() -> None:
    """A finalized block is no number of blocks."""
    limits = replace(LIMITS, confirmations="finalized", final_depth="finalized")
    assert "confirmed means in a finalized block" in told(carried(), limits=limits)[1]
    paid = Story(PAID, units=(replace(UNIT, status=MintStatus.COMPLETED, tx_hash=HASH),))
    assert "once nodes call its block finalized" in told(paid, limits=limits)[1]
