"""What payers have on its way to the chain, of which their balance does not know yet."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from payfirst.store import settling
from payfirst.store.database import Pool, session
from payfirst.store.settling import ClaimedPayment
from payfirst.units import Address

# To read it is to read all that is `sent`, thousands of rows at full speed: once for many batches.
READ_EVERY_S = 1.0


class OnItsWay:
    """One for all settle signers of a process: read once a second, and with all that these have sent since.

    So it may be too much, by what was confirmed since, and then a payment of who has hardly the money waits a second
    longer. Too little only by what other processes have sent in that second: then a transfer may fail on chain, which
    costs its gas.
    """

    def __init__(self, pool: Pool, *, network: str, asset: Address) -> None:
        self._pool = pool
        self._network = network
        self._asset = asset
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._amounts: Counter[Address] = Counter()
        self._since: Counter[Address] = Counter()  # the newest reading began

    async def read(self) -> Mapping[Address, int]:
        """Atomic units by payer; those without are absent or 0. Raises StoreUnavailable."""
        async with self._reading:
            began = time.monotonic()
            if began - self._read_at >= READ_EVERY_S:
                self._since = Counter()
                async with session(self._pool, "read what payers have on its way") as connection:
                    found = await settling.on_its_way(connection, network=self._network, asset=self._asset)
                self._amounts = Counter(found) + self._since
                self._read_at = began
        return self._amounts

    def add(self, payments: Iterable[ClaimedPayment]) -> None:
        """These are about to be sent: said before, as whether they were stored may remain unknown."""
        for payment in payments:
            self._amounts[payment.payer] += payment.amount
            self._since[payment.payer] += payment.amount
