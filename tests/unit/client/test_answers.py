"""What an answer means for a payment: only payfirst's own answers decide anything."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from payfirst.api.problems import problem, retry_after
from payfirst.client.answers import (
    Again,
    Asked,
    HttpAnswer,
    Known,
    Missing,
    NoAnswer,
    Payment,
    Refused,
    Taken,
    Unchanged,
    judge_offer,
    judge_paid,
    judge_status,
)

NOW = 1_800_000_000.0
ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
HASH = "0x" + "ab" * 32
PAYMENT: dict[str, Any] = {
    "paymentQueueId": str(ID),
    "status": "completed",
    "payer": "0x" + "11" * 20,
    "amount": "20000",
    "quantity": 2,
    "token": "0x" + "22" * 20,
    "txHash": HASH,
    "error": None,
    "result": {"queueIds": [], "quantity": 2},
    "mints": [],
}


def answer(status: int, body: object = b"", **headers: str) -> HttpAnswer:
    """An answer; header names with _ for -."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def ours(status: int, code: str, sentence: str = "Do this.", after_s: int | None = None) -> HttpAnswer:
    """A refusal as the API makes it."""
    made = problem(status, code, sentence, headers=[] if after_s is None else [retry_after(after_s)])
    return HttpAnswer(made.status, {name.decode(): value.decode() for name, value in made.headers}, made.body)


def units(*statuses: str) -> list[dict[str, object]]:
    """Units of a payment."""
    return [{"queueId": str(ID), "status": s, "mintId": HASH, "txHash": None} for s in statuses]


PAGES = [
    answer(404, b"<h1>Not found</h1>", content_type="text/html"),
    answer(403, b"{}", content_type="application/json"),
    answer(404, b"not json", content_type="application/problem+json"),
    answer(301, location="https://elsewhere.example/"),
    answer(500),
    answer(502, b"<html>"),
    answer(504),
    NoAnswer("no answer within 30 s"),
]


@pytest.mark.parametrize("page", PAGES, ids=str)
@pytest.mark.parametrize("judge", [judge_offer, judge_paid, judge_status])
def test_what_is_not_payfirsts_decides_nothing(judge: Any, page: HttpAnswer | NoAnswer) -> None:
    """A proxy's page, whatever its status, or no answer: the same is sent again."""
    assert isinstance(judge(page, now=NOW), Again)


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "not_now"), (503, "outcome_unknown"), (500, "internal_error"), (429, "too_many"), (408, "body_too_slow")],
)
@pytest.mark.parametrize("judge", [judge_offer, judge_paid])
def test_what_may_be_otherwise_later_is_sent_again(judge: Any, status: int, code: str) -> None:
    """In the seller's words, after the seller's time."""
    assert judge(ours(status, code, after_s=7), now=NOW) == Again("Do this.", 7.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("99999999999999999999", 3_600.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """RFC 9110; what is neither is not there."""
    assert judge_paid(answer(503, retry_after=text), now=NOW) == Again("HTTP 503", seconds)


@pytest.mark.parametrize("status_code", [(400, "invalid_payload"), (404, "unknown_token"), (409, "sold_out")])
@pytest.mark.parametrize("judge", [judge_offer, judge_paid])
def test_payfirsts_refusal_is_the_end(judge: Any, status_code: tuple[int, str]) -> None:
    """Nothing was taken by it."""
    assert judge(ours(*status_code), now=NOW) == Refused(status_code[1], "Do this.")


def test_a_402_asks_before_and_refuses_afterwards() -> None:
    """With the offer in its header; a payment that was accepted is never answered with one."""
    body = {"x402Version": 1, "error": "invalid_network", "detail": "Pay on base.", "accepts": []}
    asked = answer(402, body, payment_required="e30=")
    assert judge_offer(asked, now=NOW) == Asked("e30=")
    assert judge_paid(asked, now=NOW) == Refused("invalid_network", "Pay on base.")
    assert isinstance(judge_offer(answer(402, body), now=NOW), Again)
    assert isinstance(judge_paid(answer(402, b"Payment required"), now=NOW), Again)


def test_a_202_is_taken_if_it_names_the_payment() -> None:
    """Another server's 202 is not."""
    assert judge_paid(answer(202, {"paymentQueueId": str(ID), "status": "payment_pending"}), now=NOW) == Taken(ID)
    assert isinstance(judge_paid(answer(202, {"ok": True}), now=NOW), Again)
    assert isinstance(judge_paid(answer(200, {"ok": True}), now=NOW), Again)


def test_a_look_finds_the_payment_or_nothing_new_or_nothing() -> None:
    """The document with its tag, 304, or payfirst's 404."""
    found = judge_status(answer(200, PAYMENT, etag='"abc"'), now=NOW)
    assert isinstance(found, Known)
    assert (found.tag, found.payment.payment_queue_id, found.payment.tx_hash) == ('"abc"', ID, HASH)
    assert judge_status(answer(304), now=NOW) == Unchanged()
    assert judge_status(ours(404, "not_found"), now=NOW) == Missing()
    assert isinstance(judge_status(ours(400, "invalid_request"), now=NOW), Again)


@pytest.mark.parametrize(
    ("changes", "is_minted", "has_ended"),
    [
        ({"status": "pending", "mints": []}, False, False),
        ({"status": "sent", "mints": []}, False, False),
        ({"mints": []}, False, False),
        ({"mints": units("completed")}, False, False),  # one of two is not there at all
        ({"mints": units("completed", "sent")}, False, False),
        ({"mints": units("completed", "completed")}, True, True),
        ({"mints": units("completed", "owed")}, False, True),
        ({"mints": units("owed", "owed")}, False, True),
        ({"status": "failed", "mints": []}, False, True),
    ],
)
def test_minted_is_every_unit(changes: dict[str, Any], is_minted: bool, has_ended: bool) -> None:
    """Paid is not minted; an owed unit ends the waiting and is no success."""
    found = judge_status(answer(200, {**PAYMENT, **changes}), now=NOW)
    assert isinstance(found, Known)
    payment: Payment = found.payment
    assert (payment.is_minted, payment.has_ended) == (is_minted, has_ended)


@pytest.mark.parametrize(
    "changes", [{"txHash": "\x1b[2J"}, {"status": "perhaps"}, {"quantity": "2"}, {"mints": units("?")}]
)
def test_a_document_of_another_kind_is_none(changes: dict[str, Any]) -> None:
    """Nothing a seller sends gets further than here untyped."""
    assert isinstance(judge_status(answer(200, {**PAYMENT, **changes}), now=NOW), Again)


def test_a_sellers_words_move_no_cursor() -> None:
    """They are shown on a terminal."""
    refused = judge_paid(ours(409, "sold_out", "Sold\x1b[31m out\u202e " + "x" * 500), now=NOW)
    assert isinstance(refused, Refused)
    assert refused.sentence.startswith("Sold?[31m out? xxx")
    assert len(refused.sentence) == 400
