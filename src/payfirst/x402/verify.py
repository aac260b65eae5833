"""Whether a payment is what was asked for and its payer signed it: no RPC, no clock. Pure, on the hot path.

Raised refusals carry the x402 error code; everything cheap is refused before the signature is recovered.
Sources: x402 specification (exact scheme on EVM, error codes), EIP-3009.
"""

from __future__ import annotations

from typing import ClassVar

from payfirst.errors import PayerError
from payfirst.units import ZERO_ADDRESS, UnixTime, checksum_address
from payfirst.x402.eip712 import recover_signer, transfer_digest
from payfirst.x402.payload import Authorization, PaymentPayload
from payfirst.x402.requirements import PAYMENT_FLOW, SCHEME, PaymentRequirements
from payfirst.x402.wallet_signature import unwrap

KEY_SIGNATURE_BYTES = 65


class InvalidPayment(PayerError):
    """A well-formed payment that does not pay for this. HTTP: 402."""


class WrongScheme(InvalidPayment):
    """Another scheme than exact."""

    code: ClassVar[str] = "unsupported_scheme"


class WrongNetwork(InvalidPayment):
    """Another network than the offer's, or its name in the other version's spelling."""

    code: ClassVar[str] = "invalid_network"


class RequirementsMismatch(InvalidPayment):
    """The v2 `accepted` requirement is not one that is offered here."""

    code: ClassVar[str] = "invalid_payment_requirements"


class RecipientMismatch(InvalidPayment):
    """The authorization pays somebody else."""

    code: ClassVar[str] = "invalid_exact_evm_payload_recipient_mismatch"


class AmountMismatch(InvalidPayment):
    """The authorization's value is not the price; more is refused like less."""

    code: ClassVar[str] = "invalid_exact_evm_payload_authorization_value_mismatch"


class AuthorizationNotYetValid(InvalidPayment):
    """The authorization's validAfter has not passed."""

    code: ClassVar[str] = "invalid_exact_evm_payload_authorization_valid_after"


class AuthorizationExpired(InvalidPayment):
    """The authorization's validBefore has passed or is too near to settle."""

    code: ClassVar[str] = "invalid_exact_evm_payload_authorization_valid_before"


class BadSignature(InvalidPayment):
    """The signature is not the payer's, or has a form that the asset refuses."""

    code: ClassVar[str] = "invalid_exact_evm_payload_signature"


class NotByKey(BadSignature):
    """No signature by the payer's key; a smart wallet may have made it all the same."""


def verify(
    payload: PaymentPayload,
    requirements: PaymentRequirements,
    *,
    now: UnixTime,
    seconds_left_min: int = 60,
    wallet_signature_bytes_max: int = 0,
) -> bytes | None:
    """Return if `payload` pays exactly for `requirements` at `now`; raise an InvalidPayment otherwise.

    None: the payer's key signed it. Bytes: it is a smart wallet's signature (unwrapped), by its shape alone, which only
    the chain can judge; none is taken while `wallet_signature_bytes_max` is 0.
    Says nothing about balance, use or the payer's code: those are the chain's, and checked when settling.
    """
    _check_terms(payload, requirements)
    _check_accepted(payload, requirements)
    _check_transfer(payload.authorization, requirements)
    _check_times(payload.authorization, now=now, seconds_left_min=seconds_left_min)
    try:
        _check_signature(payload, requirements)
    except NotByKey:
        if not wallet_signature_bytes_max:
            raise
        return wallet_signature(payload.signature, bytes_max=wallet_signature_bytes_max)
    return None


def _check_terms(payload: PaymentPayload, requirements: PaymentRequirements) -> None:
    if payload.scheme != SCHEME:
        raise WrongScheme(f"This server takes the scheme {SCHEME!r}, not {payload.scheme[:64]!r}.")
    network = requirements.asset.network
    expected = network.name if payload.x402_version == 1 else network.caip2
    if payload.network != expected:
        if expected is None:
            raise WrongNetwork(f"Pay on {network.caip2} with x402 version 2: version 1 has no name for it.")
        raise WrongNetwork(f"Pay on {expected}, not on {payload.network[:64]!r}.")


def _check_accepted(payload: PaymentPayload, requirements: PaymentRequirements) -> None:
    accepted = payload.accepted
    if accepted is None:
        return
    asset = requirements.asset
    if accepted.asset != asset.address:
        raise RequirementsMismatch(f"accepted.asset is not {checksum_address(asset.address)}: fetch the offer again.")
    if accepted.pay_to != requirements.pay_to:
        raise RequirementsMismatch(
            f"accepted.payTo is not {checksum_address(requirements.pay_to)}: fetch the offer again."
        )
    if accepted.amount != requirements.amount:
        raise RequirementsMismatch(
            f"accepted.amount is {accepted.amount}, the price is {requirements.amount}: fetch the offer again."
        )
    for label, stated, offered in (
        ("name", accepted.domain_name, asset.name),
        ("version", accepted.domain_version, asset.version),
        ("paymentFlow", accepted.payment_flow, PAYMENT_FLOW),
    ):
        if stated is not None and stated != offered:
            raise RequirementsMismatch(
                f"accepted.extra.{label} is {stated[:64]!r}, not {offered!r}: fetch the offer again."
            )


def _check_transfer(authorization: Authorization, requirements: PaymentRequirements) -> None:
    if authorization.pay_to != requirements.pay_to:
        raise RecipientMismatch(
            f"Sign an authorization to {checksum_address(requirements.pay_to)},"
            f" not to {checksum_address(authorization.pay_to)}."
        )
    if authorization.value != requirements.amount:
        raise AmountMismatch(
            f"Sign an authorization of exactly {requirements.amount} atomic units, not {authorization.value}."
        )


def _check_times(authorization: Authorization, *, now: UnixTime, seconds_left_min: int) -> None:
    # EIP-3009 demands that the block's time is strictly above validAfter.
    if authorization.valid_after >= now:
        raise AuthorizationNotYetValid(
            f"validAfter {authorization.valid_after} has not passed, it is {now} here: sign one that is valid already."
        )
    left = authorization.valid_before - now
    if left < seconds_left_min:
        raise AuthorizationExpired(
            f"validBefore {authorization.valid_before} leaves {max(left, 0)} s, at least {seconds_left_min}"
            " are needed to settle: sign a new authorization."
        )


def _check_signature(payload: PaymentPayload, requirements: PaymentRequirements) -> None:
    payer = payload.authorization.payer
    if payer == ZERO_ADDRESS:
        raise BadSignature("The zero address cannot pay: put your own address into authorization.from.")
    digest = transfer_digest(requirements.asset.domain_separator, payload.authorization)
    try:
        signer = recover_signer(digest, payload.signature)
    except ValueError as error:
        if len(payload.signature) != KEY_SIGNATURE_BYTES:
            raise NotByKey(
                f"The signature cannot be used: it has {len(payload.signature)} bytes instead of 65 (r, s, v). Smart"
                " wallets (EIP-1271, ERC-6492) are not taken here. Sign the authorization again, with an account that"
                " has a key of its own."
            ) from error
        raise NotByKey(f"The signature cannot be used: {error}. Sign the authorization again.") from error
    if signer != payer:
        raise NotByKey(
            f"The signature is not by {checksum_address(payer)}: sign with that account, and with the EIP-712"
            f" domain name {requirements.asset.name!r}, version {requirements.asset.version!r},"
            f" chain id {requirements.asset.network.chain_id}."
        )


def wallet_signature(signature: bytes, *, bytes_max: int) -> bytes:
    """What a smart wallet is asked about: the bytes, out of their ERC-6492 wrapping. Raises BadSignature.

    Empty bytes are a signature too: some wallets (Safe) were told on chain what they agree to.
    """
    try:
        inner = unwrap(signature)
    except ValueError as error:
        raise BadSignature(f"The signature cannot be used: {error}. Sign the authorization again.") from error
    if len(inner) > bytes_max:
        raise BadSignature(
            f"The smart wallet's signature has {len(inner)} bytes; at most {bytes_max} are taken. Pay from another"
            " account."
        )
    return inner
