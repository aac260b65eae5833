"""Starlette responses in the forms that every route but the mint route shares."""

from __future__ import annotations

import re
import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from payfirst.api.conditions import is_known
from payfirst.api.documents import tag_of
from payfirst.api.problems import Answer, MalformedRequest
from payfirst.units import Address, AuthorizationNonce, parse_address, parse_bytes32

NO_PAYMENT = "There is no payment with this id: use the paymentQueueId of a 202."

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ENCODER = msgspec.json.Encoder()


def document(content: msgspec.Struct | bytes) -> Response:
    """200 with a JSON document, encoded already or not; never cached, because all of them change."""
    body = content if isinstance(content, bytes) else _ENCODER.encode(content)
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def response(answer: Answer) -> Response:
    """An answer as Starlette sends it."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers)


def tagged(body: bytes, request: Request) -> Response:
    """200 with a JSON document and its ETag; 304 where the client has it already."""
    tag = tag_of(body)
    headers = {"cache-control": "no-store", "etag": f'"{tag}"'}
    if is_known(tag, request.headers.get("if-none-match")):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def id_in_path(request: Request, whose: str) -> uuid.UUID:
    """The id that the path names. Raises MalformedRequest."""
    text = str(request.path_params["id"])
    if not _UUID.fullmatch(text):
        raise MalformedRequest(f"The path ends in {whose} id, a UUID of 8-4-4-4-12 hex digits.")
    return uuid.UUID(text)


def authorization_in_query(request: Request) -> tuple[Address, AuthorizationNonce]:
    """The `payer` and the `nonce` that the query names, each once, in any letter case. Raises MalformedRequest."""
    given: dict[str, str] = {}
    for name in ("payer", "nonce"):
        values = request.query_params.getlist(name)
        if len(values) != 1:
            times = "missing" if not values else "given more than once"
            raise MalformedRequest(
                f"{name} is {times}: ask with ?payer= and &nonce=, as authorization.from and authorization.nonce have"
                " them."
            )
        given[name] = values[0]
    try:
        payer = parse_address(given["payer"])
    except ValueError:
        raise MalformedRequest("payer is an address, 0x and 40 hex digits: use authorization.from.") from None
    try:
        nonce = parse_bytes32(given["nonce"])
    except ValueError:
        raise MalformedRequest("nonce is 32 bytes, 0x and 64 hex digits: use authorization.nonce.") from None
    return payer, AuthorizationNonce(nonce)
