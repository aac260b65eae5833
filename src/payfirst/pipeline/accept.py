"""Store payments durably, many requests in one commit, and find again what was stored before."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec

from payfirst.errors import PayerError, StoreUnavailable
from payfirst.lifecycle import PaymentStatus
from payfirst.ops import metrics
from payfirst.pipeline.admission import NotNow
from payfirst.store import payments
from payfirst.store import wallets as wallet_rows
from payfirst.store.database import Pool, session, transaction
from payfirst.store.payments import NewPayment, StoredPayment
from payfirst.store.wake import Notifier
from payfirst.units import Address, AuthorizationNonce

# One writer takes whatever waits; while it commits, the next batch gathers. A batch that is full does not wait for it.
BATCH_MAX = 256
FULL_WRITERS = 1
# Where others came while a batch was stored, more will: the next one gathers for as long as somebody comes in each of
# these steps, until so many wait, and at most so long. To store one or two costs PostgreSQL and this process nearly
# what ten do. Who comes alone waits for nobody.
GATHER_STEP_S = 0.001
GATHER_S_MAX = 0.010
GATHERED_MIN = 32
WAITING_MAX = 10_000
# So many of the authorizations that were stored last are known to be: who sends one again has it looked up at once.
KNOWN_MAX = 10_000
# The first look-up is made at once; those that come within this time after it share one.
LOOK_UP_EVERY_S = 0.005
# How long an uncertain commit is looked for before the buyer is asked to send the same header again.
REREAD_S = 3.0
REREAD_EVERY_S = 0.1

_Key: TypeAlias = tuple[Address, AuthorizationNonce]


class AuthorizationReused(PayerError):
    """This authorization paid for another request."""

    code: ClassVar[str] = "authorization_reused"


class OutcomeUnknown(StoreUnavailable):
    """The commit was cut; whether the payment was stored could not be found out in time."""


class Accepted(msgspec.Struct, frozen=True):
    """A payment in the queue. `created` is false when it was there before this request."""

    id: uuid.UUID
    created: bool
    status: PaymentStatus


class _Waiting(msgspec.Struct, frozen=True):
    payment: NewPayment
    answer: asyncio.Future[Accepted]


class _Sought(msgspec.Struct, frozen=True):
    key: _Key
    answer: asyncio.Future[StoredPayment | None]


class Acceptor:
    """A batch writer: the requests in flight share one statement and one commit, and look-ups in flight one statement.

    What is refused, or sent again, must not cost more than what is accepted: anybody can sign it and send it.
    """

    def __init__(self, pool: Pool, *, network: str, asset: Address, pay_to: Address, notifier: Notifier) -> None:
        self._pool = pool
        self._network = network
        self._asset = asset
        self._pay_to = pay_to
        self._notifier = notifier
        self._waiting: list[_Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._some_wait = asyncio.Event()
        self._many_wait = asyncio.Event()
        self._sought: list[_Sought] = []
        self._some_sought = asyncio.Event()
        # In the order in which they became it. Not a dict: looking for its first key passes all that were taken out.
        self._known: OrderedDict[_Key, None] = OrderedDict()

    async def accept(self, payment: NewPayment) -> Accepted:
        """Store one payment; returns after the commit.

        Raises AuthorizationReused when its authorization paid for another request, NotNow when too many wait,
        OutcomeUnknown when the commit was cut and could not be looked up.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise NotNow("Too many requests at once. Nothing was taken.", retry_after_s=1)
        if _key(payment) in self._known:
            earlier = await self.find(payment)
            if earlier is not None:
                return earlier
        waiting = _Waiting(payment, self._future())
        self._waiting.append(waiting)
        self._some_wait.set()
        if len(self._waiting) >= BATCH_MAX:
            self._many_wait.set()
        return await waiting.answer

    async def find(self, payment: NewPayment) -> Accepted | None:
        """What was stored earlier for this authorization, None if it is new.

        Raises AuthorizationReused or StoreUnavailable.
        """
        if len(self._sought) >= WAITING_MAX:
            raise StoreUnavailable("too many requests wait to be looked up")
        sought = _Sought(_key(payment), self._future())
        self._sought.append(sought)
        self._some_sought.set()
        stored = await sought.answer
        return None if stored is None else _replayed(payment, stored)

    def _future(self) -> asyncio.Future[Any]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # once: up to Python 3.11 it is a system call
        return self._loop.create_future()

    async def run(self) -> None:
        """Write until cancelled: while one batch commits, the next one gathers, and a small one a little longer."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_up())
            group.create_task(self._write(self._some_wait, gathers=True))
            for _ in range(FULL_WRITERS):
                group.create_task(self._write(self._many_wait))

    async def _gather(self) -> None:
        began, before = time.perf_counter(), 0  # uvloop's own time has whole milliseconds
        while before < len(self._waiting) < GATHERED_MIN and time.perf_counter() - began < GATHER_S_MAX:
            before = len(self._waiting)
            await asyncio.sleep(GATHER_STEP_S)

    async def _write(self, when: asyncio.Event, *, gathers: bool = False) -> None:
        while True:
            if gathers:
                await self._gather()
            await when.wait()
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if not self._waiting:
                self._some_wait.clear()
            if len(self._waiting) < BATCH_MAX:
                self._many_wait.clear()
            if not batch:
                continue
            try:
                await self._store(batch)
            except Exception as error:  # whatever it is: nobody may wait for ever for an answer
                for waiting in batch:
                    _refuse(waiting, error)
                raise

    async def _look_up(self) -> None:
        while True:
            await self._some_sought.wait()
            batch, self._sought = self._sought[:BATCH_MAX], self._sought[BATCH_MAX:]
            if not self._sought:
                self._some_sought.clear()
            try:
                found = await self._find_all({sought.key for sought in batch}, "look for earlier payments")
            except Exception as error:  # noqa: BLE001 - the requests that wait must be told; each raises it again
                for sought in batch:
                    if not sought.answer.done():
                        sought.answer.set_exception(error)
            else:
                for sought in batch:
                    if not sought.answer.done():
                        sought.answer.set_result(found.get(sought.key))
            await asyncio.sleep(LOOK_UP_EVERY_S)

    async def _find_all(self, keys: Collection[_Key], doing: str) -> dict[_Key, StoredPayment]:
        async with session(self._pool, doing) as connection:
            found = await payments.find_by_authorization(
                connection, network=self._network, asset=self._asset, keys=list(keys)
            )
            # Also as durable as a commit of now, where it has not ended: of what has, the chain has the evidence.
            if any(stored.status in (PaymentStatus.PENDING, PaymentStatus.SENT) for stored in found.values()):
                await payments.wait_for_standby(connection, timeout_s=REREAD_S)
        self._know(found)
        return found

    def _know(self, stored: Iterable[_Key]) -> None:
        """Remember that these are taken. Nothing rests on it: what is not known is found by the insert."""
        known = self._known
        for key in stored:
            known[key] = None
        while len(known) > KNOWN_MAX:
            known.popitem(last=False)

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        try:
            created = await self._insert([w.payment for w in batch])
        except StoreUnavailable:
            await self._settle_uncertain(batch)
            return
        except Exception as error:  # noqa: BLE001 - the requests that wait must be told; each raises it again
            for waiting in batch:
                _refuse(waiting, error)
            return
        if created:
            metrics.ACCEPT_BATCH.observe(len(created))
            self._notifier.wake()
        repeated: list[_Waiting] = []
        for waiting in batch:
            id_ = waiting.payment.id
            if id_ in created:
                _answer(waiting, Accepted(id_, created=True, status=PaymentStatus.PENDING))
            else:
                repeated.append(waiting)
        self._know(_key(waiting.payment) for waiting in batch)
        if repeated:
            await self._settle_uncertain(repeated)

    async def _insert(self, batch: Sequence[NewPayment]) -> set[uuid.UUID]:
        """One statement and its commit; a smart wallet's payments are noted in the same commit."""
        wallets = {p.id: p.payer for p in batch if p.by_wallet}
        opened = transaction if wallets else session
        async with opened(self._pool, "store payments") as connection:
            created = await payments.insert(
                connection, network=self._network, asset=self._asset, pay_to=self._pay_to, payments=batch
            )
            if wallets:
                stored = {id_: payer for id_, payer in wallets.items() if id_ in created}
                await wallet_rows.note(connection, network=self._network, payments=stored)
        return created

    async def _settle_uncertain(self, batch: Sequence[_Waiting]) -> None:
        """Answer by what the table holds: after a conflict, and after a commit whose outcome is unknown."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REREAD_S
        while True:
            try:
                found = await self._find_all({_key(w.payment) for w in batch}, "read payments again")
                break
            except StoreUnavailable as error:
                if loop.time() >= deadline:
                    for waiting in batch:
                        _refuse(waiting, OutcomeUnknown(str(error)))
                    return
                await asyncio.sleep(REREAD_EVERY_S)
        for waiting in batch:
            stored = found.get(_key(waiting.payment))
            try:
                if stored is None:
                    raise OutcomeUnknown("the payment is not in the table after a commit that was cut")
                _answer(waiting, _replayed(waiting.payment, stored))
            except (AuthorizationReused, OutcomeUnknown) as error:
                _refuse(waiting, error)
        self._notifier.wake()


def _key(payment: NewPayment) -> _Key:
    return payment.payer, payment.nonce


def _replayed(payment: NewPayment, stored: StoredPayment) -> Accepted:
    same = (stored.token, stored.quantity, stored.recipient) == (payment.token, payment.quantity, payment.recipient)
    if not same:
        raise AuthorizationReused(
            "This authorization already paid for another request. Sign a new one for this request."
        )
    return Accepted(stored.id, created=stored.id == payment.id, status=stored.status)


def _answer(waiting: _Waiting, accepted: Accepted) -> None:
    if not waiting.answer.done():  # a client that hung up left a cancelled future; its payment is stored all the same
        waiting.answer.set_result(accepted)


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
