"""`POST /api/mint/{token}`: the hot path. No framework object, no RPC call, one shared commit, then the 202."""

from __future__ import annotations

import asyncio
import binascii
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec
from starlette.types import Receive

from payfirst.api import problems
from payfirst.api.documents import AcceptedDocument, payment_document
from payfirst.api.problems import (
    JSON,
    NO_STORE,
    Answer,
    BodyTooLarge,
    BodyTooSlow,
    HeaderTooLarge,
    MalformedRequest,
    MoreThanOnePayment,
    TokenPathUnknown,
)
from payfirst.api.runtime import Runtime, Service
from payfirst.config import Config
from payfirst.errors import PayerError, StoreUnavailable
from payfirst.lifecycle import PaymentStatus
from payfirst.pipeline.accept import Accepted, OutcomeUnknown
from payfirst.pipeline.admission import NotNow
from payfirst.store import payments
from payfirst.store.payments import NewPayment
from payfirst.store.tokens import Token
from payfirst.units import (
    ZERO_ADDRESS,
    Address,
    AtomicAmount,
    UnixTime,
    checksum_address,
    parse_address,
    uuid7,
)
from payfirst.x402.eip712 import Asset, recover_signer, transfer_digest
from payfirst.x402.payload import HEADER_BYTES_MAX, HEADER_NAMES, PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import payment_required
from payfirst.x402.verify import BadSignature, InvalidPayment, verify

PREFIX = "/api/mint/"
BODY_BYTES_MAX = 4_096
BODY_TIMEOUT_S = 10.0
# The database's own timeouts end a request long before; this one only keeps it from waiting for ever.
ACCEPT_TIMEOUT_S = 60.0
# More than configuration allows a request to buy: beyond it a number is malformed, below it refused by policy.
QUANTITY_MAX = 250
OFFERS_KEPT_MAX = 4_096
ID_RANDOM_BYTES = 10
IDS_DRAWN_AT_ONCE = 256

NO_PAYMENT = "payment_required"
PAY_BY_HEADER = "Sign one of the offers in accepts and send this request again with it in X-PAYMENT or PAYMENT-SIGNATURE."
NOT_IN_BODY = "A payment in the body is not read (X402 only): send it in the header X-PAYMENT or PAYMENT-SIGNATURE."
SEND_AGAIN = "It is not known yet whether this payment was stored. Send this same header again, do not sign a new one."

PaymentHeader = tuple[Literal[1, 2], bytes]

_VERSIONS: dict[bytes, Literal[1, 2]] = {name.lower().encode(): version for version, name in HEADER_NAMES.items()}  # type: ignore[misc]  # the keys of HEADER_NAMES are 1 and 2
_ENCODER = msgspec.json.Encoder()


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for. `recipient` is None where the payer is meant."""

    token: Address
    quantity: int
    recipient: Address | None
    payment_in_body: bool


class QuantityNotSold(MalformedRequest):
    """More units than the seller sells at once."""


class MintRoute:
    """Answers one request after another; holds only caches."""

    def __init__(self, runtime: Runtime, asset: Asset) -> None:
        config = runtime.config
        self._runtime = runtime
        self._asset = asset
        self._pay_to = config.payments.pay_to_bytes
        self._base_url = config.server.base_url
        self._quantity_max = config.payments.quantity_max
        self._seconds_left_min = config.payments.seconds_left_min
        self._max_timeout_s = config.payments.max_timeout_seconds
        self._status_url = f"{self._base_url}/api/payment/"
        self._offers: dict[tuple[Address, AtomicAmount, int], PaymentRequirements] = {}
        self._ids = PaymentIds()

    async def answer(self, path: str, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> Answer:
        """The answer to a POST. Never raises for what a client sends."""
        payment: PaymentHeader | None = None
        try:
            payment, length = _read_headers(headers)
            token = _token_in_path(path)
            wanted = _wanted(token, await _read_body(receive, length))
            if payment is None:
                return self._offer(wanted)
            return await self._take(wanted, payment)
        except StoreUnavailable as error:
            return _not_known() if payment is not None else problems.refusal(error)
        except (PayerError, NotNow) as error:
            return problems.refusal(error)

    def _offer(self, wanted: Wanted) -> Answer:
        """402 with the price, or why nothing is sold now."""
        admission = self._runtime.service.admission
        token = admission.token(wanted.token)
        self._demand_sold_at_once(wanted.quantity)
        admission.admit(token, wanted.quantity)
        self._runtime.measured.offered += 1
        requirements = self._requirements(token, wanted.quantity)
        return _payment_required(
            requirements, error=NO_PAYMENT, detail=NOT_IN_BODY if wanted.payment_in_body else PAY_BY_HEADER
        )

    async def _take(self, wanted: Wanted, header: PaymentHeader) -> Answer:
        """202 for a payment that is new and good; what became of it, for one that was accepted before."""
        service = self._runtime.service
        version, raw = header
        payload = PaymentPayload.from_header(raw, version=version)
        payment = self._new_payment(wanted, payload)
        requirements: PaymentRequirements | None = None
        try:
            token = service.admission.token(wanted.token)
            self._demand_sold_at_once(wanted.quantity)
            requirements = self._requirements(token, wanted.quantity)
            now = UnixTime(int(time.time()))
            verify(payload, requirements, now=now, seconds_left_min=self._seconds_left_min)
            service.admission.admit(token, wanted.quantity)
            service.admission.demand_time_to_settle(valid_before=payment.valid_before, now=now)
        except (PayerError, NotNow) as refusal:
            return await self._refuse_unless_accepted(service, payload, payment, requirements, refusal)
        accepted = await _store(service, payment)
        if not accepted.created:
            return await self._accepted_before(accepted, wanted.quantity)
        service.admission.took(wanted.token, wanted.quantity)
        return self._accepted(accepted.id, wanted.quantity)

    def _new_payment(self, wanted: Wanted, payload: PaymentPayload) -> NewPayment:
        authorization = payload.authorization
        return NewPayment(
            id=self._ids.draw(),
            token=wanted.token,
            quantity=wanted.quantity,
            recipient=authorization.payer if wanted.recipient is None else wanted.recipient,
            payer=authorization.payer,
            amount=authorization.value,
            nonce=authorization.nonce,
            valid_after=authorization.valid_after,
            valid_before=authorization.valid_before,
            signature=payload.signature,
        )

    async def _refuse_unless_accepted(
        self,
        service: Service,
        payload: PaymentPayload,
        payment: NewPayment,
        requirements: PaymentRequirements | None,
        refusal: PayerError | NotNow,
    ) -> Answer:
        """Never refuse a payment that was accepted before: a client that sees 402 signs another one and pays twice.

        It may have expired, sold out or grown dearer since. Only its payer's own signature is worth the look-up.
        """
        if not isinstance(refusal, BadSignature) and self._is_signed_by_payer(payload):
            async with self._runtime.read_slot():
                stored = await service.acceptor.find(payment)
            if stored is not None:
                return await self._accepted_before(stored, payment.quantity)
        if isinstance(refusal, InvalidPayment) and requirements is not None:
            return _payment_required(requirements, error=refusal.code, detail=str(refusal))
        return problems.refusal(refusal)

    def _is_signed_by_payer(self, payload: PaymentPayload) -> bool:
        digest = transfer_digest(self._asset.domain_separator, payload.authorization)
        try:
            return recover_signer(digest, payload.signature) == payload.authorization.payer
        except ValueError:
            return False

    async def _accepted_before(self, stored: Accepted, quantity: int) -> Answer:
        """The first answer again while the payment is under way, and how it ended afterwards."""
        self._runtime.measured.replayed += 1
        if stored.status in (PaymentStatus.PENDING, PaymentStatus.SENT):
            return self._accepted_answer(stored.id, quantity)
        async with self._runtime.reading("show an earlier payment") as connection:
            shown = await payments.show(connection, stored.id)
        if shown is None:
            raise StoreUnavailable("the payment was moved between two reads")
        return Answer(200, (JSON, NO_STORE), _ENCODER.encode(payment_document(shown)))

    def _accepted(self, payment_id: uuid.UUID, quantity: int) -> Answer:
        raise NotImplementedError

    def _accepted_answer(self, payment_id: uuid.UUID, quantity: int) -> Answer:
        url = f"{self._status_url}{payment_id}"
        body = _ENCODER.encode(AcceptedDocument(str(payment_id), quantity, "payment_pending", url))
        return Answer(202, (JSON, NO_STORE, (b"location", url.encode())), body)

    def _demand_sold_at_once(self, quantity: int) -> None:
        if quantity > self._quantity_max:
            raise QuantityNotSold(f"At most {self._quantity_max} units are sold at once: ask for fewer.")

    def _requirements(self, token: Token, quantity: int) -> PaymentRequirements:
        key = (token.address, token.price, quantity)
        known = self._offers.get(key)
        if known is None:
            if len(self._offers) >= OFFERS_KEPT_MAX:
                self._offers.clear()  # prices that changed thousands of times: begin again
            address = checksum_address(token.address)
            known = self._offers[key] = PaymentRequirements(
                asset=self._asset,
                pay_to=self._pay_to,
                amount=AtomicAmount(token.price * quantity),
                max_timeout_s=self._max_timeout_s,
                resource=f"{self._base_url}{PREFIX}{address}",
                description=f"{quantity} × {token.symbol or address}, minted once the payment is confirmed",
            )
        return known
