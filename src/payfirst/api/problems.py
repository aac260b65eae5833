"""Refusals as RFC 9457 problem documents, and answers as plain values.

`type` is `urn:payfirst:problem:<code>`: stable, and nothing has to be served under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from starlette.types import Send

from payfirst.errors import PayerError, RetriedError, StoreUnavailable
from payfirst.pipeline.accept import AuthorizationReused
from payfirst.pipeline.admission import NotNow, PayerRefused, SoldOut, UnknownToken

RETRY_AFTER_STORE_S = 1

Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
PROBLEM_JSON: Header = (b"content-type", b"application/problem+json")
# An answer about a payment is true for one moment and one caller.
NO_STORE: Header = (b"cache-control", b"no-store")

_ENCODER = msgspec.json.Encoder()


class RequestRefused(PayerError):
    """The request itself is at fault, whatever it pays. `status` is the HTTP status."""

    status: ClassVar[int] = 400


class MalformedRequest(RequestRefused):
    """The body or the path does not say what is wanted."""

    code: ClassVar[str] = "invalid_request"


class MoreThanOnePayment(RequestRefused):
    """Two payment headers; which of them is meant cannot be known."""

    code: ClassVar[str] = "invalid_payload"


class TokenPathUnknown(RequestRefused):
    """What stands in the path is no address, so no token either."""

    code: ClassVar[str] = UnknownToken.code
    status: ClassVar[int] = 404


class NotFound(RequestRefused):
    """Nothing is known under this id or path."""

    code: ClassVar[str] = "not_found"
    status: ClassVar[int] = 404


class BodyTooLarge(RequestRefused):
    """The body is longer than any request needs."""

    code: ClassVar[str] = "body_too_large"
    status: ClassVar[int] = 413


class BodyTooSlow(RequestRefused):
    """The body did not arrive in time."""

    code: ClassVar[str] = "body_too_slow"
    status: ClassVar[int] = 408


class HeaderTooLarge(RequestRefused):
    """The payment header is longer than any payment needs."""

    code: ClassVar[str] = "header_too_large"
    status: ClassVar[int] = 431


TITLES: dict[str, str] = {
    "authorization_reused": "The authorization paid for another request",
    "body_too_large": "The body is too large",
    "body_too_slow": "The body came too slowly",
    "header_too_large": "The payment header is too large",
    "internal_error": "Something is wrong on this side",
    "invalid_payload": "The payment header cannot be read",
    "invalid_request": "The request cannot be read",
    "invalid_x402_version": "The payment is of another x402 version than its header",
    "method_not_allowed": "The method is not allowed here",
    "not_found": "Nothing is known under this name",
    "not_now": "Not now",
    "not_ready": "No payment could be accepted now",
    "outcome_unknown": "The outcome is unknown",
    "payer_quarantined": "The payer's account burned gas",
    "payer_short_of_funds": "The payer has signed more than it has",
    "sold_out": "Sold out",
    "too_many_payments": "Too many unsettled payments of one payer",
    "unknown_token": "Unknown token",
}


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The document; `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    reasons: list[str] = []


class Answer(msgspec.Struct, frozen=True):
    """A whole HTTP answer; `content-length` is added when it is sent."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


def problem(
    status: int, code: str, detail: str, *, headers: Sequence[Header] = (), reasons: Sequence[str] = ()
) -> Answer:
    """A problem+json answer; never cached."""
    document = Problem(
        type=f"urn:payfirst:problem:{code}",
        title=TITLES.get(code, code.replace("_", " ")),
        status=status,
        detail=detail,
        code=code,
        reasons=list(reasons),
    )
    return Answer(status, (PROBLEM_JSON, NO_STORE, *headers), _ENCODER.encode(document))


def retry_after(seconds: int) -> Header:
    """`Retry-After` in seconds."""
    return (b"retry-after", str(seconds).encode())


def refusal(error: PayerError | RetriedError) -> Answer:
    """What a refusal looks like over HTTP; invalid payments (402) are the mint route's own."""
    match error:
        case RequestRefused():
            return problem(error.status, error.code, str(error))
        case UnknownToken():
            return problem(404, error.code, str(error))
        case SoldOut() | AuthorizationReused():
            return problem(409, error.code, str(error))
        case PayerRefused():
            detail = f"{error} Send the same request again in {error.retry_after_s} s."
            return problem(429, error.code, detail, headers=[retry_after(error.retry_after_s)])
        case NotNow():
            detail = f"{error} Send the same request again in {error.retry_after_s} s."
            return problem(503, "not_now", detail, headers=[retry_after(error.retry_after_s)])
        case StoreUnavailable():
            detail = "The database does not answer at the moment. Send the same request again."
            return problem(503, "not_now", detail, headers=[retry_after(RETRY_AFTER_STORE_S)])
        case PayerError():
            return problem(400, error.code, str(error))
        case _:
            detail = f"{error} Send the same request again."
            return problem(503, "not_now", detail, headers=[retry_after(RETRY_AFTER_STORE_S)])


def method_not_allowed(method: str, allowed: str) -> Answer:
    """405 with `Allow`; for OPTIONS 204, which says the same."""
    allow = (b"allow", f"{allowed}, OPTIONS".encode())
    if method == "OPTIONS":
        return Answer(204, (allow,), b"")
    return problem(405, "method_not_allowed", f"Use {allowed} here.", headers=[allow])


def internal_error() -> Answer:
    """A fault of the program: what happened stands in the log, not in the answer."""
    detail = "This request failed here. If it carried a payment, send the same header again: it pays at most once."
    return problem(500, "internal_error", detail)


async def send_answer(send: Send, answer: Answer, added: Sequence[Header] = ()) -> None:
    """Send it, start and body, with some more headers."""
    headers = [*answer.headers, *added]
    if answer.status != 204:  # RFC 9110: no content, and no length of it
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
