"""Whether a payment may be taken now: only what can be settled and delivered is accepted. Decided purely."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from payfirst.errors import PayerError, RetriedError, StoreUnavailable
from payfirst.store import admission
from payfirst.store.admission import Snapshot
from payfirst.store.database import Pool, session
from payfirst.store.tokens import Token
from payfirst.units import Address, UnixTime

REFRESH_S = 0.25
RETRY_AFTER_S = 5


class UnknownToken(PayerError):
    """The address in the URL is no token on offer here."""

    code = "unknown_token"


class SoldOut(PayerError):
    """Fewer units are left than were asked for."""

    code = "sold_out"


class NotNow(RetriedError):
    """Nothing was taken; the same request may succeed after `retry_after_s`."""

    def __init__(self, sentence: str, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class NothingToSettleWith(NotNow):
    """No worker is alive, or none sees the chain."""


class TokenNotReady(NotNow):
    """The token is paused, held, or was never read from the chain."""


class QueueFull(NotNow):
    """The queue is at its limit, or would outlast the authorization."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What admission is bound by; ages and times in seconds."""

    heartbeat_age_s_max: float
    queue_depth_max: int
    drain_rate_floor_per_s: float
    seconds_left_min: int


def token_on_offer(snapshot: Snapshot, token: Address) -> Token:
    """The token, if it is one of ours. Raises UnknownToken."""
    found = snapshot.tokens.get(token)
    if found is None:
        raise UnknownToken("No such token is sold here. GET /api/tokens lists those that are.")
    return found


def admit(
    snapshot: Snapshot,
    *,
    age_s: float,
    limits: Limits,
    token: Token,
    quantity: int,
    units_taken_since: int,
    payments_taken_since: int,
) -> None:
    """Return if an offer for `quantity` units can be kept; `age_s` is how old the snapshot is.

    Raises NothingToSettleWith, TokenNotReady, QueueFull or SoldOut.
    """
    workers = snapshot.workers
    if workers is None or workers.worker_age_s is None:
        raise NothingToSettleWith("No worker has reported yet, so nothing could be settled. Nothing was taken.")
    if workers.worker_age_s + age_s > limits.heartbeat_age_s_max:
        raise NothingToSettleWith(
            f"No worker has reported for {workers.worker_age_s + age_s:.0f} s, so nothing could be settled."
            " Nothing was taken."
        )
    if workers.head_age_s + age_s > limits.heartbeat_age_s_max:
        raise NothingToSettleWith(
            f"The chain has not been seen for {workers.head_age_s + age_s:.0f} s, so nothing could be settled."
            " Nothing was taken."
        )
    if not token.active:
        raise TokenNotReady("The seller has paused this token. Nothing was taken.")
    if token.max_mint_count is None:
        raise TokenNotReady("This token has not been read from the chain yet. Nothing was taken.")
    if token.held_reason is not None:
        raise TokenNotReady("This token cannot be minted at the moment. Nothing was taken.")
    waiting = snapshot.waiting_payments + payments_taken_since
    if waiting >= limits.queue_depth_max:
        raise QueueFull("The queue is full. Nothing was taken.")
    promised = token.minted + token.reserved + snapshot.waiting_units.get(token.address, 0) + units_taken_since
    if promised + quantity > token.max_mint_count:
        left = max(0, token.max_mint_count - promised)
        raise SoldOut(f"{left} left of this token, {quantity} asked for: ask for fewer. Nothing was taken.")


def demand_time_to_settle(
    snapshot: Snapshot, *, limits: Limits, valid_before: UnixTime, now: UnixTime, payments_taken_since: int
) -> None:
    """Return if the queue drains before the authorization ends. Raises QueueFull."""
    rate = limits.drain_rate_floor_per_s
    if snapshot.workers is not None:
        rate = max(rate, snapshot.workers.settled_per_s)
    drained_in_s = (snapshot.waiting_payments + payments_taken_since) / rate
    if now + drained_in_s > valid_before - limits.seconds_left_min:
        raise QueueFull(
            "The queue would outlast this authorization. Nothing was taken.",
            retry_after_s=max(1, min(600, math.ceil(drained_in_s / 2))),
        )


class Admission:
    """The newest snapshot, kept fresh by one read every `REFRESH_S`, and what this process took since."""

    def __init__(self, pool: Pool, *, network: str, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._network = network
        self._limits = limits
        self._monotonic = monotonic
        self._snapshot = Snapshot(None, {}, 0, {})
        self._read_at = monotonic()
        self._units_since: dict[Address, int] = {}
        self._payments_since = 0

    @property
    def snapshot(self) -> Snapshot:
        """What was read last."""
        return self._snapshot

    @property
    def age_s(self) -> float:
        """How old the snapshot is, in seconds."""
        return self._monotonic() - self._read_at

    def token(self, address: Address) -> Token:
        """The token, if it is on offer. Raises UnknownToken."""
        return token_on_offer(self._snapshot, address)

    def admit(self, token: Token, quantity: int) -> None:
        """Raises NothingToSettleWith, TokenNotReady, QueueFull or SoldOut when an offer could not be kept."""
        admit(
            self._snapshot,
            age_s=self.age_s,
            limits=self._limits,
            token=token,
            quantity=quantity,
            units_taken_since=self._units_since.get(token.address, 0),
            payments_taken_since=self._payments_since,
        )

    def demand_time_to_settle(self, *, valid_before: UnixTime, now: UnixTime) -> None:
        """Raises QueueFull when the queue would outlast the authorization."""
        demand_time_to_settle(
            self._snapshot,
            limits=self._limits,
            valid_before=valid_before,
            now=now,
            payments_taken_since=self._payments_since,
        )

    def took(self, token: Address, quantity: int) -> None:
        """Count a payment that this process accepted after the snapshot was read."""
        self._units_since[token] = self._units_since.get(token, 0) + quantity
        self._payments_since += 1

    async def refresh(self) -> None:
        """Read once. Raises StoreUnavailable."""
        asked_at = self._monotonic()
        units_before, payments_before = dict(self._units_since), self._payments_since
        async with session(self._pool, "read the state of queue and workers") as connection:
            self._snapshot = await admission.read(connection, self._network)
        self._read_at = asked_at
        # What was taken while the read was under way may or may not be in it: count it twice, not never.
        self._units_since = {token: units - units_before.get(token, 0) for token, units in self._units_since.items()}
        self._payments_since -= payments_before

    async def run(self) -> None:
        """Refresh until cancelled; while the database is away the snapshot ages, and admission stops by itself."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # the snapshot's age says it
                await self.refresh()
            await asyncio.sleep(REFRESH_S)
