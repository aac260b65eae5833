"""A payment and its units, driven through every order of events that the table allows."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from payfirst.lifecycle import (
    FINALITY,
    MINT,
    PAYMENT,
    Finality,
    FinalityEvent,
    MintEvent,
    MintStatus,
    PaymentEvent,
    PaymentStatus,
    next_mint,
    next_payment,
)

UNITS = 3


class PaidOrder(RuleBasedStateMachine):
    """What the workers do to one order: units exist from the moment it is completed, and never before."""

    def __init__(self) -> None:
        super().__init__()
        self.payment = PaymentStatus.PENDING
        self.finality = Finality.OPEN
        self.units: list[MintStatus] = []
        self.was_completed = False

    @rule(event=st.sampled_from(PaymentEvent))
    def something_happens_to_the_payment(self, event: PaymentEvent) -> None:
        """Any event; what the table does not hold cannot happen."""
        if (self.payment, event) not in PAYMENT:
            return
        self.payment = next_payment(self.payment, event)
        if self.payment is PaymentStatus.COMPLETED and not self.units:
            self.units = [MintStatus.PENDING] * UNITS
            self.was_completed = True

    @rule(event=st.sampled_from(FinalityEvent))
    def something_happens_to_its_transfer(self, event: FinalityEvent) -> None:
        """Only a completed payment has a transfer."""
        if self.payment is PaymentStatus.COMPLETED and (self.finality, event) in FINALITY:
            self.finality = FINALITY[self.finality, event]

    @rule(unit=st.integers(0, UNITS - 1), event=st.sampled_from(MintEvent))
    def something_happens_to_a_unit(self, unit: int, event: MintEvent) -> None:
        """Any event, to any unit that is there."""
        if not self.units or (self.units[unit], event) not in MINT:
            return
        before, self.units[unit] = self.units[unit], next_mint(self.units[unit], event)
        if self.units[unit] is MintStatus.OWED:
            assert before is MintStatus.PENDING, "nothing in flight is ever owed as well"

    @invariant()
    def units_stand_only_beside_a_completed_payment(self) -> None:
        """Payment first, and completed for ever."""
        assert bool(self.units) == (self.payment is PaymentStatus.COMPLETED)
        assert self.was_completed == (self.payment is PaymentStatus.COMPLETED)

    @invariant()
    def what_is_final_or_lost_stays_so_or_open(self) -> None:
        """A transfer that was never there is never final."""
        assert self.finality is Finality.OPEN or self.payment is PaymentStatus.COMPLETED


PaidOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestPaidOrder = PaidOrder.TestCase
