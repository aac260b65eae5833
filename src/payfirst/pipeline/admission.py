"""Whether a payment may be taken now: only what can be settled and delivered is accepted. Decided purely.

The limits of one payer and one token are kept by counting in this process on top of a snapshot of the table. Several
API processes share the table, not their counts: a limit may be exceeded by what the others took since the last
snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from payfirst.errors import PayerError, RetriedError, StoreUnavailable
from payfirst.pipeline.tally import Sum, Tally
from payfirst.store import admission, settings
from payfirst.store.admission import EMPTY_QUEUE, Snapshot, Workers
from payfirst.store.database import Pool, session
from payfirst.store.payments import NewPayment
from payfirst.store.short_payers import ShortPayer
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, Depth, UnixTime

REFRESH_S = 0.25
# The queue is counted less often the longer that takes, so that each process's counting costs the database a 25th of a
# core at most.
COUNT_SHARE_MAX = 0.04
RETRY_AFTER_S = 5
PAUSED_RETRY_AFTER_S = 30
# Payers with fewer than this part of their limit are too many to be told of.
CROWDED_PART = 4


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
    """No worker is alive, or none sees the chain, or none confirms what it sees."""


class NotAccepting(NotNow):
    """The operator has stopped accepting: the system drains, or nothing is settled for a while."""


class TokenNotReady(NotNow):
    """The token is paused, held, or was not read from the chain (for a while)."""


class QueueFull(NotNow):
    """The queue or a token's part of it is at its limit, or the queue would outlast the authorization."""


class PayerRefused(NotNow):
    """This payer has to wait; others need not."""

    code: ClassVar[str]


class PayerAtLimit(PayerRefused):
    """As many payments of this payer as are allowed are unsettled."""

    code: ClassVar[str] = "too_many_payments"


class PayerShort(PayerRefused):
    """The payer has signed more than it was last seen to have."""

    code: ClassVar[str] = "payer_short_of_funds"


class PayerQuarantined(PayerRefused):
    """The code of this payer's account burned the gas of a settlement."""

    code: ClassVar[str] = "payer_quarantined"


@dataclass(frozen=True, slots=True)
class Limits:
    """What admission is bound by; ages and times in seconds."""

    heartbeat_age_s_max: float
    confirm_lag_s_max: float
    token_sync_age_s_max: float
    confirmations: Depth
    queue_depth_max: int
    token_unsettled_max: int
    payer_unsettled_max: int
    payer_short_s: float
    drain_rate_floor_per_s: float
    seconds_left_min: int
    accepting: bool = True  # false while the operator drains the system
    wallet_unsettled_max: int = 0  # of payments accepted unverified
    wallet_payer_unsettled_max: int = 0
    settling: bool = True  # false while the operator lets nothing be settled: then nothing is accepted either

    @property
    def crowded_min(self) -> int:
        """From how many unsettled payments on a payer's exact number must be known."""
        return max(1, self.payer_unsettled_max // CROWDED_PART)


# Lays what the table of settings holds, JSON values by setting, over the configuration of the process.
LimitsOf = Callable[[Mapping[str, object]], Limits]


def why_not_accepting(limits: Limits) -> str | None:
    """Why the operator lets nothing be accepted, None where it is."""
    if not limits.accepting:
        return "No payments are accepted at the moment."
    if not limits.settling:
        return "Nothing is settled at the moment, so no payments are accepted."
    return None


def token_on_offer(snapshot: Snapshot, token: Address) -> Token:
    """The token, if it is one of ours. Raises UnknownToken."""
    found = snapshot.tokens.get(token)
    if found is None:
        raise UnknownToken("No such token is sold here. GET /api/tokens lists those that are.")
    return found


def confirm_lag_s(workers: Workers, *, confirmations: Depth) -> float:
    """By how much chain time confirming is behind what is deep enough; the newest such block is not late yet."""
    if isinstance(confirmations, int):
        newest = workers.head_height - (confirmations - 1)
    else:
        newest = workers.cursor_height if workers.confirmable_height is None else workers.confirmable_height
    late = newest - workers.cursor_height - 1
    if late <= 0:
        return 0.0
    return (workers.head_time - workers.cursor_time) * late / (workers.head_height - workers.cursor_height)


def workers_missing(workers: Workers | None, *, age_s: float, limits: Limits) -> list[str]:
    """What keeps the workers from settling and delivering, in sentences without their ends; empty when nothing does.

    `age_s` is how old the snapshot is.
    """
    if workers is None or workers.worker_age_s is None:
        missing = ["No worker has reported yet"]
    elif workers.worker_age_s + age_s > limits.heartbeat_age_s_max:
        missing = [f"No worker has reported for {workers.worker_age_s + age_s:.0f} s"]
    else:
        missing = []
    if workers is not None:
        if workers.head_age_s + age_s > limits.heartbeat_age_s_max:
            missing.append(f"The chain has not been seen for {workers.head_age_s + age_s:.0f} s")
        lag_s = confirm_lag_s(workers, confirmations=limits.confirmations)
        if lag_s > limits.confirm_lag_s_max:
            missing.append(f"Confirming is {lag_s:.0f} s behind the chain")
    return missing


def demand_token_ready(token: Token, workers: Workers | None, *, age_s: float, limits: Limits) -> None:
    """Return if what is known of a token's contract is good enough to sell it. Raises TokenNotReady."""
    if not token.active:
        raise TokenNotReady("The seller has paused this token. Nothing was taken.")
    if token.max_mint_count is None or token.synced_height is None or token.synced_age_s is None:
        raise TokenNotReady("This token has not been read from the chain yet. Nothing was taken.")
    if token.held_reason is not None:
        raise TokenNotReady("This token cannot be minted at the moment. Nothing was taken.")
    # While no block follows the one at which it was read, nothing can have changed.
    has_blocks_since = workers is not None and workers.cursor_height > token.synced_height
    if has_blocks_since and token.synced_age_s + age_s > limits.token_sync_age_s_max:
        raise TokenNotReady(
            f"This token has not been read from the chain for {token.synced_age_s + age_s:.0f} s. Nothing was taken."
        )


def admit(
    snapshot: Snapshot,
    *,
    age_s: float,
    limits: Limits,
    token: Token,
    quantity: int,
    payments_taken: int,
    token_taken: Sum,
) -> None:
    """Return if an offer for `quantity` units can be kept; `age_s` is how old the snapshot is.

    `payments_taken`, and `token_taken` in payments and units of this token, came after the queue was counted.
    Raises NotAccepting, NothingToSettleWith, TokenNotReady, QueueFull or SoldOut.
    """
    stopped = why_not_accepting(limits)
    if stopped is not None:
        raise NotAccepting(f"{stopped} Nothing was taken.", retry_after_s=PAUSED_RETRY_AFTER_S)
    missing = workers_missing(snapshot.workers, age_s=age_s, limits=limits)
    if missing:
        raise NothingToSettleWith(f"{missing[0]}, so nothing could be settled. Nothing was taken.")
    demand_token_ready(token, snapshot.workers, age_s=age_s, limits=limits)
    queue = snapshot.queue
    if queue.unsettled_payments + payments_taken >= limits.queue_depth_max:
        raise QueueFull("The queue is full. Nothing was taken.")
    if queue.unsettled_by_token.get(token.address, 0) + token_taken[0] >= limits.token_unsettled_max:
        raise QueueFull(
            f"{limits.token_unsettled_max} payments for this token are unsettled, as many as are allowed at once."
            " Nothing was taken."
        )
    # maxMintCount was read: demand_token_ready says so.
    max_mint_count = token.max_mint_count or 0
    promised = token.minted + token.reserved + queue.waiting_units.get(token.address, 0) + token_taken[1]
    if promised + quantity > max_mint_count:
        left = max(0, max_mint_count - promised)
        raise SoldOut(f"{left} left of this token, {quantity} asked for: ask for fewer. Nothing was taken.")


def admit_payer(
    snapshot: Snapshot, *, limits: Limits, payer: Address, amount: AtomicAmount, payer_taken: Sum, news_age_s: float
) -> None:
    """Return if one more payment of this payer over `amount` may wait beside its others.

    `payer_taken` in payments and value came after the queue was counted, which was `news_age_s` ago.
    Raises PayerQuarantined, PayerAtLimit or PayerShort.
    """
    payments, value = payer_taken
    if payer in snapshot.queue.quarantined:
        raise PayerQuarantined(
            "The code of this payer's account burned the gas of a settlement. Pay from another account."
            " Nothing was taken.",
            retry_after_s=max(1, math.ceil(snapshot.queue.quarantined[payer])),
        )
    if snapshot.queue.crowded.get(payer, 0) + payments >= limits.payer_unsettled_max:
        raise PayerAtLimit(
            f"{limits.payer_unsettled_max} payments of this payer are unsettled, as many as are allowed at once."
            " Nothing was taken."
        )
    short = snapshot.queue.short.get(payer)
    if short is not None and short.value + value + amount > short.balance:
        _demand_a_probe(
            short,
            limits=limits,
            promised=short.value + value + amount,
            is_first=short.payments + payments == 0,
            news_age_s=news_age_s,
        )


def admit_wallet(snapshot: Snapshot, *, limits: Limits, payer: Address, taken: int, payer_taken: int) -> None:
    """Return if one more payment may be accepted whose signature nobody has verified yet.

    `taken` by this process came after the queue was counted, `payer_taken` of them from this payer.
    Raises PayerAtLimit or QueueFull.
    """
    wallets = snapshot.queue.wallets
    if wallets.get(payer, 0) + payer_taken >= limits.wallet_payer_unsettled_max:
        raise PayerAtLimit(
            f"{limits.wallet_payer_unsettled_max} payments of this smart wallet are unsettled, as many as are allowed"
            " at once. Nothing was taken."
        )
    if sum(wallets.values()) + taken >= limits.wallet_unsettled_max:
        raise QueueFull(
            f"{limits.wallet_unsettled_max} payments of smart wallets are unsettled, as many as are allowed at once."
            " Nothing was taken."
        )


def _demand_a_probe(short: ShortPayer, *, limits: Limits, promised: int, is_first: bool, news_age_s: float) -> None:
    """Once the news is old, one payment at a time finds out whether the payer has been funded. Raises PayerShort."""
    fresh_s = limits.payer_short_s - (short.age_s + news_age_s)
    if fresh_s <= 0 and is_first:
        return
    raise PayerShort(
        f"This payer had {short.balance} atomic units of the asset at block {short.height}, and with this one its"
        f" unsettled payments come to {promised}: fund it first. Nothing was taken.",
        retry_after_s=max(1, math.ceil(fresh_s)) if fresh_s > 0 else RETRY_AFTER_S,
    )


def demand_time_to_settle(
    snapshot: Snapshot, *, limits: Limits, valid_before: UnixTime, now: UnixTime, payments_taken: int
) -> None:
    """Return if the queue drains before the authorization ends. Raises QueueFull."""
    rate = limits.drain_rate_floor_per_s
    if snapshot.workers is not None:
        rate = max(rate, snapshot.workers.settled_per_s)
    drained_in_s = (snapshot.queue.waiting_payments + payments_taken) / rate
    if now + drained_in_s > valid_before - limits.seconds_left_min:
        raise QueueFull(
            "The queue would outlast this authorization. Nothing was taken.",
            retry_after_s=max(1, min(600, math.ceil(drained_in_s / 2))),
        )


class Admission:
    """The newest snapshot, kept fresh by a read every `REFRESH_S`, and what this process took since."""

    def __init__(
        self, pool: Pool, *, network: str, asset: Address, limits_of: LimitsOf, monotonic: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._network = network
        self._asset = asset
        self._limits_of = limits_of
        self._settings: dict[str, object] = {}
        self._limits = limits_of(self._settings)
        self._monotonic = monotonic
        self._snapshot = Snapshot(None, {}, EMPTY_QUEUE)
        self._read_at = self._counted_at = self._count_due_at = monotonic()
        self._tally = Tally()
        self._wallets = Tally()  # those of them that were accepted unverified

    @property
    def snapshot(self) -> Snapshot:
        """What was read last."""
        return self._snapshot

    @property
    def limits(self) -> Limits:
        """What binds now: the configuration, and what the operator has set since."""
        return self._limits

    @property
    def age_s(self) -> float:
        """How old the news of workers and tokens is, in seconds."""
        return self._monotonic() - self._read_at

    def token(self, address: Address) -> Token:
        """The token, if it is on offer. Raises UnknownToken."""
        return token_on_offer(self._snapshot, address)

    def admit(self, token: Token, quantity: int) -> None:
        """Raises NotNow (NotAccepting, NothingToSettleWith, …) or SoldOut when an offer could not be kept."""
        admit(
            self._snapshot,
            age_s=self.age_s,
            limits=self._limits,
            token=token,
            quantity=quantity,
            payments_taken=self._tally.payments,
            token_taken=self._tally.of_token(token.address),
        )

    def begin(self, payment: NewPayment, token: Token, *, now: UnixTime) -> None:
        """Admit a payment, and count it as being stored until `end`.

        Raises NotNow (NotAccepting, QueueFull, PayerAtLimit, …) or SoldOut.
        """
        self.admit(token, payment.quantity)
        demand_time_to_settle(
            self._snapshot,
            limits=self._limits,
            valid_before=payment.valid_before,
            now=now,
            payments_taken=self._tally.payments,
        )
        admit_payer(
            self._snapshot,
            limits=self._limits,
            payer=payment.payer,
            amount=payment.amount,
            payer_taken=self._tally.of_payer(payment.payer),
            news_age_s=self._monotonic() - self._counted_at,
        )
        if payment.by_wallet:
            admit_wallet(
                self._snapshot,
                limits=self._limits,
                payer=payment.payer,
                taken=self._wallets.payments,
                payer_taken=self._wallets.of_payer(payment.payer)[0],
            )
            self._wallets.begin(payment)
        self._tally.begin(payment)

    def end(self, payment: NewPayment, *, stored: bool) -> None:
        """What `begin` counted is no longer being stored; where it was, or may have been, it counts on.

        That is until the table has been counted.
        """
        self._tally.end(payment, stored=stored)
        if payment.by_wallet:
            self._wallets.end(payment, stored=stored)

    def stored(self, payment: NewPayment) -> None:
        """Count a payment that this process may have put into the table without `begin`, until the table is counted."""
        self._tally.stored(payment)
        if payment.by_wallet:
            self._wallets.stored(payment)

    async def refresh(self) -> None:
        """Read settings, workers and tokens, and count the queue when that is due. Raises StoreUnavailable."""
        asked_at = self._monotonic()
        async with session(self._pool, "read the state of queue and workers") as connection:
            rows = await settings.read(connection)
            if rows != self._settings:
                self._settings, self._limits = rows, self._limits_of(rows)
                self._count_due_at = asked_at  # it was counted up to the limits before
            # The queue first: what a worker reserves in between is then counted twice, not never.
            queue = self._snapshot.queue
            if asked_at >= self._count_due_at:
                with self._tally.counting(), self._wallets.counting():
                    queue = await admission.count_queue(
                        connection,
                        self._network,
                        asset=self._asset,
                        count_max=self._limits.queue_depth_max,
                        crowded_min=self._limits.crowded_min,
                    )
                    # With the tally, whose older part is left out as this block ends.
                    self._snapshot = replace(self._snapshot, queue=queue)
                self._counted_at, counted_at = asked_at, self._monotonic()
                self._count_due_at = counted_at + (counted_at - asked_at) * (1 / COUNT_SHARE_MAX - 1)
            read_at = self._monotonic()
            workers = await admission.read_workers(connection, self._network)
            tokens = await admission.read_tokens(connection, self._network)
        self._snapshot = Snapshot(workers, tokens, queue)
        self._read_at = read_at

    async def run(self) -> None:
        """Refresh until cancelled; while the database is away the snapshot ages, and admission stops by itself."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # the snapshot's age says it
                await self.refresh()
            await asyncio.sleep(REFRESH_S)
