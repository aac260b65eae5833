"""What a difference between database and chain is judged to be, by evidence alone."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from payfirst.chain.evidence import PaidTransfer
from payfirst.lifecycle import Finality, PaymentStatus
from payfirst.pipeline.audit_kinds import KINDS, Finding, Kind, Level, exit_code
from payfirst.pipeline.audit_plan import (
    Delivered,
    Period,
    PeriodPlan,
    PeriodView,
    SeenMint,
    SeenTransfer,
    SignerView,
    judge_minted,
    judge_reservations,
    judge_signer,
    judge_stranded,
    plan_period,
)
from payfirst.store.auditing import EvidencedPayment, Reservation, StrandedRow, UnitRow
from payfirst.store.crediting import CreditCandidate
from payfirst.units import (
    AccountNonce,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    MintId,
    TxHash,
)

ALICE, SELLER, TOKEN = Address(b"\x01" * 20), Address(b"\x03" * 20), Address(b"\xcc" * 20)
NONCE, TX, BLOCK_HASH = AuthorizationNonce(b"\x11" * 32), TxHash(b"\x0a" * 32), BlockHash(b"\x64" * 32)
MINT_ID, ID = MintId(b"\x33" * 32), uuid.UUID(int=1)
KEY = (ALICE, NONCE)
PERIOD = Period(BlockNumber(50), BlockNumber(150), final=BlockNumber(120))
SEEN = SeenTransfer(PaidTransfer(ALICE, NONCE, SELLER, AtomicAmount(10), TX, 4), BlockNumber(100), BLOCK_HASH)
LATE = replace(SEEN, block=BlockNumber(140))
MINT = SeenMint(TOKEN, MINT_ID, TX, BlockNumber(100))
UNIT = UnitRow(ID, MINT_ID, TOKEN, "sent", None)
PAYMENT = CreditCandidate(
    id=ID,
    token=TOKEN,
    payer=ALICE,
    pay_to=SELLER,
    amount=AtomicAmount(10),
    quantity=1,
    recipient=ALICE,
    nonce=NONCE,
    status=PaymentStatus.FAILED,
    finality=Finality.OPEN,
    accepted_height=BlockNumber(90),
    supply_reserved=False,
    settled_block_hash=None,
    settled_log_index=None,
    tx_hash=None,
)


def plan(seen: SeenTransfer = SEEN, payment: CreditCandidate | None = PAYMENT, **more: object) -> PeriodPlan:
    """The plan of a period with one transfer."""
    candidates = {} if payment is None else {KEY: payment}
    claimed = set() if payment is None else {KEY}
    view = replace(PeriodView(transfers=[seen], candidates=candidates, claimed=claimed), **more)  # type: ignore[arg-type]  # named fields
    return plan_period(view, PERIOD)


def kinds(findings: list[Finding]) -> list[Kind]:
    """What was found."""
    return [f.kind for f in findings]


@pytest.mark.parametrize("status", [PaymentStatus.PENDING, PaymentStatus.SENT, PaymentStatus.FAILED])
def test_a_payment_that_was_paid_is_credited_whatever_its_row_says(status: PaymentStatus) -> None:
    """Also when an operator has failed it by hand."""
    found = plan(payment=replace(PAYMENT, status=status))
    assert kinds(found.findings) == [Kind.PAYMENT_NOT_CREDITED]
    assert found.credit == [SEEN]
    assert found.owe == []


def test_a_use_from_before_the_acceptance_is_nobodys_money() -> None:
    """Rule 4: it was not for this payment; so once that has failed, its payer is owed."""
    found = plan(payment=replace(PAYMENT, accepted_height=BlockNumber(100)))
    assert kinds(found.findings) == [Kind.MONEY_WITHOUT_PAYMENT]
    assert found.credit == []
    assert [u.payer for u in found.owe] == [ALICE]


def test_a_use_from_before_the_acceptance_by_the_transaction_that_carried_it_is_credited() -> None:
    """A reorg may bring our own transaction into a lower block."""
    found = plan(payment=replace(PAYMENT, accepted_height=BlockNumber(100)), carried={(TX, ID)})
    assert found.credit == [SEEN]


def test_a_pending_payment_used_before_its_acceptance_is_left_to_the_workers() -> None:
    """They fail it; only then is the money nobody's."""
    pending = replace(PAYMENT, status=PaymentStatus.PENDING, accepted_height=BlockNumber(100))
    assert plan(payment=pending).findings == []


def test_money_without_a_payment_is_owed_to_its_payer() -> None:
    """Whole, because nothing was delivered for it."""
    found = plan(payment=None)
    assert kinds(found.findings) == [Kind.MONEY_WITHOUT_PAYMENT]
    assert [(u.payer, u.nonce, u.amount) for u in found.owe] == [(ALICE, NONCE, 10)]


def test_money_without_a_payment_waits_for_its_block_to_be_final() -> None:
    """A reorg could take it, and nobody would watch."""
    found = plan(LATE, payment=None)
    assert kinds(found.findings) == [Kind.MONEY_NOT_FINAL]
    assert found.owe == []


@pytest.mark.parametrize("more", [{"claimed": {KEY}}, {"named": {KEY}}], ids=["archived", "named before"])
def test_money_that_is_accounted_for_is_no_difference(more: dict[str, Any]) -> None:
    """Its payment has moved to the history, or the debt stands already."""
    assert plan(payment=None, **more).findings == []


@pytest.mark.parametrize(("units", "left"), [(1, 6), (2, 2)])
def test_of_a_lost_payment_only_what_was_not_minted_is_owed(units: int, left: int) -> None:
    """Mint ids derive from the authorization, so the chain still tells what was delivered."""
    found = plan(payment=None, delivered={KEY: [Delivered(TOKEN, units, AtomicAmount(4))]})
    assert [u.amount for u in found.owe] == [left]


def test_a_lost_payment_that_was_minted_whole_is_only_noted() -> None:
    """Nobody is owed anything."""
    found = plan(payment=None, delivered={KEY: [Delivered(TOKEN, 1, AtomicAmount(10))]})
    assert kinds(found.findings) == [Kind.MONEY_DELIVERED]
    assert found.owe == []
    assert exit_code(found.findings, repaired=False) == 0


def test_another_amount_than_the_payments_needs_an_operator() -> None:
    """The payer signed two authorizations with one nonce."""
    found = plan(payment=replace(PAYMENT, amount=AtomicAmount(11)))
    assert kinds(found.findings) == [Kind.PAYMENT_TERMS_DIFFER]
    assert found.credit == []
    assert found.owe == []


def test_a_final_payment_with_other_evidence_needs_an_operator() -> None:
    """What is still open follows the chain by itself."""
    completed = replace(PAYMENT, status=PaymentStatus.COMPLETED, finality=Finality.FINAL)
    assert kinds(plan(payment=completed).findings) == [Kind.PAYMENT_EVIDENCE_DIFFERS]
    assert plan(payment=replace(completed, finality=Finality.OPEN)).findings == []


def test_a_minted_unit_is_marked_once_its_block_is_final() -> None:
    """Before that, the transaction that carried it is watched."""
    final = plan_period(PeriodView(mints=[MINT], units={MINT_ID: UNIT}), PERIOD)
    assert (kinds(final.findings), final.mark) == ([Kind.MINT_NOT_MARKED], [MINT])
    late = plan_period(PeriodView(mints=[replace(MINT, block=BlockNumber(140))], units={MINT_ID: UNIT}), PERIOD)
    assert (kinds(late.findings), late.mark) == ([Kind.MINT_NOT_FINAL], [])


def test_a_mint_of_no_payment_is_alarming_only_when_our_signer_made_it() -> None:
    """Others may hold the token's MINTER_ROLE; a lost payment's units are known by their ids."""
    assert kinds(plan_period(PeriodView(mints=[MINT], ours={TX}), PERIOD).findings) == [Kind.MINT_WITHOUT_PAYMENT]
    assert kinds(plan_period(PeriodView(mints=[MINT]), PERIOD).findings) == [Kind.MINT_BY_OTHERS]
    assert plan_period(PeriodView(mints=[MINT], ours={TX}, derived={MINT_ID}), PERIOD).findings == []


def test_evidence_that_is_not_in_the_chain_needs_an_operator() -> None:
    """In a final block; above it the workers undo the reorg."""
    gone = EvidencedPayment(ID, BlockNumber(100), BLOCK_HASH, 4)
    unit = replace(UNIT, status="completed", minted_block=BlockNumber(100))
    found = plan_period(PeriodView(gone_payments=[gone], gone_units=[unit], units_missing=[ID]), PERIOD)
    assert kinds(found.findings) == [Kind.PAYMENT_EVIDENCE_GONE, Kind.MINT_GONE, Kind.PAYMENT_UNITS_MISSING]
    later = replace(gone, settled_block=BlockNumber(140)), replace(unit, minted_block=BlockNumber(140))
    assert plan_period(PeriodView(gone_payments=later[:1], gone_units=later[1:]), PERIOD).findings == []


def signer(**changes: object) -> SignerView:
    """A signer with three transactions, all known."""
    view = SignerView(
        address=ALICE,
        mined=AccountNonce(3),
        waiting=AccountNonce(3),
        next_nonce=AccountNonce(3),
        missing=(),
        found=(),
        unread=(),
        fenced=False,
    )
    return replace(view, **changes)  # type: ignore[arg-type]  # named fields


def test_a_signer_whose_nonces_are_all_known_is_no_difference() -> None:
    """Also while more of its own are on their way than the chain holds."""
    assert judge_signer(signer()) == []
    assert judge_signer(signer(next_nonce=5, waiting=5)) == []


def test_nonces_without_a_row_are_told_apart_by_whether_their_transaction_was_found() -> None:
    """One can be adopted, the other needs an earlier block or another signer."""
    found = judge_signer(signer(missing=(1, 2), found=((2, TX),), fenced=True))
    assert kinds(found) == [Kind.TRANSACTION_UNKNOWN, Kind.TRANSACTION_NOT_FOUND, Kind.SIGNER_FENCED]
    assert "nonce 1" in found[1].sentence


def test_a_transaction_that_only_waits_in_the_pool_is_named() -> None:
    """The database would give its nonce again."""
    assert kinds(judge_signer(signer(waiting=4))) == [Kind.TRANSACTION_WAITING]


def test_counts_that_differ_are_named_and_others_are_not() -> None:
    """Reserved, minted, and rows that nothing carries."""
    assert judge_reservations([Reservation(TOKEN, 3, 3)]) == []
    assert kinds(judge_reservations([Reservation(TOKEN, 3, 2)])) == [Kind.SUPPLY_RESERVED_DIFFERS]
    assert judge_minted({TOKEN: 5}, {TOKEN: 6}) == []
    assert kinds(judge_minted({TOKEN: 5}, {TOKEN: 4})) == [Kind.SUPPLY_MINTED_DIFFERS]
    stranded = judge_stranded([StrandedRow(ID, "0x")], [StrandedRow(ID, "0x")])
    assert kinds(stranded) == [Kind.PAYMENT_STRANDED, Kind.MINT_STRANDED]


@pytest.mark.parametrize(
    ("levels", "before", "after"),
    [
        ((), 0, 0),
        ((Level.NOTE,), 0, 0),
        ((Level.REPAIR,), 1, 0),
        ((Level.LATER, Level.REPAIR), 1, 1),
        ((Level.REPAIR, Level.OPERATOR), 2, 2),
    ],
)
def test_the_exit_code_says_who_has_to_act(levels: tuple[Level, ...], before: int, after: int) -> None:
    """0 nobody, 1 a repair or time, 2 an operator."""
    first_of = {level: next(k for k, m in KINDS.items() if m.level is level) for level in Level}
    findings = [Finding(first_of[level], "x", "y") for level in levels]
    assert (exit_code(findings, repaired=False), exit_code(findings, repaired=True)) == (before, after)


def test_every_kind_has_its_meaning() -> None:
    """What is printed says what it means and what would be done."""
    assert KINDS.keys() == set(Kind)
