"""What the OpenAPI document shows as examples: documents of the very types that are answered."""

from __future__ import annotations

import binascii
from typing import Any, Literal

import msgspec

from payfirst.api import documents as d
from payfirst.api.health import HealthDocument, ReadyDocument
from payfirst.api.problems import Problem
from payfirst.api.refusals import Refusal
from payfirst.api.tokens import TokensDocument
from payfirst.lifecycle import MintStatus, PaymentStatus
from payfirst.units import Address, AtomicAmount, TxHash, checksum_address, hex_text, parse_address
from payfirst.x402.requirements import SCHEME, PaymentRequirements, accepts_v2
from payfirst.x402.responses import settlement
from payfirst.x402.wire import AuthorizationWire, ExactWire, PayloadV1, SignedPayloadV2

TOKEN = Address(bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3"))
PAYER = checksum_address(Address(bytes.fromhex("70997970c51812dc3a010c7d01b50e0d17dc79c8")))
PRICE = AtomicAmount(10_000)
PAYMENT_ID = "0198f0c2-7c4e-7b1a-9c55-2f6d1a3b4c5d"
NONCE = hex_text(bytes(range(97, 129)))
TAG = "Vd2s0kz8Q1mJpX3yB7aC"
QUEUE_ID = "0198f0c2-9d03-7e6f-8a21-7b8c9d0e1f2a"
PAYMENT_TX = hex_text(bytes(range(1, 33)))
MINT_TX = hex_text(bytes(range(33, 65)))
MINT_ID = hex_text(bytes(range(65, 97)))
CREATED, PROCESSED = "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:08.120Z"


def payment(status: PaymentStatus) -> d.PaymentDocument:
    """A payment of one unit in each of its statuses."""
    is_completed = status is PaymentStatus.COMPLETED
    return d.PaymentDocument(
        payment_queue_id=PAYMENT_ID,
        status=status,
        payer=PAYER,
        amount=str(PRICE),
        quantity=1,
        token=checksum_address(TOKEN),
        tx_hash=PAYMENT_TX if status in (PaymentStatus.SENT, PaymentStatus.COMPLETED) else None,
        error=d.ErrorDocument("insufficient_funds", "The payer's balance is below the amount.")
        if status is PaymentStatus.FAILED
        else None,
        result=d.ResultDocument((QUEUE_ID,), 1) if is_completed else None,
        mints=[d.MintDocument(QUEUE_ID, MintStatus.COMPLETED, MINT_ID, MINT_TX)] if is_completed else [],
        created_at=CREATED,
        processed_at=None if status is PaymentStatus.PENDING else PROCESSED,
    )


def event(status: PaymentStatus) -> dict[str, str]:
    """One event of a stream: its fields."""
    return {"id": TAG, "event": str(status), "data": as_text(payment(status))}


def settled(requirements: PaymentRequirements, version: Literal[1, 2]) -> str:
    """The header of a payment that was settled."""
    transaction = TxHash(bytes.fromhex(PAYMENT_TX[2:]))
    return settlement(
        version=version, network=requirements.asset.network, payer=parse_address(PAYER), transaction=transaction
    )


def accepted(base_url: str) -> d.AcceptedDocument:
    """A 202."""
    return d.AcceptedDocument(PAYMENT_ID, 1, "payment_pending", f"{base_url}/api/payment/{PAYMENT_ID}")


def unit() -> d.QueueDocument:
    """A unit that is minted."""
    paid = payment(PaymentStatus.COMPLETED)
    paid.mints = msgspec.UNSET
    return d.QueueDocument(QUEUE_ID, MintStatus.COMPLETED, MINT_ID, MINT_TX, 0, PAYER, paid)


def stats(statuses: type[PaymentStatus] | type[MintStatus]) -> d.StatsDocument:
    """A queue that fares well."""
    counts = dict.fromkeys(map(str, statuses), 0) | {"pending": 3, "sent": 12, "completed": 4_711}
    return d.StatsDocument(counts, 2.1, 37.5, 0.4, 0)


def token(requirements: PaymentRequirements) -> d.TokenDocument:
    """A token on offer, for the asset of this server."""
    return d.TokenDocument(
        address=checksum_address(TOKEN),
        name="Example Token",
        symbol="EXT",
        price=str(PRICE),
        asset=checksum_address(requirements.asset.address),
        network=requirements.asset.network.caip2,
        mint_amount="1000000000000000000",
        max_mint_count=msgspec.Raw(b"10000"),
        minted=msgspec.Raw(b"4711"),
        reserved=12,
        remaining=msgspec.Raw(b"5274"),
        status="active",
        quantity_max=10,
    )


def tokens(requirements: PaymentRequirements) -> TokensDocument:
    """All tokens."""
    return TokensDocument([token(requirements)])


def health(version: str) -> HealthDocument:
    """A process that lives."""
    return HealthDocument("ok", version)


def ready() -> ReadyDocument:
    """A process that could take a payment."""
    return ReadyDocument("ready")


def problem(refusal: Refusal) -> Problem:
    """A refusal's document."""
    return Problem(
        type=f"urn:payfirst:problem:{refusal.code}",
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        code=refusal.code,
        reasons=["No worker has reported yet."] if refusal.code == "not_ready" else [],
    )


def header(requirements: PaymentRequirements, version: int) -> str:
    """A payment header of the right form; nobody signed it."""
    exact = ExactWire(
        signature=hex_text(bytes(range(64)) + b"\x1b"),
        authorization=AuthorizationWire(
            from_=PAYER,
            to=checksum_address(requirements.pay_to),
            value=str(requirements.amount),
            valid_after="0",
            valid_before="1767324545",
            nonce=NONCE,
        ),
    )
    payload: msgspec.Struct = (
        PayloadV1(x402_version=1, scheme=SCHEME, network=requirements.asset.network.name or "", payload=exact)
        if version == 1
        else SignedPayloadV2(x402_version=2, accepted=accepts_v2(requirements), payload=exact)
    )
    return binascii.b2a_base64(msgspec.json.encode(payload), newline=False).decode()


def as_text(document: msgspec.Struct) -> str:
    """A document as it is sent."""
    return msgspec.json.encode(document).decode()


def as_json(document: msgspec.Struct) -> Any:  # Any: JSON of any shape
    """What a client reads."""
    return msgspec.json.decode(msgspec.json.encode(document))
