"""What is bid for gas, and what is bid again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from payfirst.chain.fees import Fees, fees_at, replacement_fees
from payfirst.units import Wei

GWEI = 10**9


def test_a_first_bid_outlasts_a_doubling_base_fee() -> None:
    """Twice the base fee and the tip, never above the cap."""
    assert fees_at(Wei(GWEI), priority_fee=Wei(5), max_fee_cap=Wei(50 * GWEI)) == Fees(Wei(2 * GWEI + 5), Wei(5))
    assert fees_at(Wei(GWEI), priority_fee=Wei(5), max_fee_cap=Wei(GWEI + 5)) == Fees(Wei(GWEI + 5), Wei(5))
    assert fees_at(Wei(GWEI), priority_fee=Wei(5), max_fee_cap=Wei(GWEI + 4)) is None


@given(
    st.integers(1, 10**12),
    st.integers(0, 10**10),
    st.integers(0, 10**12),
    st.integers(0, 10**10),
    st.integers(1, 10**13),
)
def test_a_replacement_is_one_that_every_node_takes(max_fee: int, tip: int, base: int, wanted: int, cap: int) -> None:
    """Both fees rise by an eighth at least, the cap holds, and the tip is no more than the whole."""
    previous = Fees(Wei(max_fee), Wei(min(tip, max_fee)))
    found = replacement_fees(previous, Wei(base), priority_fee=Wei(wanted), max_fee_cap=Wei(cap))
    if found is None:
        room = -(-previous.max_fee * 9 // 8)
        assert cap < max(room, previous.max_fee + 1) or wanted > cap or wanted > max(room, 2 * base + wanted)
        return
    assert previous.max_fee < found.max_fee <= cap
    assert found.max_fee * 8 >= previous.max_fee * 9
    assert found.max_priority_fee * 8 >= previous.max_priority_fee * 9
    assert found.max_priority_fee > previous.max_priority_fee
    assert found.max_priority_fee <= found.max_fee
