"""What payers have on its way to the chain, of which their balance does not know yet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from payfirst.errors import StoreUnavailable
from payfirst.store import settling
from payfirst.store.database import Pool, session
from payfirst.store.settling import ClaimedPayment
from payfirst.units import Address

# To read it is to read all that is `sent`, thousands of rows at full speed: once for many batches.
READ_EVERY_S = 1.0


class OnItsWay:
    """One for all settle signers of a process: read once a second, and with all that these send.

    It may be too much, by what was confirmed since, and by what was being stored while it was read; then a payment of
    who has hardly the money waits a second longer. It is too little by what other processes have sent in that second;
    then a transfer may fail on chain, which costs its gas.
    """

    def __init__(self, pool: Pool, *, network: str, asset: Address) -> None:
        self._pool = pool
        self._network = network
        self._asset = asset
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._found: Mapping[Address, int] = {}
        self._since: Counter[Address] = Counter()  # sent since the newest reading began
        self._sending: Counter[Address] = Counter()  # being stored now: a reading may see it or not

    async def read(self, payers: Collection[Address]) -> dict[Address, int]:
        """Atomic units of each of these payers, 0 where there are none. Raises StoreUnavailable."""
        async with self._reading:
            began = time.monotonic()
            if began - self._read_at >= READ_EVERY_S:
                before, self._since = self._since, Counter()
                try:
                    async with session(self._pool, "read what payers have on its way") as connection:
                        self._found = await settling.on_its_way(connection, network=self._network, asset=self._asset)
                except BaseException:
                    self._since.update(before)
                    raise
                self._read_at = began
        return {p: self._found.get(p, 0) + self._since[p] + self._sending[p] for p in payers}

    @contextlib.contextmanager
    def sending(self, payments: Iterable[ClaimedPayment]) -> Iterator[None]:
        """While these are being sent; they count from here on, unless the block says that they were not."""
        amounts: Counter[Address] = Counter()
        for payment in payments:
            amounts[payment.payer] += payment.amount
        self._sending.update(amounts)
        may_be_sent = True
        try:
            yield
        except Exception as error:
            may_be_sent = isinstance(error, StoreUnavailable)  # that is: it is not known
            raise
        finally:
            self._sending = self._sending - amounts  # without those that come to nothing
            if may_be_sent:
                self._since.update(amounts)
