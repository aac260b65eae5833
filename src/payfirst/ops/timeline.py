"""One payment's story as a list of dated lines. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus
from payfirst.ops.why import gwei
from payfirst.store.story import Attempt, Carrier, Item, Story, Unit
from payfirst.units import AtomicAmount, format_units


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and when; `at` is None for what is so now."""

    at: dt.datetime | None
    what: str


def timeline(story: Story, *, asset: str, decimals: int) -> list[Event]:
    """Everything that is known of a payment, the oldest first, and what is so now last."""
    # Where one commit did several things, the transaction is told before what it did.
    events: list[Event] = []
    for number, carrier in enumerate(story.carriers, start=1):
        events += _carrier(carrier, number, story)
    events += [*_payment(story, asset=asset, decimals=decimals), *_units(story)]
    for debt in story.debts:
        whole = "the whole payment" if debt.unit is None else f"unit {debt.unit}"
        amount = format_units(AtomicAmount(int(debt.amount)), decimals=decimals)
        events.append(
            Event(
                debt.created_at,
                f"debt {debt.id}: {whole} is owed {debt.direction.replace('_', ' ')} {debt.beneficiary}:"
                f" {amount} {asset} ({debt.reason})",
            )
        )
        if debt.resolved_at is not None:
            events.append(Event(debt.resolved_at, f"debt {debt.id}: {debt.status} ({debt.note or debt.resolution})"))
    for entry in story.entries:
        details = ", ".join(f"{name}: {value}" for name, value in entry.details.items())
        events.append(Event(entry.at, f"{entry.actor} did {entry.action} ({details})"))
    return sorted(events, key=lambda e: (e.at is None, e.at or story.payment.created_at))


def _payment(story: Story, *, asset: str, decimals: int) -> Iterator[Event]:
    payment = story.payment
    amount = format_units(AtomicAmount(int(payment.amount)), decimals=decimals)
    ends = dt.datetime.fromtimestamp(payment.valid_before, dt.UTC)
    yield Event(
        payment.created_at,
        f"accepted at height {payment.accepted_height}: {payment.quantity}x {payment.token_address} for {amount}"
        f" {asset} from {payment.payer}; its authorization ends {ends:%Y-%m-%d %H:%M:%S} UTC",
    )
    if payment.status is PaymentStatus.COMPLETED:
        whose = "our" if payment.settled_by_us else "somebody else's"
        yield Event(
            payment.processed_at,
            f"completed: Transfer in block {payment.settled_block} ({payment.settled_block_hash}), log"
            f" {payment.settled_log_index}, by {whose} transaction {payment.tx_hash}",
        )
        if payment.finality is not Finality.OPEN:
            yield Event(None, f"its transfer is {payment.finality}")
    elif payment.status is PaymentStatus.FAILED:
        yield Event(payment.processed_at, f"failed: {payment.error_code or 'by hand'}: {payment.error}")
    elif payment.status is PaymentStatus.PENDING:
        yield from _waiting(story)
    if payment.held_reason is not None:
        yield Event(None, f"held: {payment.held_reason}")
    if payment.archived_at is not None:
        yield Event(payment.archived_at, "moved to the history")


def _waiting(story: Story) -> Iterator[Event]:
    payment = story.payment
    if payment.suspected_code is not None:
        yield Event(None, f"suspected of {payment.suspected_code} at block {payment.suspected_height}")
    if payment.error is not None:
        due = "" if payment.next_attempt_at is None else f", due {payment.next_attempt_at:%H:%M:%S} UTC"
        yield Event(None, f"given back after {payment.attempts} tries: {payment.error}{due}")
    if payment.lease_owner is not None:
        yield Event(None, f"claimed by {payment.lease_owner} until {payment.lease_until:%H:%M:%S} UTC")
    if payment.supply_reserved:
        yield Event(None, f"supply of {payment.quantity} is reserved for it")


def _carrier(carrier: Carrier, number: int, story: Story) -> Iterator[Event]:
    name = f"transaction {number}"
    yield Event(
        carrier.created_at,
        f"{name}: to {carrier.purpose}, nonce {carrier.account_nonce} of {carrier.signer}, {carrier.item_count} items,"
        f" with {_subjects(carrier.items, story)}",
    )
    for place, attempt in enumerate(carrier.attempts, start=1):
        yield from _attempt(attempt, f"{name}, attempt {place}")
    if carrier.replace_requested_at is not None:
        yield Event(carrier.replace_requested_at, f"{name}: a replacement was asked for")
    if carrier.confirmed_at is not None:
        how = "succeeded" if carrier.succeeded else "reverted"
        yield Event(
            carrier.confirmed_at,
            f"{name}: {how} in block {carrier.mined_block} under {carrier.mined_hash}, {carrier.gas_used} gas,"
            f" {carrier.state}: {_outcomes(carrier.items, story)}",
        )


def _attempt(attempt: Attempt, name: str) -> Iterator[Event]:
    kind = " (a no-op: the nonce is given up)" if attempt.is_noop else ""
    fees = f"{gwei(attempt.max_fee_wei)} gwei, tip {gwei(attempt.priority_fee_wei)}"
    yield Event(attempt.created_at, f"{name}: {attempt.hash} stored at {fees}{kind}")
    if attempt.last_broadcast_at is not None:
        times = "once" if attempt.broadcast_count == 1 else f"{attempt.broadcast_count} times"
        said = "" if attempt.last_error is None else f"; the node said: {attempt.last_error}"
        yield Event(attempt.last_broadcast_at, f"{name}: handed to the node {times}{said}")


def _subjects(items: tuple[Item, ...], story: Story) -> str:
    units = [str(u.unit) for u in _units_of(items, story)]
    return f"unit {', '.join(units)}" if units else f"this payment at place {items[0].position}"


def _outcomes(items: tuple[Item, ...], story: Story) -> str:
    units = {u.id: u for u in story.units}
    parts = []
    for item in items:
        what = "this payment" if item.queue_id is None else f"unit {units[item.queue_id].unit}"
        parts.append(f"{what} {item.outcome or 'open'}")
    return ", ".join(parts)


def _units_of(items: tuple[Item, ...], story: Story) -> list[Unit]:
    wanted = {item.queue_id for item in items}
    return [u for u in story.units if u.id in wanted]


def _units(story: Story) -> Iterator[Event]:
    if not story.units:
        return
    created: dict[dt.datetime, list[Unit]] = {}
    for unit in story.units:
        created.setdefault(unit.created_at, []).append(unit)
    for at, units in created.items():
        noun = "1 mint row" if len(units) == 1 else f"{len(units)} mint rows"
        yield Event(at, f"{noun} created, for {units[0].recipient}")
    ended: dict[tuple[dt.datetime | None, MintStatus, str | None, str | None], list[Unit]] = {}
    for unit in story.units:
        if unit.status in (MintStatus.COMPLETED, MintStatus.OWED):
            key = (unit.processed_at, unit.status, unit.tx_hash, unit.error)
            ended.setdefault(key, []).append(unit)
        elif unit.status is MintStatus.PENDING:
            yield from _unit_waiting(unit)
    for (when, status, tx_hash, error), units in ended.items():
        names = ", ".join(str(u.unit) for u in units)
        if status is MintStatus.COMPLETED:
            yield Event(when, f"unit {names}: minted in block {units[0].minted_block} by {tx_hash}")
        else:
            yield Event(when, f"unit {names}: owed: {error}")


def _unit_waiting(unit: Unit) -> Iterator[Event]:
    if unit.held_reason is not None:
        yield Event(None, f"unit {unit.unit} is held: {unit.held_reason}")
    if unit.error is not None:
        due = "" if unit.next_attempt_at is None else f", due {unit.next_attempt_at:%H:%M:%S} UTC"
        yield Event(None, f"unit {unit.unit} was given back after {unit.attempts} tries: {unit.error}{due}")
