"""What one process takes between two counts of the queue: so that its limits hold without a look at the database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from payfirst.store.payments import NewPayment
from payfirst.units import Address

# A number of payments, and the units or the value they sum up to.
Sum = tuple[int, int]
NOTHING: Sum = (0, 0)


class Sums:
    """Payments in number, by token with their units, and by payer with their value."""

    __slots__ = ("by_payer", "by_token", "payments")

    def __init__(self) -> None:
        self.payments = 0
        self.by_token: dict[Address, Sum] = {}
        self.by_payer: dict[Address, Sum] = {}

    def add(self, payment: NewPayment) -> None:
        """One more."""
        self.payments += 1
        _change(self.by_token, payment.token, 1, payment.quantity)
        _change(self.by_payer, payment.payer, 1, payment.amount)

    def remove(self, payment: NewPayment) -> None:
        """One that was added."""
        self.payments -= 1
        _change(self.by_token, payment.token, -1, -payment.quantity)
        _change(self.by_payer, payment.payer, -1, -payment.amount)

    def add_all(self, others: Sums) -> None:
        """All of `others`."""
        self.payments += others.payments
        for mine, theirs in ((self.by_token, others.by_token), (self.by_payer, others.by_payer)):
            for key, (payments, total) in theirs.items():
                _change(mine, key, payments, total)


class Tally:
    """Payments on their way into the table, and those put there since it was counted.

    A payment leaves when a count that began after its commit has ended; until then it may be in both, never in neither.
    """

    def __init__(self) -> None:
        self._in_flight: dict[uuid.UUID, NewPayment] = {}
        self._now = Sums()  # what is in flight, and what was stored after the last count began
        self._before = Sums()  # stored before the count that is under way: it has them

    @property
    def payments(self) -> int:
        """All of them."""
        return self._now.payments + self._before.payments

    def of_token(self, token: Address) -> Sum:
        """Payments and units of a token."""
        return _sum(self._now.by_token.get(token, NOTHING), self._before.by_token.get(token, NOTHING))

    def of_payer(self, payer: Address) -> Sum:
        """Payments and value of a payer."""
        return _sum(self._now.by_payer.get(payer, NOTHING), self._before.by_payer.get(payer, NOTHING))

    def begin(self, payment: NewPayment) -> None:
        """It was admitted and is being stored."""
        self._in_flight[payment.id] = payment
        self._now.add(payment)

    def end(self, payment: NewPayment, *, stored: bool) -> None:
        """It is no longer being stored: it is in the table, or may be, or is known not to be put there."""
        del self._in_flight[payment.id]
        if not stored:
            self._now.remove(payment)

    def stored(self, payment: NewPayment) -> None:
        """It is in the table, or may be, and was not begun."""
        self._now.add(payment)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """The table is counted; if that fails, nothing is forgotten."""
        self._before, self._now = self._now, Sums()
        for payment in self._in_flight.values():  # whether the count sees it nobody knows
            self._before.remove(payment)
            self._now.add(payment)
        try:
            yield
        except BaseException:
            self._now.add_all(self._before)
            raise
        finally:
            self._before = Sums()


def _change(sums: dict[Address, Sum], key: Address, payments: int, total: int) -> None:
    known = sums.get(key)
    if known is None:
        sums[key] = (payments, total)
    elif known[0] + payments:
        sums[key] = (known[0] + payments, known[1] + total)
    else:
        del sums[key]  # payers come and go


def _sum(one: Sum, other: Sum) -> Sum:
    return one[0] + other[0], one[1] + other[1]
