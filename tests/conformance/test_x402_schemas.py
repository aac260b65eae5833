"""Payments and offers against the official Python SDK, in both directions."""

from __future__ import annotations

import base64
import time
from typing import Literal

import pytest
from eth_account import Account
from x402 import x402ClientSync
from x402.http.utils import (
    decode_payment_required_header,
    decode_payment_response_header,
    decode_payment_signature_header,
    encode_payment_signature_header,
)
from x402.mechanisms.evm.eip712 import hash_eip3009_authorization
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.mechanisms.evm.types import ExactEIP3009Payload
from x402.mechanisms.evm.v1.constants import V1_NETWORK_CHAIN_IDS
from x402.schemas import PaymentPayload as OfficialPayload
from x402.schemas import PaymentRequired as OfficialOffer
from x402.schemas.helpers import parse_payment_required
from x402.schemas.v1 import PaymentPayloadV1 as OfficialPayloadV1
from x402.schemas.v1 import PaymentRequiredV1 as OfficialOfferV1

from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    TxHash,
    UnixTime,
    checksum_address,
    keccak,
    parse_address,
)
from payfirst.x402.eip712 import Asset, transfer_digest
from payfirst.x402.networks import V1_CHAIN_IDS, network_from_text
from payfirst.x402.payload import Authorization, PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import HEADER_BYTES_MAX, payment_required, settlement
from payfirst.x402.signing import address_of, header_v1, header_v2, sign_authorization
from payfirst.x402.verify import verify

KEY = keccak(b"payfirst tests: conformance")
USDC = Asset(
    network=network_from_text("base-sepolia"),
    address=parse_address("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
    name="USDC",
    version="2",
    decimals=6,
)
REQUIREMENTS = PaymentRequirements(
    asset=USDC,
    pay_to=Address(b"\x22" * 20),
    amount=AtomicAmount(10_000),
    max_timeout_s=900,
    resource="http://127.0.0.1:4021/api/mint/0x1111111111111111111111111111111111111111",
    description="1 unit",
)
AUTHORIZATION = Authorization(
    payer=address_of(KEY),
    pay_to=REQUIREMENTS.pay_to,
    value=REQUIREMENTS.amount,
    valid_after=UnixTime(0),
    valid_before=UnixTime(1_800_000_900),
    nonce=AuthorizationNonce(keccak(b"payfirst tests: nonce")),
)
OFFER = payment_required(REQUIREMENTS, error="payment_required")
VERSIONS: list[Literal[1, 2]] = [1, 2]


def our_header(version: Literal[1, 2]) -> str:
    signature = sign_authorization(USDC, AUTHORIZATION, KEY)
    if version == 1:
        return header_v1(AUTHORIZATION, signature, network=USDC.network)
    return header_v2(AUTHORIZATION, signature, requirements=REQUIREMENTS)


def official_offer(version: Literal[1, 2]) -> OfficialOffer | OfficialOfferV1:
    """Our 402 as the official client reads it."""
    return parse_payment_required(OFFER.body) if version == 1 else decode_payment_required_header(OFFER.header)


def official_payment(version: Literal[1, 2]) -> str:
    """The header that the official client pays our offer with."""
    client = register_exact_evm_client(x402ClientSync(), EthAccountSigner(Account.from_key(KEY)))
    return encode_payment_signature_header(client.create_payment_payload(official_offer(version)))


def test_the_official_schema_reads_the_v1_offer() -> None:
    """The 402's body is an official v1 offer, and no field was lost."""
    offer = official_offer(1)
    assert isinstance(offer, OfficialOfferV1)
    (entry,) = offer.accepts
    assert (entry.scheme, entry.network, entry.max_amount_required) == ("exact", "base-sepolia", "10000")
    assert (parse_address(entry.asset), parse_address(entry.pay_to)) == (USDC.address, REQUIREMENTS.pay_to)
    assert (entry.resource, entry.description) == (REQUIREMENTS.resource, "1 unit")
    assert (entry.mime_type, entry.max_timeout_seconds) == ("application/json", 900)
    assert entry.extra == {"name": "USDC", "version": "2"}


def test_the_official_schema_reads_the_v2_offer() -> None:
    """The 402's header is an official v2 offer, and no field was lost."""
    offer = official_offer(2)
    assert isinstance(offer, OfficialOffer)
    assert len(OFFER.header) <= HEADER_BYTES_MAX
    assert offer.error == "payment_required"
    assert offer.resource is not None
    assert (offer.resource.url, offer.resource.mime_type) == (REQUIREMENTS.resource, "application/json")
    (entry,) = offer.accepts
    assert (entry.scheme, entry.network, entry.amount) == ("exact", "eip155:84532", "10000")
    assert (parse_address(entry.asset), parse_address(entry.pay_to)) == (USDC.address, REQUIREMENTS.pay_to)
    assert entry.extra == {"name": "USDC", "version": "2", "paymentFlow": "upfront"}


def test_a_detail_does_not_disturb_the_official_schema() -> None:
    """The sentence beside the code is ignored by the official reader."""
    detailed = payment_required(REQUIREMENTS, error="invalid_network", detail="Pay on base-sepolia.")
    offer = parse_payment_required(detailed.body)
    assert isinstance(offer, OfficialOfferV1)
    assert offer.error == "invalid_network"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_client_pays_our_offer(version: Literal[1, 2]) -> None:
    """What the official client makes of our 402 is read here and taken."""
    payload = PaymentPayload.from_header(official_payment(version), version=version)
    assert payload.authorization.payer == address_of(KEY)
    verify(payload, REQUIREMENTS, now=UnixTime(int(time.time())))


def test_the_official_client_says_what_it_accepted() -> None:
    """The v2 client sends our terms back, domain and payment flow included."""
    accepted = PaymentPayload.from_header(official_payment(2), version=2).accepted
    assert accepted is not None
    assert (accepted.domain_name, accepted.domain_version, accepted.payment_flow) == ("USDC", "2", "upfront")


def test_the_official_schema_reads_our_v1_payment() -> None:
    """Our X-PAYMENT header is an official v1 payload, field by field."""
    payload = decode_payment_signature_header(our_header(1))
    assert isinstance(payload, OfficialPayloadV1)
    assert (payload.scheme, payload.network) == ("exact", "base-sepolia")
    assert_same_authorization(ExactEIP3009Payload.from_dict(payload.payload))


def test_the_official_schema_reads_our_v2_payment() -> None:
    """Our PAYMENT-SIGNATURE header is an official v2 payload whose accepted terms are our offer's."""
    payload = decode_payment_signature_header(our_header(2))
    assert isinstance(payload, OfficialPayload)
    offer = official_offer(2)
    assert isinstance(offer, OfficialOffer)
    assert payload.accepted == offer.accepts[0]
    assert_same_authorization(ExactEIP3009Payload.from_dict(payload.payload))


def assert_same_authorization(exact: ExactEIP3009Payload) -> None:
    authorization = exact.authorization
    assert authorization.from_address == checksum_address(AUTHORIZATION.payer)
    assert authorization.to == checksum_address(AUTHORIZATION.pay_to)
    assert (authorization.value, authorization.valid_after) == ("10000", "0")
    assert authorization.valid_before == "1800000900"
    assert bytes.fromhex(authorization.nonce[2:]) == AUTHORIZATION.nonce
    digest = hash_eip3009_authorization(authorization, 84532, checksum_address(USDC.address), "USDC", "2")
    assert digest == transfer_digest(USDC.domain_separator, AUTHORIZATION)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_payment_survives_the_official_encoder(version: Literal[1, 2]) -> None:
    """Read by the official schema and written again, our payment is the same payment."""
    header = our_header(version)
    again = encode_payment_signature_header(decode_payment_signature_header(header))
    assert PaymentPayload.from_header(again, version=version) == PaymentPayload.from_header(header, version=version)


def test_the_official_encoder_writes_standard_base64() -> None:
    """The strict decoder refuses nothing that the official client sends."""
    header = official_payment(2)
    assert base64.b64encode(base64.b64decode(header, validate=True)).decode() == header


def test_the_v1_names_are_the_official_ones() -> None:
    """The table of v1 networks is the official SDK's."""
    assert V1_CHAIN_IDS == V1_NETWORK_CHAIN_IDS


@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_schema_reads_our_settlement(version: Literal[1, 2]) -> None:
    """Settled: the transaction, the payer, and the network as its version spells it."""
    transaction = TxHash(b"\xaa" * 32)
    header = settlement(version=version, network=USDC.network, payer=address_of(KEY), transaction=transaction)
    settled = decode_payment_response_header(header)
    assert (settled.success, settled.error_reason) == (True, None)
    assert (settled.payer, settled.transaction) == (checksum_address(address_of(KEY)), "0x" + "aa" * 32)
    assert settled.network == ("base-sepolia" if version == 1 else "eip155:84532")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_schema_reads_our_failed_settlement(version: Literal[1, 2]) -> None:
    """Not settled: the reason, and an empty transaction."""
    header = settlement(
        version=version,
        network=USDC.network,
        payer=address_of(KEY),
        transaction=None,
        error_reason="insufficient_funds",
    )
    settled = decode_payment_response_header(header)
    assert (settled.success, settled.error_reason, settled.transaction) == (False, "insufficient_funds", "")


def test_nothing_is_settled_without_a_transaction() -> None:
    """Clients would take it for settled."""
    with pytest.raises(ValueError, match="has a transaction"):
        settlement(version=2, network=USDC.network, payer=address_of(KEY), transaction=None)
