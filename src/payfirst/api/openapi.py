"""The OpenAPI 3.1 document: schemas from the types that are answered, refusals from their one table. Pure.

A new route is a new entry of `_paths`; a test holds it against the routes there are, and answers against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from payfirst import __version__
from payfirst.api import documents, examples
from payfirst.api.health import HealthDocument, ReadyDocument
from payfirst.api.mint_request import BODY_BYTES_MAX, PREFIX, QUANTITY_MAX
from payfirst.api.problems import Problem
from payfirst.api.refusals import BY_CODE, REFUSALS
from payfirst.api.tokens import TokensDocument
from payfirst.lifecycle import MintStatus, PaymentStatus
from payfirst.units import checksum_address
from payfirst.x402.payload import HEADER_BYTES_MAX
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import SETTLEMENT_HEADER_NAMES, payment_required
from payfirst.x402.wire import OfferV1, OfferV2, PayloadV1, SettlementWire, SignedPayloadV2

# JSON of any shape.
Document = dict[str, Any]

_REF = "#/components/schemas/"
_ADDRESS_PATTERN = "^0[xX][0-9a-fA-F]{40}$"
_BYTES32_PATTERN = "^0[xX][0-9a-fA-F]{64}$"
_ID_PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_ANSWERED = (
    documents.AcceptedDocument,
    documents.PaymentDocument,
    documents.QueueDocument,
    documents.StatsDocument,
    TokensDocument,
    HealthDocument,
    ReadyDocument,
    Problem,
    OfferV1,
    OfferV2,
    SettlementWire,
    PayloadV1,
    SignedPayloadV2,
)
_READS_FAIL = ("internal_error", "not_now")

_ABOUT = """\
Payment first, then the mint: a signed [x402](https://www.x402.org) payment is verified, stored and answered with 202 in
milliseconds; workers settle it on chain, and once it is confirmed its units are minted.

- **Pay**: POST to the mint route without a payment, sign the offer of the 402, send the same request again with it.
- **Follow**: GET `statusUrl` until `completed`. The same header sent again is never paid twice: the answer is the same.
- **Lost every answer?** GET `/api/payment?payer=…&nonce=…` finds the payment by what was signed.
- Amounts are decimal strings in atomic units; addresses are read in any letter case and answered with a checksum.
- Refusals are RFC 9457 problem documents with a stable `code`; an invalid payment is a 402 with the code in `error`.
- Any path answers OPTIONS with 204 and `Allow`, each GET also HEAD, and other methods with 405 (`method_not_allowed`).
  Paths that are not listed are 404 (`not_found`).
"""


def document(requirements: PaymentRequirements, *, base_url: str) -> Document:
    """The document of one server; `requirements` are those of an example's purchase there."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "payfirst",
            "version": __version__,
            "summary": "An x402 server for sellers of token mints.",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "security": [],
        "tags": [
            {"name": "buy", "description": "Pay and follow what was paid."},
            {"name": "offer", "description": "What is for sale."},
            {"name": "operate", "description": "How the server fares."},
            {"name": "reference", "description": "This document."},
        ],
        "paths": _paths(requirements, base_url),
        "components": {"schemas": _schemas(), "headers": _HEADERS},
    }


def encode(content: Document) -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(content)


def _schemas() -> Document:
    _, components = msgspec.json.schema_components(_ANSWERED, ref_template=_REF + "{name}")
    components["Problem"]["properties"]["code"]["enum"] = [r.code for r in REFUSALS if r.status != 402]
    components["OfferV1"]["properties"]["error"]["enum"] = [r.code for r in REFUSALS if r.status == 402]
    components["MintRequest"] = {
        "type": "object",
        "description": "What is wanted. Other members are ignored; a payment among them is pointed out, not read.",
        "properties": {
            "quantity": {
                "type": "integer",
                "minimum": 1,
                "maximum": QUANTITY_MAX,
                "description": "Units; the seller may sell fewer at once (`quantityMax` of the token).",
            },
            "recipient": {
                "type": ["string", "null"],
                "pattern": _ADDRESS_PATTERN,
                "description": "Who gets the units. Left out or null: the payer.",
            },
        },
        "required": ["quantity"],
    }
    return components


def _base64_of(schema: str) -> Document:
    return {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _REF + schema},
    }


_TAG = f'"{examples.TAG}"'
_HEADERS: Document = {
    "PAYMENT-REQUIRED": {
        "description": "The offer for x402 version 2, base64 of JSON. Version 1 reads the body.",
        "required": True,
        "schema": _base64_of("OfferV2"),
    },
    "Retry-After": {
        "description": "Seconds until the same request is worth sending again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {
        "description": "The same URL as `statusUrl`.",
        "required": True,
        "schema": {"type": "string", "format": "uri"},
    },
    "ETag": {
        "description": "Send it back in If-None-Match.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[A-Za-z0-9_-]+"$'},
        "example": _TAG,
    },
    "Preference-Applied": {
        "description": "The wait that the server granted; it may be shorter than the one that was asked for.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
        "example": "wait=10",
    },
}


def _paths(requirements: PaymentRequirements, base_url: str) -> Document:
    return {
        PREFIX + "{token}": {"post": _mint(requirements, base_url)},
        **_reading(),
        **_offering(requirements),
        **_operating(),
        "/openapi.json": {"get": _reference("openapi", "This document.", "application/json", {"openapi": "3.1.0"})},
        "/docs": {"get": _reference("docs", "This document as a page.", "text/html", "<!doctype html>…")},
    }


def _mint(requirements: PaymentRequirements, base_url: str) -> Document:
    has_v1 = requirements.asset.network.name is not None
    refused = _refusals(
        *(refusal.code for refusal in REFUSALS if refusal.code not in _NOT_OF_MINT and refusal.status != 402)
    )
    return {
        "operationId": "mint",
        "tags": ["buy"],
        "summary": "Buy units of a token",
        "description": "Without a payment header: 402 with the offers. With one: the payment is verified and queued.",
        "parameters": [
            _address_in_path("token", "The token to mint."),
            *([_payment_header("X-PAYMENT", 1, "PayloadV1", requirements)] if has_v1 else []),
            _payment_header("PAYMENT-SIGNATURE", 2, "SignedPayloadV2", requirements),
            _prefer("the payment is settled"),
        ],
        "requestBody": {
            "required": True,
            "description": f"JSON of at most {BODY_BYTES_MAX} bytes, whatever its Content-Type says.",
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF + "MintRequest"},
                    "examples": {
                        "for the payer": {"value": {"quantity": 1}},
                        "for somebody else": {"value": {"quantity": 2, "recipient": examples.PAYER}},
                    },
                }
            },
        },
        "responses": {
            "200": _ended(requirements),
            "202": _answer(
                "Accepted: stored, and on its way. The same header again gives the same answer.",
                "AcceptedDocument",
                {"accepted": examples.accepted(base_url)},
                headers=("Location", "Preference-Applied"),
            ),
            "402": _offers(requirements),
            **refused,
        },
    }


def _ended(requirements: PaymentRequirements) -> Document:
    """200: how the payment ended, with the header of its x402 version."""
    answer = _answer(
        "Settled within the time of `Prefer: wait`, or accepted earlier: this is how the payment ended.",
        "PaymentDocument",
        {s.value: examples.payment(s) for s in (PaymentStatus.COMPLETED, PaymentStatus.FAILED)},
        headers=("Preference-Applied",),
    )
    for version, name in SETTLEMENT_HEADER_NAMES.items():
        if version == 1 and requirements.asset.network.name is None:
            continue
        answer["headers"][name] = {
            "description": f"How a payment of version {version} ended, base64 of JSON.",
            "schema": _base64_of("SettlementWire"),
            "example": examples.settled(requirements, version),
        }
    return answer


# Codes that the mint route never answers by itself; 405 is said of all paths at once.
_NOT_OF_MINT = ("not_found", "not_ready", "method_not_allowed")


def _offers(requirements: PaymentRequirements) -> Document:
    """402: the offer, and every invalid payment with the offer again."""
    shown = {}
    for refusal in REFUSALS:
        if refusal.status == 402:
            body = payment_required(requirements, error=refusal.code, detail=refusal.detail).body
            shown[refusal.code] = {"summary": refusal.when, "value": msgspec.json.decode(body)}
    header = payment_required(requirements, error="payment_required").header
    return {
        "description": "Payment required, or one that does not pay for this. Nothing was taken.\n\n"
        + _told(*(refusal.code for refusal in REFUSALS if refusal.status == 402)),
        "headers": {"PAYMENT-REQUIRED": {**_HEADERS["PAYMENT-REQUIRED"], "example": header}},
        "content": {"application/json": {"schema": {"$ref": _REF + "OfferV1"}, "examples": shown}},
    }


def _reading() -> Document:
    return {
        "/api/payment": {
            "get": _payment(
                "findPayment",
                "What became of an authorization",
                "Finds a payment by what its buyer has in hand when every answer was lost: the payer and the nonce that"
                " were signed. 404: it was not accepted here (yet); the same header may be sent again.",
                _signed("payer", "authorization.from: an address", _ADDRESS_PATTERN, examples.PAYER),
                _signed("nonce", "authorization.nonce: 32 bytes", _BYTES32_PATTERN, examples.NONCE),
            )
        },
        "/api/payment/{id}": {
            "get": _payment(
                "showPayment",
                "What became of a payment",
                "`completed` means paid; each unit's own status stands in `mints`.",
                _id_in_path("The paymentQueueId of a 202.", examples.PAYMENT_ID),
            )
        },
        "/api/payment/{id}/events": {"get": _events()},
        "/api/queue/{id}": {
            "get": {
                "operationId": "showUnit",
                "tags": ["buy"],
                "summary": "What became of one unit",
                "parameters": [
                    _id_in_path("One of the queueIds of a completed payment.", examples.QUEUE_ID),
                    _IF_NONE_MATCH,
                ],
                "responses": {
                    "200": _answer(
                        "The unit, with its payment.", "QueueDocument", {"minted": examples.unit()}, headers=("ETag",)
                    ),
                    "304": _unchanged("ETag"),
                    **_refusals("invalid_request", "not_found", *_READS_FAIL),
                },
            }
        },
        "/api/payment/stats": _stats("showPaymentStats", "How the payments fare", PaymentStatus),
        "/api/queue/stats": _stats("showQueueStats", "How the mints fare", MintStatus),
    }


def _payment(name: str, summary: str, description: str, *asked: Document) -> Document:
    """A payment as it is now, or once it has changed; `asked` are the parameters that say which."""
    return {
        "operationId": name,
        "tags": ["buy"],
        "summary": summary,
        "description": description,
        "parameters": [
            *asked,
            _prefer("the payment is not as If-None-Match knows it, or else at its last state"),
            _IF_NONE_MATCH,
        ],
        "responses": {
            "200": _answer(
                "The payment.",
                "PaymentDocument",
                {s.value: examples.payment(s) for s in PaymentStatus},
                headers=("ETag", "Preference-Applied"),
            ),
            "304": _unchanged("ETag", "Preference-Applied"),
            **_refusals("invalid_request", "not_found", *_READS_FAIL),
        },
    }


def _events() -> Document:
    return {
        "operationId": "watchPayment",
        "tags": ["buy"],
        "summary": "Each change of a payment as it comes",
        "description": "Server-sent events. `event` is the payment's status, or `mint` when only its units changed;"
        " `data` is the payment as `GET /api/payment/{id}` shows it. The last event is `end`.",
        "parameters": [
            _id_in_path("The paymentQueueId of a 202.", examples.PAYMENT_ID),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the last event that was received: what it told is not told again.",
                "schema": {"type": "string"},
                "example": examples.TAG,
            },
        ],
        "responses": {
            "200": {
                "description": "The stream.",
                "content": {
                    "text/event-stream": {
                        # Before OpenAPI 3.2 the schema of a stream describes each event.
                        "schema": _EVENT,
                        "example": examples.event(PaymentStatus.COMPLETED),
                    }
                },
            },
            "204": {"description": "Nothing more is to be expected, and the client knows it: do not come again."},
            **_refusals("invalid_request", "not_found", *_READS_FAIL),
        },
    }


_EVENT: Document = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "The ETag of this state, without quotes."},
        "event": {"enum": [*map(str, PaymentStatus), "mint", "end"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": _REF + "PaymentDocument"},
        },
    },
}


def _stats(name: str, summary: str, statuses: type[PaymentStatus] | type[MintStatus]) -> Document:
    return {
        "get": {
            "operationId": name,
            "tags": ["operate"],
            "summary": summary,
            "description": "Counted at most once a second, however many ask, and less often where counting takes long.",
            "responses": {
                "200": _answer("The counts.", "StatsDocument", {"stats": examples.stats(statuses)}),
                **_refusals(*_READS_FAIL),
            },
        }
    }


def _offering(requirements: PaymentRequirements) -> Document:
    return {
        "/api/tokens": {
            "get": {
                "operationId": "listTokens",
                "tags": ["offer"],
                "summary": "All tokens on offer",
                "responses": {
                    "200": _answer("The tokens.", "TokensDocument", {"tokens": examples.tokens(requirements)}),
                    **_refusals(*_READS_FAIL),
                },
            }
        },
        "/api/tokens/{address}": {
            "get": {
                "operationId": "showToken",
                "tags": ["offer"],
                "summary": "One token: price, supply, what is left",
                "parameters": [_address_in_path("address", "The token.")],
                "responses": {
                    "200": _answer("The token.", "TokenDocument", {"token": examples.token(requirements)}),
                    **_refusals("unknown_token", *_READS_FAIL),
                },
            }
        },
    }


def _operating() -> Document:
    return {
        "/health": {
            "get": {
                "operationId": "health",
                "tags": ["operate"],
                "summary": "This process lives",
                "responses": {"200": _answer("It lives.", "HealthDocument", {"ok": examples.health(__version__)})},
            }
        },
        "/ready": {
            "get": {
                "operationId": "ready",
                "tags": ["operate"],
                "summary": "A payment could be accepted now",
                "responses": {
                    "200": _answer("It could.", "ReadyDocument", {"ready": examples.ready()}),
                    **_refusals("not_ready"),
                },
            }
        },
    }


def _reference(name: str, summary: str, media_type: str, example: object) -> Document:
    """This document or its page; both change with the version and the settings only."""
    schema = {"type": "string" if isinstance(example, str) else "object"}
    return {
        "operationId": name,
        "tags": ["reference"],
        "summary": summary,
        "parameters": [_IF_NONE_MATCH],
        "responses": {
            "200": {
                "description": summary,
                "headers": _headers("ETag"),
                "content": {media_type: {"schema": schema, "example": example}},
            },
            "304": _unchanged("ETag"),
        },
    }


def _answer(
    description: str, schema: str, shown: Mapping[str, msgspec.Struct], *, headers: tuple[str, ...] = ()
) -> Document:
    answer: Document = {
        "description": description,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF + schema},
                "examples": {name: {"value": examples.as_json(value)} for name, value in shown.items()},
            }
        },
    }
    if headers:
        answer["headers"] = _headers(*headers)
    return answer


def _headers(*names: str) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _unchanged(*headers: str) -> Document:
    return {"description": "It is as the client knows it.", "headers": _headers(*headers)}


def _refusals(*codes: str) -> Document:
    """The answers for these codes, by status."""
    answers: Document = {}
    for status in sorted({BY_CODE[code].status for code in codes}):
        of_status = [code for code in codes if BY_CODE[code].status == status]
        answers[str(status)] = {
            "description": _told(*of_status),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": _REF + "Problem"},
                    "examples": {
                        code: {"value": examples.as_json(examples.problem(BY_CODE[code]))} for code in of_status
                    },
                }
            },
        }
        if status in (429, 503):
            answers[str(status)]["headers"] = _headers("Retry-After")
    return answers


def _told(*codes: str) -> str:
    return "\n".join(f"- `{code}`: {BY_CODE[code].detail}" for code in codes)


def _address_in_path(name: str, description: str) -> Document:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"{description} An address, in any letter case.",
        "schema": {"type": "string", "pattern": _ADDRESS_PATTERN},
        "example": checksum_address(examples.TOKEN),
    }


def _id_in_path(description: str, example: str) -> Document:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": _ID_PATTERN},
        "example": example,
    }


def _signed(name: str, description: str, pattern: str, example: str) -> Document:
    """A query parameter: a part of what the buyer signed."""
    return {
        "name": name,
        "in": "query",
        "required": True,
        "description": f"{description}, in any letter case.",
        "schema": {"type": "string", "pattern": pattern},
        "example": example,
    }


_IF_NONE_MATCH: Document = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier answer.",
    "schema": {"type": "string"},
    "example": _TAG,
}


def _prefer(until: str) -> Document:
    return {
        "name": "Prefer",
        "in": "header",
        "description": f"`wait=N` holds the answer until {until}, for N seconds at most (RFC 7240).",
        "schema": {"type": "string"},
        "example": "wait=10",
    }


def _payment_header(name: str, version: int, schema: str, requirements: PaymentRequirements) -> Document:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": f"The payment, x402 version {version}: base64 of JSON. One payment header at most.",
        "schema": {**_base64_of(schema), "maxLength": HEADER_BYTES_MAX},
        "example": examples.header(requirements, version),
    }
