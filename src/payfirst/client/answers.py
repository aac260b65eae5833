"""What a seller's answers mean for a payment. Pure.

An answer decides something only where it is payfirst's own: any other, whatever its status, says that the outcome is
not known. A proxy's 404 must not make a buyer pay again.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal

import msgspec

# Whoever asks for longer is asked again all the same.
RETRY_AFTER_S_MAX = 3_600
SENTENCE_CHARACTERS_MAX = 400

# Refusals that the same request may be spared later; nothing has to be changed.
TRIED_AGAIN = frozenset({408, 425, 429})

_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\u2027\u2030-\uffff]")


HashText = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_problem(self) -> bool:
        """Whether it says to be a problem document (RFC 9457)."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/problem+json"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No whole answer came, and whether the request arrived is not known; nothing of what was sent is in `reason`."""

    reason: str


class Unit(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """One unit of a payment."""

    queue_id: str
    status: Literal["pending", "sent", "completed", "owed"]
    mint_id: HashText
    tx_hash: HashText | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a payment failed."""

    code: str
    message: str


class Payment(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What a seller says of a payment; `completed` means paid."""

    payment_queue_id: uuid.UUID
    status: Literal["pending", "sent", "completed", "failed"]
    quantity: int
    tx_hash: HashText | None = None
    error: Failure | None = None
    mints: tuple[Unit, ...] = ()

    @property
    def minted(self) -> int:
        """How many units are in the wallet."""
        return sum(unit.status == "completed" for unit in self.mints)

    @property
    def owed(self) -> int:
        """How many were paid for and cannot be minted."""
        return sum(unit.status == "owed" for unit in self.mints)

    @property
    def is_minted(self) -> bool:
        """Paid, and each unit is in the wallet."""
        return self.status == "completed" and self.quantity == len(self.mints) == self.minted

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to wait for: failed, or each unit minted or owed."""
        if self.status != "completed":
            return self.status == "failed"
        return self.quantity == len(self.mints) == self.minted + self.owed


@dataclass(frozen=True, slots=True)
class Taken:
    """The payment is the seller's to settle."""

    payment_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Known:
    """What has become of it, by the seller's document."""

    payment: Payment
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """It is as it was."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An offer: the content of PAYMENT-REQUIRED."""

    header: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The seller's refusal, which took nothing."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The seller knows no such payment."""


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing is known from this; the same is to be sent again, after so many seconds if the seller says so."""

    reason: str
    after_s: float | None = None


class _TakenWire(msgspec.Struct, rename="camel", kw_only=True):
    payment_queue_id: uuid.UUID


class _ProblemWire(msgspec.Struct, kw_only=True):
    code: str
    detail: str = ""


class _RequiredWire(msgspec.Struct, rename="camel", kw_only=True):
    x402_version: int
    error: str
    detail: str = ""


_TAKEN = msgspec.json.Decoder(_TakenWire)
_PAYMENT = msgspec.json.Decoder(Payment)
_PROBLEM = msgspec.json.Decoder(_ProblemWire)
_REQUIRED = msgspec.json.Decoder(_RequiredWire)
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def judge_offer(answer: HttpAnswer | NoAnswer, *, now: float) -> Asked | Refused | Again:
    """The answer to a request that carried no payment."""
    if isinstance(answer, NoAnswer):
        return Again(answer.reason)
    if answer.status == 402 and "payment-required" in answer.headers:
        return Asked(answer.headers["payment-required"])
    return _refusal(answer) or _again(answer, now)


def judge_paid(answer: HttpAnswer | NoAnswer, *, now: float) -> Taken | Known | Refused | Again:
    """The answer to a request that carried the payment."""
    if isinstance(answer, NoAnswer):
        return Again(answer.reason)
    if answer.status == 202:
        try:
            return Taken(_TAKEN.decode(answer.body).payment_queue_id)
        except _UNREADABLE:
            return _again(answer, now)
    if answer.status == 200:
        return _known(answer) or _again(answer, now)
    if answer.status == 402:
        try:
            required = _REQUIRED.decode(answer.body)
        except _UNREADABLE:
            return _again(answer, now)
        return Refused(plain(required.error), plain(required.detail) or "The seller asks for another payment.")
    return _refusal(answer) or _again(answer, now)


def judge_status(answer: HttpAnswer | NoAnswer, *, now: float) -> Known | Unchanged | Missing | Again:
    """The answer to a look at a payment, by its id or by payer and nonce."""
    if isinstance(answer, NoAnswer):
        return Again(answer.reason)
    if answer.status == 304:
        return Unchanged()
    if answer.status == 200:
        return _known(answer) or _again(answer, now)
    if answer.status == 404 and _refusal(answer) is not None:
        return Missing()
    return _again(answer, now)


def plain(text: str) -> str:
    """A seller's words without what could move a terminal's cursor, and not too many of them."""
    return _UNPRINTABLE.sub("?", text[:SENTENCE_CHARACTERS_MAX])


def _known(answer: HttpAnswer) -> Known | None:
    try:
        return Known(_PAYMENT.decode(answer.body), answer.headers.get("etag"))
    except _UNREADABLE:
        return None


def _refusal(answer: HttpAnswer) -> Refused | None:
    """The problem document, where it says that the client has to change something."""
    if not answer.is_problem or not 400 <= answer.status < 500 or answer.status in TRIED_AGAIN:
        return None
    try:
        problem = _PROBLEM.decode(answer.body)
    except _UNREADABLE:
        return None
    return Refused(plain(problem.code), plain(problem.detail))


def _again(answer: HttpAnswer, now: float) -> Again:
    reason = f"HTTP {answer.status}"
    if answer.is_problem:
        with contextlib.suppress(*_UNREADABLE):
            reason = plain(_PROBLEM.decode(answer.body).detail) or reason
    elif 300 <= answer.status < 400 and "location" in answer.headers:
        reason = f"HTTP {answer.status}: it sends on to {plain(answer.headers['location'])[:120]}, not followed"
    return Again(reason, _retry_after_s(answer.headers.get("retry-after"), now))


def _retry_after_s(text: str | None, now: float) -> float | None:
    """Retry-After (RFC 9110, section 10.2.3): seconds, or a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), RETRY_AFTER_S_MAX))
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, moment - now), float(RETRY_AFTER_S_MAX))
