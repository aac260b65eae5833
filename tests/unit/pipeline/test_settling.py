"""What a pre-flight means for each payment, who gets supply, and who shares a transaction."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import CODE_PAYER_GAS, Preflight, PreflightItem
from payfirst.chain.fees import intrinsic_gas
from payfirst.pipeline.confirm_plan import Caution
from payfirst.pipeline.settle_plan import (
    BATCH_GAS_FLOOR,
    CALL_BYTES,
    Sendable,
    SettlementPlan,
    allot,
    compose_batches,
    plan_settlement,
    preflight_groups,
    suspect_or_fail,
)
from payfirst.store.settling import ClaimedPayment
from payfirst.store.tokens import Supply
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, UnixTime

TOKEN = Address(b"\xcc" * 20)
HEIGHT = BlockNumber(100)


def claimed(number: int = 1, **changes: object) -> ClaimedPayment:
    """A claimed payment over 10 for one unit, accepted at height 90."""
    payment = ClaimedPayment(
        id=uuid.UUID(int=number),
        token=TOKEN,
        payer=Address(number.to_bytes(20, "big")),
        pay_to=Address(b"\x03" * 20),
        amount=AtomicAmount(10),
        quantity=1,
        nonce=AuthorizationNonce(number.to_bytes(32, "big")),
        valid_after=UnixTime(0),
        valid_before=UnixTime(10_000),
        signature=b"\x01" * 65,
        accepted_height=BlockNumber(90),
        supply_reserved=False,
        attempts=0,
        suspected_code=None,
        suspected_height=None,
    )
    return replace(payment, **changes)  # type: ignore[arg-type]  # named fields


def saw(**changes: object) -> PreflightItem:
    """What pre-flight saw of a payment that goes through."""
    item = PreflightItem(code_size=0, balance=AtomicAmount(50), used=False, ok=True, gas_used=33_000, revert_data=b"")
    return replace(item, **changes)  # type: ignore[arg-type]  # named fields


def reverted(text: str, **changes: object) -> PreflightItem:
    """What pre-flight saw of a payment that the asset refuses with these words."""
    return saw(ok=False, revert_data=encode_call("Error(string)", text), **changes)


def seen(*items: PreflightItem) -> Preflight:
    """A pre-flight at HEIGHT."""
    return Preflight(block_number=HEIGHT, block_time=UnixTime(1_000), items=items)


def judged(payment: ClaimedPayment, item: PreflightItem, **unresolved: int) -> SettlementPlan:
    """The plan for one payment."""
    on_its_way = {payment.payer: AtomicAmount(unresolved["unresolved"])} if unresolved else {}
    return plan_settlement([payment], seen(item), on_its_way)


BALANCE = "ERC20: transfer amount exceeds balance"


def test_a_payment_that_goes_through_is_sent() -> None:
    """With the gas it took."""
    plan = judged(claimed(), saw())
    assert [(s.gas_used, s.alone) for s in plan.send] == [(33_000, False)]


def test_a_used_authorization_is_looked_up_before_anything_is_said_of_it() -> None:
    """It may have been used for us."""
    plan = judged(claimed(), saw(used=True, ok=False))
    assert (len(plan.used), plan.failed, plan.postponed) == (1, [], [])


def test_a_fault_seen_once_is_only_suspected() -> None:
    """One block may be a fork, one node may lag."""
    plan = judged(claimed(), reverted(BALANCE, balance=AtomicAmount(3)))
    assert plan.failed == []
    assert [(p.code, p.height) for p in plan.postponed] == [("insufficient_funds", HEIGHT)]


def test_a_fault_seen_at_a_second_later_block_fails_the_payment() -> None:
    """And says what to do."""
    before = claimed(suspected_code="insufficient_funds", suspected_height=BlockNumber(99))
    plan = judged(before, reverted(BALANCE, balance=AtomicAmount(3)))
    assert [f.code for f in plan.failed] == ["insufficient_funds"]
    assert "fund the account" in plan.failed[0].sentence


@pytest.mark.parametrize(
    ("code", "height"),
    [("insufficient_funds", 100), ("insufficient_funds", 89), ("invalid_exact_evm_payload_signature", 99)],
    ids=["the same block", "a block below acceptance", "another fault"],
)
def test_these_do_not_count_as_a_second_look(code: str, height: int) -> None:
    """Two pinned blocks at or above acceptance, and the same fault."""
    before = claimed(suspected_code=code, suspected_height=BlockNumber(height))
    assert judged(before, reverted(BALANCE, balance=AtomicAmount(3))).failed == []


def test_a_look_below_acceptance_is_replaced_by_one_that_counts() -> None:
    """A worker whose head lagged was the first to look: kept, its height would hold the payment until it expires."""
    before = claimed(suspected_code="insufficient_funds", suspected_height=BlockNumber(89))
    plan = judged(before, reverted(BALANCE, balance=AtomicAmount(3)))
    assert [(p.code, p.height) for p in plan.postponed] == [("insufficient_funds", HEIGHT)]


def test_a_payer_whose_own_earlier_payment_takes_the_balance_waits() -> None:
    """The pinned balance was enough for this one alone: no fault."""
    first, second = claimed(1), replace(claimed(2), payer=claimed(1).payer)
    items = (saw(balance=AtomicAmount(10)), reverted(BALANCE, balance=AtomicAmount(0)))
    plan = plan_settlement([first, second], seen(*items), {})
    assert [s.payment.id for s in plan.send] == [first.id]
    assert [(p.id, p.code) for p in plan.postponed] == [(second.id, None)]


def test_who_signed_more_than_it_has_is_named_with_what_it_has() -> None:
    """Admission is told the balance before the first of its payments was tried, whichever of them fell short."""
    payer = claimed(1).payer
    payments = [replace(claimed(n), payer=payer) for n in (1, 2)] + [claimed(3), claimed(4)]
    items = [
        saw(balance=AtomicAmount(10)),
        reverted(BALANCE, balance=AtomicAmount(0)),
        reverted(BALANCE, balance=AtomicAmount(3)),
        saw(balance=AtomicAmount(10)),
    ]
    plan = plan_settlement(payments, seen(*items), {})
    assert plan.short == {payer: 10, payments[2].payer: 3}


def test_who_waits_or_is_refused_for_another_reason_is_not_short() -> None:
    """Transactions that the pinned block may know already, and faults that money does not mend."""
    assert judged(claimed(), saw(balance=AtomicAmount(50)), unresolved=41).short == {}
    assert judged(claimed(), reverted("ECRecover: invalid signature", balance=AtomicAmount(50))).short == {}


def test_what_is_on_its_way_is_held_against_the_balance() -> None:
    """The pinned block does not know of transactions in flight."""
    assert judged(claimed(), saw(balance=AtomicAmount(50)), unresolved=41).send == []
    assert len(judged(claimed(), saw(balance=AtomicAmount(50)), unresolved=40).send) == 1


def test_a_paused_asset_is_nobodys_fault() -> None:
    """The queue waits, the operator is told."""
    plan = judged(claimed(suspected_code="x", suspected_height=BlockNumber(99)), reverted("Pausable: paused"))
    assert (plan.asset_paused, plan.failed, len(plan.postponed)) == (True, [], 1)


def test_an_unknown_revert_backs_off_and_fails_nobody() -> None:
    """Only a decoded fault of the payer ends a payment."""
    delays = [judged(claimed(attempts=n), reverted("something new")).postponed[0].delay_s for n in (0, 3, 50)]
    assert delays == [1.0, 8.0, 30.0]


def test_a_blacklisted_payer_is_suspected() -> None:
    """The asset's own words decide."""
    plan = judged(claimed(), reverted("Blacklistable: account is blacklisted"))
    assert plan.postponed[0].code == "invalid_exact_evm_transaction_simulation_failed"


def test_suspicion_keeps_the_first_height() -> None:
    """A second look at a lower block does not move it up."""
    plan = SettlementPlan()
    payment = claimed(suspected_code="sold_out", suspected_height=BlockNumber(95))
    suspect_or_fail(plan, payment, code="sold_out", height=94)
    assert plan.postponed[0].height == 94


def supply(*, max_mint_count: int | None = 10, minted: int = 0, reserved: int = 0) -> dict[Address, Supply]:
    """A token of 10 mints."""
    return {TOKEN: Supply(TOKEN, max_mint_count=max_mint_count, minted=minted, reserved=reserved)}


def sendable(number: int, **changes: object) -> Sendable:
    """A payment that passed pre-flight."""
    return Sendable(claimed(number, **changes), gas_used=33_000, alone=False)


def test_supply_goes_to_the_oldest() -> None:
    """In order, as far as it reaches."""
    plan = allot([sendable(n, quantity=2) for n in range(1, 5)], supply(minted=4, reserved=2))
    assert [s.payment.id.int for s in plan.send] == [1, 2]
    assert [p.id.int for p in plan.postponed] == [3, 4]


def test_what_is_minted_out_is_sold_out() -> None:
    """No promise can still fail, so nobody waits for one."""
    plan = allot([sendable(1, quantity=2)], supply(minted=9))
    assert [f.code for f in plan.failed] == ["sold_out"]


def test_a_payment_that_holds_supply_keeps_it() -> None:
    """A crash between reserving and sending reserves nothing twice."""
    plan = allot([sendable(1, supply_reserved=True)], supply(minted=9, reserved=1))
    assert len(plan.send) == 1


def test_a_token_that_was_never_read_waits() -> None:
    """Unknown supply is no supply, and no failure."""
    plan = allot([sendable(1)], supply(max_mint_count=None))
    assert (plan.send, plan.failed, len(plan.postponed)) == ([], [], 1)


def test_payers_with_code_never_share_a_transaction() -> None:
    """One of them can burn a whole batch."""
    items = [sendable(1), replace(sendable(2), alone=True), sendable(3)]
    batches = compose_batches(items, batch_max=200, tx_gas_max=16_777_216)
    assert sorted(len(b.payments) for b in batches) == [1, 2]
    alone = next(b for b in batches if len(b.payments) == 1)
    assert (alone.payments[0].id.int, alone.execution_gas) == (2, CODE_PAYER_GAS)


@given(
    gas=st.lists(st.integers(20_000, 400_000), min_size=1, max_size=300),
    batch_max=st.integers(1, 250),
)
def test_batches_keep_every_payment_and_every_limit(gas: list[int], batch_max: int) -> None:
    """By count, by gas with its calldata, and by bytes; in order, none lost, none twice."""
    items = [replace(sendable(n + 1), gas_used=g) for n, g in enumerate(gas)]
    batches = compose_batches(items, batch_max=batch_max, tx_gas_max=16_777_216)
    assert [p.id.int for b in batches for p in b.payments] == list(range(1, len(gas) + 1))
    for batch in batches:
        calldata = b"\xff" * (CALL_BYTES * len(batch.payments))
        assert len(batch.payments) <= batch_max
        assert len(calldata) <= 120_000
        assert batch.execution_gas >= BATCH_GAS_FLOOR
        assert intrinsic_gas(calldata) + batch.execution_gas <= 16_777_216


def test_payments_that_wait_deeper_or_for_a_second_endpoint_share_no_transaction_with_others() -> None:
    """Each kind among itself, and the oldest payment's transaction first, so that no kind is passed over for ever."""
    caution = Caution(large_amount=AtomicAmount(1_000), agree_amount=AtomicAmount(100))
    amounts = [500, 10, 2_000, 20, 700, 1_000]
    items = [
        replace(s := sendable(n), payment=replace(s.payment, amount=AtomicAmount(a)))
        for n, a in enumerate(amounts, start=1)
    ]
    batches = compose_batches(items, batch_max=200, tx_gas_max=16_777_216, caution=caution)
    assert [[p.id.int for p in batch.payments] for batch in batches] == [[1, 5], [2, 4], [3, 6]]


# ---- smart wallets, and who burns gas


def test_what_was_mined_without_effect_shares_with_half_as_many() -> None:
    """Each of twenty that came back shares with nine others at most; fresh ones are not held up by it."""
    back = [sendable(n, share_max=10) for n in range(1, 21)]
    batches = compose_batches([*back, *(sendable(n) for n in range(21, 31))], batch_max=200, tx_gas_max=16_777_216)
    assert [len(batch.payments) for batch in batches] == [10, 10, 10]
    alone = compose_batches([sendable(n, share_max=1) for n in (1, 2)], batch_max=200, tx_gas_max=16_777_216)
    assert [len(batch.payments) for batch in alone] == [1, 1]


def test_payments_accepted_unverified_are_tried_in_calls_of_their_own() -> None:
    """Eight at most; what keys signed is tried together."""
    keys, wallets = [claimed(n) for n in range(1, 21)], [claimed(n, by_wallet=True) for n in range(21, 38)]
    groups = preflight_groups([*wallets, *keys])
    assert [len(group) for group in groups] == [20, 8, 8, 1]
    assert not any(p.by_wallet for p in groups[0])


def test_a_payer_that_burned_its_own_transaction_is_not_sent_again() -> None:
    """One that was only set apart goes alone, also without code."""
    payments = [claimed(1), claimed(2, payer=Address(b"\x02" * 20))]
    quarantined = {payments[0].payer: 1, payments[1].payer: 0}
    plan = plan_settlement(payments, seen(saw(), saw()), {}, quarantined=quarantined)
    assert [(f.id, f.code) for f in plan.failed] == [(payments[0].id, "payer_quarantined")]
    assert [(s.payment, s.alone) for s in plan.send] == [(payments[1], True)]


def test_a_wallet_that_takes_all_its_gas_fails_at_a_second_block_where_its_key_never_signed() -> None:
    """What a key signed waits: the code may be gone again before the authorization ends."""
    greedy = saw(ok=False, code_size=23, gas_used=1_000_000)
    first = judged(claimed(by_wallet=True), greedy)
    assert [p.code for p in first.postponed] == ["invalid_exact_evm_transaction_simulation_failed"]
    again = claimed(by_wallet=True, suspected_code=first.postponed[0].code, suspected_height=BlockNumber(99))
    assert len(judged(again, greedy).failed) == 1
    assert [p.code for p in judged(claimed(), greedy).postponed] == [None]
