"""The pure parts: documents, problems, ids."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import uuid
from typing import Any

import msgspec
import pytest

from payfirst.api import problems
from payfirst.api.documents import payment_document, seen, stats_document, token_document
from payfirst.errors import LeaseLost, PayerError, RetriedError, StoreUnavailable
from payfirst.lifecycle import Finality, MintStatus, PaymentStatus
from payfirst.pipeline.accept import AuthorizationReused, OutcomeUnknown
from payfirst.pipeline.admission import QueueFull, SoldOut, UnknownToken
from payfirst.store.payments import ShownMint, ShownPayment
from payfirst.store.queue_stats import Queue, QueueStats
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, BlockNumber, MintId, TxHash
from payfirst.x402.payload import MalformedPayment

TIME = dt.datetime(2026, 1, 2, 3, 4, 5, 678_900, dt.UTC)
TOKEN = Token(
    address=Address(b"\x11" * 20),
    price=AtomicAmount(10_000),
    active=True,
    name="Test Token",
    symbol="TT",
    mint_amount=10**18,
    max_mint_count=100,
    minted=10,
    reserved=20,
    held_reason=None,
    synced_height=BlockNumber(1),
    synced_age_s=0.0,
)


def payment(**changes: Any) -> ShownPayment:
    """A completed payment of one unit, with `changes`."""
    shown = ShownPayment(
        id=uuid.UUID(int=1),
        network="eip155:84532",
        token=Address(b"\x11" * 20),
        payer=Address(b"\xab" * 20),
        amount=AtomicAmount(10**30),
        quantity=1,
        recipient=Address(b"\xab" * 20),
        status=PaymentStatus.COMPLETED,
        finality=Finality.OPEN,
        tx_hash=TxHash(b"\xaa" * 32),
        error=None,
        error_code=None,
        queue_ids=("q",),
        created_at=TIME,
        processed_at=TIME,
        mints=(ShownMint(uuid.UUID(int=2), 0, Address(b"\xab" * 20), MintId(b"\x01" * 32), MintStatus.PENDING, None),),
    )
    return dataclasses.replace(shown, **changes)


def as_json(document: msgspec.Struct) -> dict[str, Any]:
    """What a client reads."""
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(document))
    return decoded


def test_amounts_are_decimal_strings_and_addresses_checksummed() -> None:
    """No client loses digits of a large amount, and times have milliseconds in UTC."""
    document = as_json(payment_document(payment()))
    assert document["amount"] == "1" + "0" * 30
    assert document["payer"] == "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"
    assert document["createdAt"] == "2026-01-02T03:04:05.678Z"


@pytest.mark.parametrize("status", [PaymentStatus.PENDING, PaymentStatus.SENT, PaymentStatus.FAILED])
def test_only_a_completed_payment_has_a_result(status: PaymentStatus) -> None:
    """Before, and after a failure, there are neither units nor a result, whatever the row holds."""
    document = as_json(payment_document(payment(status=status)))
    assert (document["result"], document["mints"]) == (None, [])
    assert as_json(payment_document(payment()))["result"] == {"queueIds": ["q"], "quantity": 1}


def test_a_nested_payment_leaves_its_units_out() -> None:
    """Not an empty list, which would say that it has none."""
    assert "mints" not in as_json(payment_document(payment(), with_mints=False))


@pytest.mark.parametrize("queue", ["payment_queue", "mint_queue"])
def test_stats_name_every_status(queue: Queue) -> None:
    """A status that no row has is zero, not missing."""
    stats = QueueStats(
        by_status={"sent": 7}, avg_seconds=None, rate_per_second=0.0, oldest_pending_seconds=None, stuck_in_sent=0
    )
    counted = as_json(stats_document(queue, stats))["byStatus"]
    statuses = PaymentStatus if queue == "payment_queue" else MintStatus
    assert counted == {status.value: 7 if status == "sent" else 0 for status in statuses}


@pytest.mark.parametrize(
    ("changes", "waiting_units", "remaining", "status"),
    [
        ({}, 0, 70, "active"),
        ({}, 30, 40, "active"),
        ({}, 70, 0, "sold_out"),
        ({}, 90, 0, "sold_out"),
        ({"active": False}, 0, 70, "paused"),
        ({"held_reason": "x"}, 0, 70, "held"),
        ({"max_mint_count": None}, 0, None, "unsynced"),
    ],
)
def test_what_remains_of_a_token(
    changes: dict[str, Any], waiting_units: int, remaining: int | None, status: str
) -> None:
    """Minted, reserved and waiting units are gone; never fewer than none are left."""
    token = dataclasses.replace(TOKEN, **changes)
    document = as_json(
        token_document(
            token, asset=Address(b"\x22" * 20), network="eip155:84532", waiting_units=waiting_units, quantity_max=10
        )
    )
    assert (document["remaining"], document["status"]) == (remaining, status)
    assert (document["price"], document["mintAmount"]) == ("10000", str(10**18))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedPayment("Bad."), 400, "invalid_payload"),
        (problems.MalformedRequest("Bad."), 400, "invalid_request"),
        (UnknownToken("None."), 404, "unknown_token"),
        (problems.BodyTooSlow("Slow."), 408, "body_too_slow"),
        (SoldOut("None left."), 409, "sold_out"),
        (AuthorizationReused("Used."), 409, "authorization_reused"),
        (problems.BodyTooLarge("Large."), 413, "body_too_large"),
        (problems.HeaderTooLarge("Large."), 431, "header_too_large"),
        (QueueFull("Full.", retry_after_s=7), 503, "not_now"),
        (StoreUnavailable("password leaked by the driver"), 503, "not_now"),
        (OutcomeUnknown("cut"), 503, "not_now"),
        (LeaseLost("Lost."), 503, "not_now"),
    ],
)
def test_each_refusal_has_its_status(error: PayerError | RetriedError, status: int, code: str) -> None:
    """One table of errors and statuses; what may come later says when."""
    answer = problems.refusal(error)
    document = json.loads(answer.body)
    assert (answer.status, document["status"], document["code"]) == (status, status, code)
    assert document["type"] == f"urn:payfirst:problem:{code}"
    assert (b"retry-after" in dict(answer.headers)) == (status == 503)


def test_the_drivers_words_stay_inside() -> None:
    """What PostgreSQL or the driver said is for the log."""
    assert b"leaked" not in problems.refusal(StoreUnavailable("password leaked by the driver")).body


def units(*statuses: MintStatus) -> tuple[ShownMint, ...]:
    """Units of one payment in these states."""
    return tuple(
        ShownMint(uuid.UUID(int=unit), unit, Address(b"\xab" * 20), MintId(bytes([unit]) * 32), status, None)
        for unit, status in enumerate(statuses)
    )


@pytest.mark.parametrize(
    ("changes", "is_settled", "is_last"),
    [
        ({"status": PaymentStatus.PENDING, "mints": ()}, False, False),
        ({"status": PaymentStatus.SENT, "mints": ()}, False, False),
        ({"status": PaymentStatus.FAILED, "mints": ()}, True, True),
        ({"mints": units(MintStatus.COMPLETED, MintStatus.PENDING)}, True, False),
        ({"mints": units(MintStatus.SENT)}, True, False),
        ({"mints": units(MintStatus.COMPLETED, MintStatus.OWED)}, True, True),
        ({"mints": units(MintStatus.PENDING), "finality": Finality.LOST}, True, True),
    ],
)
def test_what_is_still_to_be_expected(changes: dict[str, Any], is_settled: bool, is_last: bool) -> None:
    """Settled is paid or failed; the last state has no unit on its way."""
    now = seen(payment(**changes))
    assert (now.is_settled, now.is_last) == (is_settled, is_last)


def test_a_tag_stands_for_what_the_buyer_sees() -> None:
    """The same rows give the same one; what is not shown changes nothing."""
    assert seen(payment()).tag == seen(payment(finality=Finality.FINAL)).tag
    assert seen(payment()).tag != seen(payment(tx_hash=TxHash(b"\xbb" * 32))).tag
