"""What a mint request says, read within limits: its headers, its path, its body."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import msgspec
from starlette.types import Receive

from payfirst.api.problems import (
    BodyTooLarge,
    HeaderTooLarge,
    MalformedRequest,
    MoreThanOnePayment,
    TokenPathUnknown,
)
from payfirst.units import ZERO_ADDRESS, Address, parse_address
from payfirst.x402.payload import HEADER_BYTES_MAX, HEADER_NAMES

PREFIX = "/api/mint/"
BODY_BYTES_MAX = 4_096
# More than configuration allows a request to buy: beyond it a number is malformed, below it refused by policy.
QUANTITY_MAX = 250
# Few tokens are sold, each under few spellings of its address; what is none is not kept.
TOKEN_PATHS_MEMOISED_MAX = 256
TOO_LARGE = f"The body may have {BODY_BYTES_MAX} bytes: send quantity and recipient only."

PaymentHeader = tuple[Literal[1, 2], bytes]

# HEADER_NAMES as ASGI spells header names.
_VERSIONS: dict[bytes, Literal[1, 2]] = {b"x-payment": 1, b"payment-signature": 2}


class MintBody(msgspec.Struct):
    """The request's body. What else it holds is ignored, but a payment in it is pointed out."""

    quantity: int
    recipient: str | None = None
    authorization: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payment: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    signature: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def has_payment(self) -> bool:
        """Whether it looks like a payment that was meant for the header."""
        unset = msgspec.UNSET
        return not (self.authorization is self.payment is self.payload is self.signature is unset)


_BODY = msgspec.json.Decoder(MintBody)


class Wanted(msgspec.Struct, frozen=True):
    """What a request asks for. `recipient` is None where the payer is meant."""

    token: Address
    quantity: int
    recipient: Address | None
    payment_in_body: bool


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[PaymentHeader | None, int, bytes]:
    """The payment header, if there is one; the body's announced length, or 0; and what `Prefer` says, if anything."""
    payment: PaymentHeader | None = None
    length = 0
    prefer = b""
    for name, value in headers:
        version = _VERSIONS.get(name)
        if version is not None:
            if payment is not None:
                raise MoreThanOnePayment("Send one payment header, X-PAYMENT or PAYMENT-SIGNATURE, and send it once.")
            if len(value) > HEADER_BYTES_MAX:
                raise HeaderTooLarge(
                    f"{HEADER_NAMES[version]} has {len(value)} bytes; at most {HEADER_BYTES_MAX} are read."
                    " Send only the payload, without additions."
                )
            payment = (version, value)
        elif name == b"content-length" and value.isdigit():
            # More digits than any length has say the same as a length that is too large.
            length = int(value[:20])
        elif name == b"prefer":
            prefer = prefer + b"," + value if prefer else value
    return payment, length, prefer


@lru_cache(maxsize=TOKEN_PATHS_MEMOISED_MAX)
def token_in_path(path: str) -> Address:
    """The address at the end of a path that begins with PREFIX."""
    try:
        return parse_address(path[len(PREFIX) :])
    except ValueError:
        raise TokenPathUnknown(
            "No such token: the path ends in a token's address. GET /api/tokens lists them."
        ) from None


async def read_body(receive: Receive, length: int) -> bytes:
    """The body; not read at all when it is announced to be too large, and not further once it is."""
    if length > BODY_BYTES_MAX:
        raise BodyTooLarge(TOO_LARGE)
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Said although nobody may be left to hear it: a client that only ended its side still reads, and a server
            # answers 500 for an application that says nothing.
            raise MalformedRequest("The body broke off before its end: send the request again, with its whole body.")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(TOO_LARGE)
        if not message.get("more_body", False):
            return body


def wanted_in(token: Address, body: bytes) -> Wanted:
    """What the body asks for."""
    if not body:
        raise MalformedRequest('The body is missing: send JSON such as {"quantity": 1}.')
    try:
        wanted = _BODY.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedRequest(f'The body is not JSON such as {{"quantity": 1}}: {reason}.') from error
    if not 1 <= wanted.quantity <= QUANTITY_MAX:
        raise MalformedRequest(f"quantity must be a whole number from 1 to {QUANTITY_MAX}.")
    recipient = None if wanted.recipient is None else _recipient(wanted.recipient, token)
    return Wanted(token, wanted.quantity, recipient, payment_in_body=wanted.has_payment)


def _recipient(text: str, token: Address) -> Address:
    try:
        recipient = parse_address(text)
    except ValueError as error:
        raise MalformedRequest(f"recipient is {error}.") from None
    if recipient == ZERO_ADDRESS:
        raise MalformedRequest("recipient is the zero address: leave it out to mint to the payer.")
    if recipient == token:
        raise MalformedRequest(
            "recipient is the token itself, where nobody could use what is minted: leave it out to mint to the payer."
        )
    return recipient
