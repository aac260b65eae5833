"""A payment header, parsed: base64, JSON and hex end here. Pure, and on the hot path.

Sources: x402 specification v1 and v2 (exact scheme on EVM), EIP-3009.
"""

from __future__ import annotations

import binascii
from typing import ClassVar, Literal

import msgspec

from payfirst.errors import PayerError
from payfirst.units import (
    UINT256_MAX,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    parse_address,
    parse_bytes32,
    parse_hex,
)
from payfirst.x402.wire import AcceptedWire, AuthorizationWire, ExactWire, PayloadV1, PayloadV2, VersionWire

HEADER_BYTES_MAX = 8_192
UNIX_TIME_MAX_S = 2**63 - 1  # int64, as the database holds times

HEADER_NAMES: dict[int, str] = {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}

_UINT256_DIGITS = 78

_DECODER_V1 = msgspec.json.Decoder(PayloadV1)
_DECODER_V2 = msgspec.json.Decoder(PayloadV2)
_DECODER_VERSION = msgspec.json.Decoder(VersionWire)

# ValueError: UTF-8 that is none. RecursionError: JSON nested deeper than the interpreter allows; libraries
# raise that limit (eth-account to 100,000), but what fits a header needs less than 256 KiB of stack.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class MalformedPayment(PayerError):
    """The payment header cannot be read as an exact-scheme payment. HTTP: 400."""

    code: ClassVar[str] = "invalid_payload"


class WrongVersion(MalformedPayment):
    """The payload states another x402 version than the header it came in. HTTP: 400."""

    code: ClassVar[str] = "invalid_x402_version"


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """EIP-3009's transferWithAuthorization parameters."""

    payer: Address
    pay_to: Address
    value: AtomicAmount
    valid_after: UnixTime
    valid_before: UnixTime
    nonce: AuthorizationNonce


class AcceptedRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a v2 payer says it agreed to. None: the payer did not repeat that part of `extra`."""

    asset: Address
    pay_to: Address
    amount: AtomicAmount
    domain_name: str | None
    domain_version: str | None
    payment_flow: str | None


class PaymentPayload(msgspec.Struct, frozen=True, kw_only=True):
    """One payment as it was sent; well formed, not yet verified."""

    x402_version: int
    scheme: str
    network: str  # as sent: a v1 name or CAIP-2
    authorization: Authorization
    signature: bytes  # 65 bytes if it is any good
    accepted: AcceptedRequirements | None  # v2 only

    def __repr__(self) -> str:
        """Without the signature, which is kept out of logs."""
        return f"PaymentPayload(v{self.x402_version}, {self.scheme}, {self.network}, {self.authorization})"

    @classmethod
    def from_header(cls, raw: bytes | str, *, version: Literal[1, 2]) -> PaymentPayload:
        """The payment in an X-PAYMENT (version 1) or PAYMENT-SIGNATURE (version 2) header.

        Standard, padded base64 of JSON, at most HEADER_BYTES_MAX bytes; addresses in any letter case.
        Raises MalformedPayment, or WrongVersion when payload and header disagree about the version.
        """
        document = _document(raw, version)
        try:
            if version == 1:
                wire_v1 = _DECODER_V1.decode(document)
                if wire_v1.x402_version != 1:
                    raise _wrong_version(wire_v1.x402_version, version)
                return _payload(1, wire_v1.scheme, wire_v1.network, wire_v1.payload, None)
            wire_v2 = _DECODER_V2.decode(document)
            if wire_v2.x402_version != 2:
                raise _wrong_version(wire_v2.x402_version, version)
            accepted = wire_v2.accepted
            return _payload(2, accepted.scheme, accepted.network, wire_v2.payload, accepted)
        except _UNREADABLE as error:
            raise _unreadable(document, version, error) from error


def _document(raw: bytes | str, version: int) -> bytes:
    """The header's JSON text."""
    if len(raw) > HEADER_BYTES_MAX:
        raise MalformedPayment(
            f"{HEADER_NAMES[version]} has {len(raw)} characters; at most {HEADER_BYTES_MAX} are read."
            " Send only the payload, without additions."
        )
    try:
        return binascii.a2b_base64(raw, strict_mode=True)
    except ValueError as error:
        raise MalformedPayment(
            f"{HEADER_NAMES[version]} is not standard base64 with padding: encode the JSON payload again."
        ) from error


def _wrong_version(stated: int, version: int) -> WrongVersion:
    other = HEADER_NAMES.get(stated)
    advice = f"send it as {other}" if other else "this server speaks versions 1 and 2"
    return WrongVersion(f"{HEADER_NAMES[version]} carries x402Version {version}, not {stated}: {advice}.")


def _unreadable(document: bytes, version: int, error: Exception) -> MalformedPayment:
    """The refusal for a document that did not decode; a wrong version explains the most, so it goes first."""
    try:
        stated = _DECODER_VERSION.decode(document).x402_version
    except _UNREADABLE:
        stated = version
    if stated != version:
        return _wrong_version(stated, version)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return MalformedPayment(
        f"{HEADER_NAMES[version]} is not an exact-scheme payment with an EIP-3009 authorization: {reason}."
        " Build it from the offer of the 402."
    )


def _payload(
    version: int, scheme: str, network: str, exact: ExactWire, accepted: AcceptedWire | None
) -> PaymentPayload:
    """The typed payload. Raises ValueError naming the field."""
    return PaymentPayload(
        x402_version=version,
        scheme=scheme,
        network=network,
        authorization=_authorization(exact.authorization),
        signature=_signature(exact.signature),
        accepted=None if accepted is None else _accepted(accepted),
    )


def _authorization(wire: AuthorizationWire) -> Authorization:
    return Authorization(
        payer=_address(wire.from_, "payload.authorization.from"),
        pay_to=_address(wire.to, "payload.authorization.to"),
        value=_amount(wire.value, "payload.authorization.value"),
        valid_after=_unix_time(wire.valid_after, "payload.authorization.validAfter"),
        valid_before=_unix_time(wire.valid_before, "payload.authorization.validBefore"),
        nonce=_nonce(wire.nonce),
    )


def _accepted(wire: AcceptedWire) -> AcceptedRequirements:
    extra = wire.extra
    return AcceptedRequirements(
        asset=_address(wire.asset, "accepted.asset"),
        pay_to=_address(wire.pay_to, "accepted.payTo"),
        amount=_amount(wire.amount, "accepted.amount"),
        domain_name=None if extra is None else extra.name,
        domain_version=None if extra is None else extra.version,
        payment_flow=None if extra is None else extra.payment_flow,
    )


def _address(text: str, name: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None


def _nonce(text: str) -> AuthorizationNonce:
    try:
        return AuthorizationNonce(parse_bytes32(text))
    except ValueError as error:
        raise ValueError(f"payload.authorization.nonce: {error}") from None


def _signature(text: str) -> bytes:
    # Any length is well formed; whether it can be a signature at all is for verify to say.
    try:
        return parse_hex(text)
    except ValueError:
        raise ValueError("payload.signature: expected 0x and an even number of hex digits") from None


def _uint(text: str, name: str, most: int) -> int:
    # An amount has one spelling: what int also takes (signs, spaces, other scripts' digits, leading zeros) is none.
    try:
        value = int(text) if len(text) <= _UINT256_DIGITS else -1
    except ValueError:
        value = -1
    if value < 0 or str(value) != text:
        raise ValueError(f"{name}: expected a decimal string such as '10000', got {text[:80]!r}")
    if value > most:
        raise ValueError(f"{name}: expected at most {most}, got {text}")
    return value


def _amount(text: str, name: str) -> AtomicAmount:
    return AtomicAmount(_uint(text, name, UINT256_MAX))


def _unix_time(text: str, name: str) -> UnixTime:
    return UnixTime(_uint(text, name, UNIX_TIME_MAX_S))
