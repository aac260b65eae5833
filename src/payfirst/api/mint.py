"""`POST /api/mint/{token}`: the hot path. No framework object, no RPC call, one shared commit, then the 202."""

from __future__ import annotations

import time
import uuid
from typing import Literal

import msgspec
from msgspec import structs
from starlette.types import Receive, Scope

from payfirst.api import conditions, in_time, problems
from payfirst.api.documents import FAILED_BY_HAND, AcceptedDocument, Seen, seen
from payfirst.api.in_time import InTime
from payfirst.api.mint_request import (
    PREFIX,
    PaymentHeader,
    Wanted,
    read_body,
    read_headers,
    token_in_path,
    wanted_in,
)
from payfirst.api.problems import (
    JSON,
    NO_STORE,
    Answer,
    BodyTooSlow,
    MalformedRequest,
)
from payfirst.api.runtime import Runtime, Service
from payfirst.api.waiting import NoRoomToWait
from payfirst.errors import OperatorError, PayerError, StoreUnavailable
from payfirst.lifecycle import PaymentStatus
from payfirst.pipeline.accept import Accepted, AuthorizationReused, OutcomeUnknown
from payfirst.pipeline.admission import NotNow
from payfirst.store import payments
from payfirst.store.ids import Ids
from payfirst.store.payments import NewPayment
from payfirst.store.tokens import Token
from payfirst.units import (
    ZERO_ADDRESS,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    checksum_address,
)
from payfirst.x402.eip712 import Asset, recover_signer, transfer_digest
from payfirst.x402.payload import PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import SETTLEMENT_HEADER_NAMES, payment_required, settlement
from payfirst.x402.verify import KEY_SIGNATURE_BYTES, BadSignature, InvalidPayment, verify

OFFERS_KEPT_MAX = 4_096

NO_PAYMENT = "payment_required"
PAY_BY_HEADER = (
    "Sign one of the offers in accepts and send this request again with it in X-PAYMENT or PAYMENT-SIGNATURE."
)
NOT_IN_BODY = "A payment in the body is not read (X402 only): send it in the header X-PAYMENT or PAYMENT-SIGNATURE."
SEND_AGAIN = "It is not known yet whether this payment was stored. Send this same header again, do not sign a new one."

_ENCODER = msgspec.json.Encoder()


class Offer(Answer, frozen=True):
    """The 402 to a request that carries no payment yet."""


class UnderWay(Answer, frozen=True):
    """A 202: the payment is in the queue, put there by this request or by an earlier one."""

    payment_id: uuid.UUID
    is_new: bool


class QuantityNotSold(MalformedRequest):
    """More units than the seller sells at once."""


class MintRoute:
    """Answers requests; what it holds is lost without harm when the process ends."""

    def __init__(self, runtime: Runtime, asset: Asset) -> None:
        config = runtime.config
        self._runtime = runtime
        self._asset = asset
        self._pay_to = config.payments.pay_to_bytes
        self._base_url = config.server.base_url
        self._quantity_max = config.payments.quantity_max
        self._seconds_left_min = config.payments.seconds_left_min
        self._wallet_signature_bytes_max = (
            config.payments.wallet_signature_bytes_max if config.payments.smart_wallets else 0
        )
        self._wait_s_max = config.server.wait_s_max
        self._max_timeout_s = config.payments.max_timeout_seconds
        self._status_url = f"{self._base_url}/api/payment/"
        self._offers: dict[tuple[Address, AtomicAmount, int], PaymentRequirements] = {}
        self._ids = Ids()
        self._in_time = InTime()
        # Authorizations whose commit is under way: a look-up does not see them yet, and how many requests wait.
        self._storing: dict[tuple[Address, AuthorizationNonce], int] = {}
        self._demand_that_offers_can_be_made()

    def count(self, answer: Answer, *, seconds: float) -> None:
        """Count an answer that was sent so long after its request came."""
        measured = self._runtime.measured
        if isinstance(answer, UnderWay):
            if answer.is_new:
                measured.accept.record(seconds)
        elif isinstance(answer, Offer):
            measured.offered += 1
        elif answer.status >= 400:
            measured.refused[str(answer.status)] += 1

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to one request of any method; nothing that a client sends makes it raise."""
        if scope["method"] != "POST":
            return problems.method_not_allowed(scope["method"], "POST")
        payment: PaymentHeader | None = None
        wanted: Wanted | None = None
        try:
            payment, length, prefer = read_headers(scope["headers"])
            token = token_in_path(scope["path"])
            with self._in_time:
                wanted = wanted_in(token, await read_body(receive, length))
                answer = self._offer(wanted) if payment is None else await self._take(wanted, payment)
            if prefer and payment is not None and isinstance(answer, UnderWay):
                return await self._hold(answer, prefer, receive, version=payment[0])
            return answer
        except TimeoutError:
            if wanted is None:
                sentence = f"The body did not arrive within {in_time.REQUEST_TIMEOUT_S:.0f} s. Send the request again."
                return problems.refusal(BodyTooSlow(sentence))
            return _not_known()
        except StoreUnavailable as error:
            return problems.refusal(error) if payment is None else _not_known()
        except (PayerError, NotNow) as error:
            return problems.refusal(error)

    def _offer(self, wanted: Wanted) -> Answer:
        """402 with the price, or why nothing is sold now."""
        admission = self._runtime.service.admission
        token = admission.token(wanted.token)
        self._demand_sold_at_once(wanted.quantity)
        admission.admit(token, wanted.quantity)
        requirements = self._requirements(token, wanted.quantity)
        answer = _payment_required(
            requirements, error=NO_PAYMENT, detail=NOT_IN_BODY if wanted.payment_in_body else PAY_BY_HEADER
        )
        return Offer(answer.status, answer.headers, answer.body)

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
            by_wallet = verify(
                payload,
                requirements,
                now=now,
                seconds_left_min=self._seconds_left_min,
                wallet_signature_bytes_max=self._wallet_signature_bytes_max,
            )
            if by_wallet is not None:
                payment = structs.replace(payment, signature=by_wallet, by_wallet=True)
            # A request that repeats one that is being stored is admitted with it: it takes no other place.
            is_repeat = (payment.payer, payment.nonce) in self._storing
            if not is_repeat:
                service.admission.begin(payment, token, now=now)
        except (PayerError, NotNow) as refusal:
            return await self._refuse_unless_accepted(service, payload, payment, requirements, refusal, version)
        may_be_new = True  # whatever ends this: it is counted unless it is known to have been there
        try:
            accepted = await self._store(service, payment)
            may_be_new = accepted.created
        except AuthorizationReused:
            may_be_new = False
            raise
        finally:
            if not is_repeat:
                service.admission.end(payment, stored=may_be_new)
            elif may_be_new:
                service.admission.stored(payment)
        if not accepted.created:
            return await self._accepted_before(accepted, wanted.quantity, version)
        self._runtime.measured.accepted += 1
        self._runtime.flow.payment_queued(
            payment_id=accepted.id,
            quantity=payment.quantity,
            payer=payment.payer,
            amount=payment.amount,
            token=payment.token,
        )
        return self._accepted(accepted.id, wanted.quantity, is_new=True)

    async def _hold(self, answer: UnderWay, prefer: bytes, receive: Receive, *, version: Literal[1, 2]) -> Answer:
        """How the payment ended, when that is known within the time the client would wait; else the 202 after all.

        Its row is committed, so nothing that happens here is worth another answer: not a database that has gone away,
        not too many who wait. What was held is not in the measured time to accept.
        """
        wait_s = conditions.wait_s(prefer.decode("latin-1"), at_most=self._wait_s_max)
        if not wait_s:
            return answer
        try:
            with self._runtime.waiting.watch(answer.payment_id) as waiter, waiter.until_hung_up(receive):
                now = await waiter.until(lambda s: s.is_settled, within_s=wait_s)
        except NoRoomToWait:
            return answer
        settled = now is not None and now.is_settled
        held = self._ended(now, version) if now is not None and settled else answer
        if waiter.is_over and not settled:
            return held  # we stop, or the client has gone: its preference was not met
        applied = (b"preference-applied", f"wait={wait_s}".encode())
        return Answer(held.status, (*held.headers, applied), held.body)

    async def _store(self, service: Service, payment: NewPayment) -> Accepted:
        """Raises AuthorizationReused, and OutcomeUnknown.

        That also when too many wait: an earlier request with this authorization may have been stored.
        """
        key = (payment.payer, payment.nonce)
        self._storing[key] = self._storing.get(key, 0) + 1
        try:
            return await service.acceptor.accept(payment)
        except NotNow as error:
            raise OutcomeUnknown("too many requests wait to be stored") from error
        finally:
            left = self._storing.pop(key) - 1
            if left:
                self._storing[key] = left

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
        version: Literal[1, 2],
    ) -> Answer:
        """Never refuse a payment that was accepted before: a client that sees 402 signs another one and pays twice.

        It may have expired, sold out or grown dearer since. That is told to its payer alone, known by the signature,
        and to who may be a smart wallet: also where such are taken no longer.
        """
        may_be_accepted = not isinstance(refusal, BadSignature) or self._may_be_by_wallet(payload)
        if may_be_accepted:
            # Looked up before its signer is recovered: requests share a look-up, and next to nothing of what is refused
            # is found, so that to recover each would be the dearest thing that is done for it.
            try:
                found = await self._find(service, payment)
            except (AuthorizationReused, StoreUnavailable):
                if self._is_by_payer(payload, refusal):
                    raise
            else:
                if found is not None and self._is_by_payer(payload, refusal):
                    return await self._accepted_before(found, payment.quantity, version)
        if isinstance(refusal, InvalidPayment) and requirements is not None:
            return _payment_required(requirements, error=refusal.code, detail=str(refusal))
        return problems.refusal(refusal)

    async def _find(self, service: Service, payment: NewPayment) -> Accepted | None:
        """Raises AuthorizationReused, and OutcomeUnknown where an earlier request with it is being stored."""
        if (payment.payer, payment.nonce) in self._storing:
            raise OutcomeUnknown("an earlier request with this authorization is being stored")
        return await service.acceptor.find(payment)

    def _is_by_payer(self, payload: PaymentPayload, refusal: PayerError | NotNow) -> bool:
        """Whether its payer sent it, as far as can be known without the chain."""
        if isinstance(refusal, NotNow) or self._may_be_by_wallet(payload):
            return True  # what is refused for now was verified before
        digest = transfer_digest(self._asset.domain_separator, payload.authorization)
        try:
            return recover_signer(digest, payload.signature) == payload.authorization.payer
        except ValueError:
            return False

    def _may_be_by_wallet(self, payload: PaymentPayload) -> bool:
        return bool(self._wallet_signature_bytes_max) or len(payload.signature) != KEY_SIGNATURE_BYTES

    async def _accepted_before(self, stored: Accepted, quantity: int, version: Literal[1, 2]) -> Answer:
        """The first answer again while the payment is under way, and how it ended afterwards."""
        self._runtime.measured.replayed += 1
        if stored.status in (PaymentStatus.PENDING, PaymentStatus.SENT):
            return self._accepted(stored.id, quantity, is_new=False)
        async with self._runtime.reading("show an earlier payment") as connection:
            shown = await payments.show(connection, stored.id)
        if shown is None:
            raise StoreUnavailable("the payment was moved between two reads")
        return self._ended(seen(shown), version)

    def _ended(self, now: Seen, version: Literal[1, 2]) -> Answer:
        """200, the status document, and the header by which x402 clients learn the same.

        Also for a payment that failed: a client that sees 402 signs another one. `success` in the header is false then.
        """
        payment = now.payment
        failed = payment.status is PaymentStatus.FAILED
        header = settlement(
            version=version,
            network=self._asset.network,
            payer=payment.payer,
            transaction=payment.tx_hash,
            error_reason=(payment.error_code or FAILED_BY_HAND) if failed else None,
        )
        name = SETTLEMENT_HEADER_NAMES[version].lower().encode()
        return Answer(200, (JSON, NO_STORE, (name, header.encode())), now.body)

    def _accepted(self, payment_id: uuid.UUID, quantity: int, *, is_new: bool) -> UnderWay:
        id_text = str(payment_id)
        url = self._status_url + id_text
        body = _ENCODER.encode(AcceptedDocument(id_text, quantity, "payment_pending", url))
        return UnderWay(202, (JSON, NO_STORE, (b"location", url.encode())), body, payment_id, is_new)

    def _demand_that_offers_can_be_made(self) -> None:
        """Found when the process starts, not by the first buyer. Raises OperatorError."""
        try:
            payment_required(self.requirements_for(ZERO_ADDRESS, AtomicAmount(1), "1 unit"), error=NO_PAYMENT)
        except ValueError as error:
            raise OperatorError(
                f"The settings server.public_url and asset.name cannot be put into an offer: {error}"
            ) from error

    def _demand_sold_at_once(self, quantity: int) -> None:
        if quantity > self._quantity_max:
            raise QuantityNotSold(f"At most {self._quantity_max} units are sold at once: ask for fewer.")

    def _requirements(self, token: Token, quantity: int) -> PaymentRequirements:
        key = (token.address, token.price, quantity)
        known = self._offers.get(key)
        if known is None:
            if len(self._offers) >= OFFERS_KEPT_MAX:
                self._offers.clear()  # prices that changed thousands of times: begin again
            unit = token.symbol or checksum_address(token.address)
            known = self._offers[key] = self.requirements_for(
                token.address,
                AtomicAmount(token.price * quantity),
                f"{quantity} × {unit}, minted once the payment is confirmed",
            )
        return known

    def requirements_for(self, token: Address, amount: AtomicAmount, description: str) -> PaymentRequirements:
        """What is asked for `amount`'s worth of a token."""
        return PaymentRequirements(
            asset=self._asset,
            pay_to=self._pay_to,
            amount=amount,
            max_timeout_s=self._max_timeout_s,
            resource=f"{self._base_url}{PREFIX}{checksum_address(token)}",
            description=description,
        )


def _payment_required(requirements: PaymentRequirements, *, error: str, detail: str) -> Answer:
    offer = payment_required(requirements, error=error, detail=detail)
    return Answer(402, (JSON, NO_STORE, (b"payment-required", offer.header.encode())), offer.body)


def _not_known() -> Answer:
    again = problems.retry_after(problems.RETRY_AFTER_STORE_S)
    return problems.problem(503, "outcome_unknown", SEND_AGAIN, headers=[again])
