"""What one block at depth does to payments, mints and transactions, decided by logs alone."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from payfirst.chain.blocks import Head, Receipt
from payfirst.chain.evidence import MintedUnit, PaidTransfer
from payfirst.lifecycle import Finality, PaymentStatus
from payfirst.pipeline.confirm_plan import NO_CAUTION, BlockEvidence, BlockPlan, Caution, Mined, plan_block
from payfirst.store.crediting import CreditCandidate
from payfirst.store.transaction_items import MintItem, PaymentItem
from payfirst.store.transactions import UnresolvedHash
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    MintId,
    TxHash,
    UnixTime,
    Wei,
)

ALICE, SELLER, TOKEN = Address(b"\x01" * 20), Address(b"\x03" * 20), Address(b"\xcc" * 20)
NONCE = AuthorizationNonce(b"\x11" * 32)
OURS, THEIRS = TxHash(b"\x0a" * 32), TxHash(b"\x0b" * 32)
HEAD = Head(BlockNumber(100), BlockHash(b"\x64" * 32), BlockHash(b"\x63" * 32), UnixTime(1_000), Wei(1))
PAYMENT_ID, QUEUE_ID, MINT_ID = uuid.UUID(int=1), uuid.UUID(int=2), MintId(b"\x33" * 32)

PAYMENT = CreditCandidate(
    id=PAYMENT_ID,
    token=TOKEN,
    payer=ALICE,
    pay_to=SELLER,
    amount=AtomicAmount(10),
    quantity=1,
    recipient=ALICE,
    nonce=NONCE,
    status=PaymentStatus.SENT,
    finality=Finality.OPEN,
    accepted_height=BlockNumber(90),
    supply_reserved=True,
    settled_block_hash=None,
    settled_log_index=None,
    tx_hash=OURS,
)
TRANSFER = PaidTransfer(ALICE, NONCE, SELLER, AtomicAmount(10), OURS, log_index=4)


def mined(tx_hash: TxHash = OURS, *, purpose: str = "settle", succeeded: bool = True) -> Mined:
    """Our transaction 7 in this block, carrying the payment or the unit."""
    receipt = Receipt(tx_hash, HEAD.hash, HEAD.number, succeeded, 21_000, Wei(1), ())
    if purpose == "settle":
        known = UnresolvedHash(tx_hash, 7, "settle", 1)
        return Mined(known, receipt, payments=(PaymentItem(7, 0, PAYMENT_ID, ALICE, NONCE),))
    return Mined(UnresolvedHash(tx_hash, 7, "mint", 1), receipt, mints=(MintItem(7, 0, QUEUE_ID, MINT_ID, TOKEN),))


def plan(
    *,
    payment: CreditCandidate | None = PAYMENT,
    paid: tuple[PaidTransfer, ...] = (),
    ours: tuple[Mined, ...] = (),
    minted: tuple[MintedUnit, ...] = (),
    minted_before: frozenset[MintId] = frozenset(),
    others: tuple[CreditCandidate, ...] = (),
    caution: Caution = NO_CAUTION,
) -> BlockPlan:
    """The plan of a block."""
    return plan_block(
        BlockEvidence(
            head=HEAD,
            paid=paid,
            candidates={(p.payer, p.nonce): p for p in (payment, *others) if p is not None},
            ours={OURS},
            mined=ours,
            minted=minted,
            minted_before=minted_before,
        ),
        caution,
    )


def test_a_sent_payment_with_its_transfer_is_credited() -> None:
    """And its transaction is resolved, item by item."""
    found = plan(paid=(TRANSFER,), ours=(mined(),))
    assert [(c.payment.id, c.ours) for c in found.credits] == [(PAYMENT_ID, True)]
    assert [(o.position, o.outcome) for o in found.outcomes] == [(0, "done")]
    assert [t.id for t in found.transactions] == [7]
    assert found.returned_payments == []


def test_a_stranger_who_submits_it_is_not_us() -> None:
    """Then only the payer is known to have wanted it."""
    found = plan(paid=(replace(TRANSFER, tx_hash=THEIRS),))
    assert [c.ours for c in found.credits] == [False]


def test_pending_and_failed_payments_are_credited_when_the_money_comes() -> None:
    """Before we sent it, and after we gave up."""
    for status in (PaymentStatus.PENDING, PaymentStatus.FAILED):
        assert len(plan(payment=replace(PAYMENT, status=status), paid=(TRANSFER,)).credits) == 1


def test_another_value_or_payee_is_no_payment() -> None:
    """Exactly what was signed here, or nothing."""
    for wrong in (replace(TRANSFER, value=AtomicAmount(9)), replace(TRANSFER, pay_to=ALICE)):
        found = plan(paid=(wrong,))
        assert (found.credits, len(found.strange)) == ([], 1)


def test_money_for_nobodys_order_is_said_and_changes_nothing() -> None:
    """No row, no credit."""
    found = plan(payment=None, paid=(TRANSFER,))
    assert (found.credits, len(found.strange)) == ([], 1)


def test_a_use_at_or_below_the_acceptance_height_was_not_for_us() -> None:
    """Copied from public calldata and posted here."""
    pending = replace(PAYMENT, status=PaymentStatus.PENDING, accepted_height=HEAD.number)
    theirs = replace(TRANSFER, tx_hash=THEIRS)
    found = plan(payment=pending, paid=(theirs,))
    assert (found.credits, found.used_before) == ([], [PAYMENT_ID])
    assert plan(payment=replace(pending, accepted_height=BlockNumber(99)), paid=(theirs,)).used_before == []


def test_our_own_settlement_mined_anew_below_the_acceptance_height_is_credited() -> None:
    """A reorg may put it there; nobody can have copied what we signed before it was accepted."""
    found = plan(payment=replace(PAYMENT, accepted_height=HEAD.number), paid=(TRANSFER,), ours=(mined(),))
    assert [(c.payment.id, c.ours) for c in found.credits] == [(PAYMENT_ID, True)]


def test_reading_a_block_again_credits_nothing_again() -> None:
    """The same log of the same block."""
    done = replace(
        PAYMENT, status=PaymentStatus.COMPLETED, settled_block_hash=HEAD.hash, settled_log_index=TRANSFER.log_index
    )
    found = plan(payment=done, paid=(TRANSFER,))
    assert (found.credits, found.back, found.strange) == ([], [], [])


def test_a_payment_that_a_reorg_took_is_back() -> None:
    """Completed it stayed; now it is open again."""
    gone = replace(PAYMENT, status=PaymentStatus.COMPLETED, finality=Finality.REORGED)
    found = plan(payment=gone, paid=(TRANSFER,))
    assert (len(found.back), found.credits) == (1, [])


def test_an_item_without_its_log_goes_back_to_the_queue() -> None:
    """Whatever the receipt says of the whole."""
    for succeeded in (True, False):
        found = plan(ours=(mined(succeeded=succeeded),))
        assert found.returned_payments == [PAYMENT_ID]
        assert [o.outcome for o in found.outcomes] == ["reverted"]


def test_an_item_that_another_transaction_of_the_block_settled_is_done_elsewhere() -> None:
    """It is credited under that hash, and not returned."""
    found = plan(paid=(replace(TRANSFER, tx_hash=THEIRS),), ours=(mined(),))
    assert [o.outcome for o in found.outcomes] == ["elsewhere"]
    assert found.returned_payments == []
    assert len(found.credits) == 1


def test_a_unit_with_the_tokens_log_is_minted() -> None:
    """By its mint id."""
    found = plan(ours=(mined(purpose="mint"),), minted=(MintedUnit(TOKEN, ALICE, MINT_ID, OURS),))
    assert (found.minted, found.returned_mints) == ([(MINT_ID, OURS)], [])
    assert [o.outcome for o in found.outcomes] == ["done"]


def test_a_unit_that_the_contract_skipped_was_minted_before() -> None:
    """The token holds the id already: completed, never again."""
    found = plan(ours=(mined(purpose="mint"),), minted_before=frozenset({MINT_ID}))
    assert (found.minted, found.returned_mints) == ([(MINT_ID, OURS)], [])
    assert [o.outcome for o in found.outcomes] == ["elsewhere"]


def test_a_unit_without_any_evidence_goes_back_to_the_queue() -> None:
    """A receipt alone mints nothing."""
    found = plan(ours=(mined(purpose="mint"),))
    assert (found.minted, found.returned_mints) == ([], [QUEUE_ID])


BOB = Address(b"\x02" * 20)
SMALL = replace(PAYMENT, id=uuid.UUID(int=5), payer=BOB, amount=AtomicAmount(9))
SMALL_TRANSFER = replace(TRANSFER, payer=BOB, value=AtomicAmount(9), log_index=6)


@pytest.mark.parametrize("caution", [Caution(large_amount=AtomicAmount(10)), Caution(agree_amount=AtomicAmount(10))])
def test_a_transaction_with_a_large_payment_waits_whole(caution: Caution) -> None:
    """With its small payment and its items: nothing of it is changed, and both are named."""
    found = plan(paid=(TRANSFER, SMALL_TRANSFER), others=(SMALL,), ours=(mined(),), caution=caution)
    assert found.waiting == {OURS: [PAYMENT_ID, SMALL.id]}
    assert (found.credits, found.transactions, found.outcomes, found.returned_payments) == ([], [], [], [])


def test_what_is_below_the_amount_is_believed_at_once() -> None:
    """By another transaction of the same block, too."""
    theirs = replace(SMALL_TRANSFER, tx_hash=THEIRS)
    caution = Caution(large_amount=AtomicAmount(10), agree_amount=AtomicAmount(10))
    found = plan(paid=(TRANSFER, theirs), others=(SMALL,), caution=caution)
    assert [c.payment.id for c in found.credits] == [SMALL.id]
    assert found.waiting == {OURS: [PAYMENT_ID]}


def test_a_large_payment_that_a_reorg_took_waits_again_until_it_is_back() -> None:
    """Its units are not sent on the word of a young block either."""
    gone = replace(PAYMENT, status=PaymentStatus.COMPLETED, finality=Finality.REORGED)
    found = plan(payment=gone, paid=(TRANSFER,), caution=Caution(large_amount=AtomicAmount(10)))
    assert (found.back, found.waiting) == ([], {OURS: [PAYMENT_ID]})


def test_our_item_that_a_waiting_transaction_settled_is_done_elsewhere() -> None:
    """It does not go back to the queue while its evidence waits."""
    found = plan(
        paid=(replace(TRANSFER, tx_hash=THEIRS),), ours=(mined(),), caution=Caution(large_amount=AtomicAmount(10))
    )
    assert [o.outcome for o in found.outcomes] == ["elsewhere"]
    assert found.returned_payments == []
    assert found.waiting == {THEIRS: [PAYMENT_ID]}


@pytest.mark.parametrize("two_endpoints", [False, True])
def test_what_ends_a_payment_waits_where_there_is_a_second_endpoint(two_endpoints: bool) -> None:
    """Whatever its amount."""
    pending = replace(PAYMENT, status=PaymentStatus.PENDING, accepted_height=HEAD.number)
    theirs = replace(TRANSFER, tx_hash=THEIRS)
    found = plan(payment=pending, paid=(theirs,), caution=Caution(two_endpoints=two_endpoints))
    assert found.used_before == ([] if two_endpoints else [PAYMENT_ID])
    assert found.waiting == ({THEIRS: [PAYMENT_ID]} if two_endpoints else {})
