"""The JSON documents that buyers read, as the design spells them. Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus, RefundStatus
from payfirst.store.payments import ShownMint, ShownPayment
from payfirst.store.queue_stats import Queue, QueueStats
from payfirst.store.tokens import Token
from payfirst.units import Address, TxHash, checksum_address, hex_text, utc_text

# A failure that names no code was written by an operator, by hand.
FAILED_BY_HAND = "failed_by_operator"
TAG_BYTES = 15

_ENCODER = msgspec.json.Encoder()


# What the texts and numbers of the documents look like; the OpenAPI document says it, and its tests hold answers to it.
AddressText = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-fA-F]{40}$", description="An address, checksummed.")]
HashText = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$", description="32 bytes.")]
AmountText = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]*)$", description="Atomic units, in decimal.")]
IdText = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="A UUID.")]
TimeText = Annotated[
    str,
    msgspec.Meta(
        pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[.][0-9]{3}Z$", description="RFC 3339 in UTC, with milliseconds."
    ),
]
NetworkText = Annotated[str, msgspec.Meta(pattern="^eip155:[1-9][0-9]*$", description="The chain, CAIP-2.")]
# A contract's cap may be up to 2**256 - 1, and the encoder stops at 64 bits.
CountNumber = Annotated[
    msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "integer", "minimum": 0}, description="A number of mints.")
]


class AcceptedDocument(msgspec.Struct, rename="camel"):
    """The body of a 202; only here is the status `payment_pending`."""

    payment_queue_id: IdText
    quantity: int
    status: Literal["payment_pending"]
    status_url: str


class ErrorDocument(msgspec.Struct):
    """Why a payment failed."""

    code: str
    message: str


class ResultDocument(msgspec.Struct, rename="camel"):
    """What a completed payment led to."""

    queue_ids: tuple[IdText, ...]
    quantity: int


RefundShown = Literal["waiting", "approved", "sent", "completed"]
_REFUNDS_SHOWN: dict[RefundStatus, RefundShown] = {
    RefundStatus.WAITING: "waiting",
    RefundStatus.APPROVED: "approved",
    RefundStatus.SENT: "sent",
    RefundStatus.COMPLETED: "completed",
}


class RefundDocument(msgspec.Struct, rename="camel"):
    """What an owed unit's payer is given back: `completed` once the chain shows it, in `txHash`."""

    status: RefundShown
    amount: AmountText
    tx_hash: HashText | None


class MintDocument(msgspec.Struct, rename="camel"):
    """One unit of a payment. `refund` is there for an `owed` one that is being given back."""

    queue_id: IdText
    status: MintStatus
    mint_id: HashText
    tx_hash: HashText | None
    refund: RefundDocument | msgspec.UnsetType = msgspec.UNSET


class PaymentDocument(msgspec.Struct, rename="camel", kw_only=True):
    """`GET /api/payment/{id}`; `completed` means paid. `mints` is left out where the payment is nested."""

    payment_queue_id: IdText
    status: PaymentStatus
    payer: AddressText
    amount: AmountText
    quantity: int
    token: AddressText
    tx_hash: HashText | None
    error: ErrorDocument | None
    result: ResultDocument | None
    mints: list[MintDocument] | msgspec.UnsetType = msgspec.UNSET
    created_at: TimeText
    processed_at: TimeText | None


class QueueDocument(msgspec.Struct, rename="camel"):
    """`GET /api/queue/{queueId}`: one unit with its payment."""

    queue_id: IdText
    status: MintStatus
    mint_id: HashText
    tx_hash: HashText | None
    unit: int
    recipient: AddressText
    payment: PaymentDocument
    refund: RefundDocument | msgspec.UnsetType = msgspec.UNSET


class StatsDocument(msgspec.Struct, rename="camel"):
    """Both `stats`. Rate and average are of the last minute; `stuckInSent` means for over five minutes."""

    by_status: dict[str, int]
    avg_seconds: float | None
    rate_per_second: float
    oldest_pending_seconds: float | None
    stuck_in_sent: int


TokenStatus = Literal["active", "paused", "unsynced", "held", "sold_out"]


class TokenDocument(msgspec.Struct, rename="camel"):
    """A token on offer. Amounts are decimal strings in atomic units; counts are numbers of mints."""

    address: AddressText
    name: str | None
    symbol: str | None
    price: AmountText
    asset: AddressText
    network: NetworkText
    mint_amount: AmountText | None
    max_mint_count: CountNumber | None
    minted: CountNumber
    reserved: int
    remaining: CountNumber | None
    status: TokenStatus
    quantity_max: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A payment as its buyer sees it at one moment.

    `tag` is made of the document, so any process gives the same one for the same rows, today and after a restart.
    """

    payment: ShownPayment
    body: bytes
    tag: str

    @property
    def is_settled(self) -> bool:
        """Paid, or known not to be."""
        return self.payment.status in (PaymentStatus.COMPLETED, PaymentStatus.FAILED)

    @property
    def is_last(self) -> bool:
        """Nothing more is to be expected: failed, lost to a reorg, or each unit minted or owed, and no refund due."""
        payment = self.payment
        if payment.status is not PaymentStatus.COMPLETED:
            return payment.status is PaymentStatus.FAILED
        waiting = any(
            mint.status in (MintStatus.PENDING, MintStatus.SENT)
            or (mint.refund is not None and mint.refund.status in (RefundStatus.APPROVED, RefundStatus.SENT))
            for mint in payment.mints
        )
        return payment.finality is Finality.LOST or not waiting


def seen(payment: ShownPayment) -> Seen:
    """A payment with its document and the document's tag."""
    body = _ENCODER.encode(payment_document(payment))
    return Seen(payment, body, tag_of(body))


def tag_of(body: bytes) -> str:
    """20 letters, digits, `-` and `_` that stand for a document: its ETag without quotes, and its event id."""
    return base64.urlsafe_b64encode(hashlib.blake2b(body, digest_size=TAG_BYTES).digest()).decode("ascii")


def payment_document(payment: ShownPayment, *, with_mints: bool = True) -> PaymentDocument:
    """One payment, as its buyer sees it."""
    failed = payment.status is PaymentStatus.FAILED
    completed = payment.status is PaymentStatus.COMPLETED
    mints = [_mint_document(mint) for mint in payment.mints] if completed else []
    return PaymentDocument(
        payment_queue_id=str(payment.id),
        status=payment.status,
        payer=checksum_address(payment.payer),
        amount=str(payment.amount),
        quantity=payment.quantity,
        token=checksum_address(payment.token),
        tx_hash=_hash(payment.tx_hash),
        # Before the end the column holds what is only suspected.
        error=ErrorDocument(payment.error_code or FAILED_BY_HAND, payment.error or "The payment failed.")
        if failed
        else None,
        result=ResultDocument(payment.queue_ids, payment.quantity)
        if completed and payment.queue_ids is not None
        else None,
        mints=mints if with_mints else msgspec.UNSET,
        created_at=utc_text(payment.created_at),
        processed_at=None if payment.processed_at is None else utc_text(payment.processed_at),
    )


def queue_document(payment: ShownPayment, mint: ShownMint) -> QueueDocument:
    """One unit with its payment, whose other units are left out: there may be hundreds."""
    return QueueDocument(
        queue_id=str(mint.queue_id),
        status=mint.status,
        mint_id=hex_text(mint.mint_id),
        tx_hash=_hash(mint.tx_hash),
        unit=mint.unit,
        recipient=checksum_address(mint.recipient),
        payment=payment_document(payment, with_mints=False),
        refund=_refund_document(mint),
    )


def stats_document(queue: Queue, stats: QueueStats) -> StatsDocument:
    """Counts and rates; a status without rows is there with zero."""
    statuses = PaymentStatus if queue == "payment_queue" else MintStatus
    return StatsDocument(
        by_status={str(status): stats.by_status.get(status, 0) for status in statuses},
        avg_seconds=stats.avg_seconds,
        rate_per_second=stats.rate_per_second,
        oldest_pending_seconds=stats.oldest_pending_seconds,
        stuck_in_sent=stats.stuck_in_sent,
    )


def token_document(
    token: Token, *, asset: Address, network: str, waiting_units: int, quantity_max: int
) -> TokenDocument:
    """A token; `remaining` leaves out what earlier payments are waiting for."""
    promised = token.minted + token.reserved + waiting_units
    remaining = None if token.max_mint_count is None else max(0, token.max_mint_count - promised)
    return TokenDocument(
        address=checksum_address(token.address),
        name=token.name,
        symbol=token.symbol,
        price=str(token.price),
        asset=checksum_address(asset),
        network=network,
        mint_amount=None if token.mint_amount is None else str(token.mint_amount),
        max_mint_count=_count(token.max_mint_count),
        minted=msgspec.Raw(str(token.minted).encode()),
        reserved=token.reserved,
        remaining=_count(remaining),
        status=_token_status(token, remaining),
        quantity_max=quantity_max,
    )


def _mint_document(mint: ShownMint) -> MintDocument:
    return MintDocument(
        queue_id=str(mint.queue_id),
        status=mint.status,
        mint_id=hex_text(mint.mint_id),
        tx_hash=_hash(mint.tx_hash),
        refund=_refund_document(mint),
    )


def _refund_document(mint: ShownMint) -> RefundDocument | msgspec.UnsetType:
    refund = mint.refund
    if refund is None or refund.status not in _REFUNDS_SHOWN:
        return msgspec.UNSET
    return RefundDocument(
        status=_REFUNDS_SHOWN[refund.status], amount=str(refund.amount), tx_hash=_hash(refund.tx_hash)
    )


def _token_status(token: Token, remaining: int | None) -> TokenStatus:
    if not token.active:
        return "paused"
    if remaining is None:
        return "unsynced"
    if token.held_reason is not None:
        return "held"
    return "active" if remaining else "sold_out"


def _hash(tx_hash: TxHash | None) -> str | None:
    return None if tx_hash is None else hex_text(tx_hash)


def _count(count: int | None) -> msgspec.Raw | None:
    return None if count is None else msgspec.Raw(str(count).encode())
