"""Whatever a payer sends is a payment or a refusal, and what was written reads back."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from payfirst.errors import PayerError
from payfirst.units import (
    UINT256_MAX,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    parse_address,
)
from payfirst.x402.eip712 import Asset, recover_signer, transfer_digest
from payfirst.x402.networks import V1_CHAIN_IDS, network_from_text
from payfirst.x402.payload import UNIX_TIME_MAX_S, Authorization, PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import payment_required
from payfirst.x402.signing import address_of, header_v1, header_v2, sign_authorization
from payfirst.x402.verify import BadSignature, InvalidPayment, verify

NOW = UnixTime(1_800_000_000)
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
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
KEY = b"\x07" * 32
GOOD = Authorization(
    payer=address_of(KEY),
    pay_to=REQUIREMENTS.pay_to,
    value=REQUIREMENTS.amount,
    valid_after=UnixTime(0),
    valid_before=UnixTime(NOW + 900),
    nonce=AuthorizationNonce(b"\x05" * 32),
)
GOOD_SIGNATURE = sign_authorization(USDC, GOOD, KEY)
HEADERS = {
    1: header_v1(GOOD, GOOD_SIGNATURE, network=USDC.network),
    2: header_v2(GOOD, GOOD_SIGNATURE, requirements=REQUIREMENTS),
}
DOCUMENTS: dict[int, Any] = {version: json.loads(base64.b64decode(header)) for version, header in HEADERS.items()}

versions: st.SearchStrategy[Literal[1, 2]] = st.sampled_from((1, 2))
addresses = st.binary(min_size=20, max_size=20).map(Address)
amounts = st.integers(0, UINT256_MAX).map(AtomicAmount)
times = st.integers(0, UNIX_TIME_MAX_S).map(UnixTime)
keys = st.integers(1, CURVE_ORDER - 1).map(lambda number: number.to_bytes(32))
authorizations = st.builds(
    Authorization,
    payer=addresses,
    pay_to=addresses,
    value=amounts,
    valid_after=times,
    valid_before=times,
    nonce=st.binary(min_size=32, max_size=32).map(AuthorizationNonce),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)


def paths(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where each member of a JSON object is, at any depth."""
    found = []
    for name, member in value.items():
        found.append((*prefix, name))
        if isinstance(member, dict):
            found += paths(member, (*prefix, name))
    return found


def outcome(header: bytes | str, version: Literal[1, 2]) -> PayerError | None:
    """What the payer hears: nothing, or a refusal whose sentence can be put into a 402."""
    try:
        verify(PaymentPayload.from_header(header, version=version), REQUIREMENTS, now=NOW)
    except PayerError as error:
        refusal = error
    else:
        return None
    assert b"\n" not in payment_required(REQUIREMENTS, error=refusal.code, detail=str(refusal)).body
    return refusal


@pytest.mark.parametrize("version", [1, 2])
def test_the_good_payments_are_good(version: Literal[1, 2]) -> None:
    """The payments that the mutations start from are taken."""
    assert outcome(HEADERS[version], version) is None


@given(raw=st.binary(max_size=9_000) | st.text(), version=versions)
def test_any_header_is_refused_in_words(raw: bytes | str, version: Literal[1, 2]) -> None:
    """Arbitrary bytes and texts raise a PayerError, never anything else."""
    assert outcome(raw, version) is not None


@given(content=st.binary(max_size=2_000), version=versions)
def test_any_content_is_refused_in_words(content: bytes, version: Literal[1, 2]) -> None:
    """Arbitrary bytes inside good base64 raise a PayerError, never anything else."""
    assert outcome(base64.b64encode(content), version) is not None


@given(data=st.data(), version=versions, value=json_values)
def test_any_mutation_is_taken_or_refused_in_words(data: st.DataObject, version: Literal[1, 2], value: Any) -> None:
    """A good payment with any member replaced by any JSON value, or removed, never raises anything else."""
    document = copy.deepcopy(DOCUMENTS[version])
    *parents, name = data.draw(st.sampled_from(paths(document)))
    target = document
    for parent in parents:
        target = target[parent]
    if data.draw(st.booleans()):
        target[name] = value
    else:
        del target[name]
    outcome(base64.b64encode(json.dumps(document).encode("utf-8")), version)


@given(version=versions, position=st.integers(0, 4_000), byte=st.integers(0, 255))
def test_a_flipped_byte_is_taken_or_refused_in_words(version: Literal[1, 2], position: int, byte: int) -> None:
    """A good payment with any byte of its JSON replaced never raises anything else."""
    content = bytearray(base64.b64decode(HEADERS[version]))
    content[position % len(content)] = byte
    outcome(base64.b64encode(content), version)


@given(authorization=authorizations, signature=st.binary(max_size=200), network=st.sampled_from(sorted(V1_CHAIN_IDS)))
def test_v1_reads_back(authorization: Authorization, signature: bytes, network: str) -> None:
    """Every authorization survives the X-PAYMENT header."""
    header = header_v1(authorization, signature, network=network_from_text(network))
    payload = PaymentPayload.from_header(header, version=1)
    assert (payload.scheme, payload.network) == ("exact", network)
    assert (payload.authorization, payload.signature) == (authorization, signature)


@given(authorization=authorizations, signature=st.binary(max_size=200), amount=amounts, pay_to=addresses)
def test_v2_reads_back(authorization: Authorization, signature: bytes, amount: AtomicAmount, pay_to: Address) -> None:
    """Every authorization and what was accepted survive the PAYMENT-SIGNATURE header."""
    requirements = replace(REQUIREMENTS, amount=amount, pay_to=pay_to)
    payload = PaymentPayload.from_header(header_v2(authorization, signature, requirements=requirements), version=2)
    assert (payload.authorization, payload.signature) == (authorization, signature)
    assert payload.accepted is not None
    assert (payload.accepted.amount, payload.accepted.pay_to) == (amount, pay_to)


@given(key=keys, nonce=st.binary(min_size=32, max_size=32), value=amounts, version=versions)
@example(key=(1).to_bytes(32), nonce=bytes(32), value=AtomicAmount(0), version=1)
@example(key=(CURVE_ORDER - 1).to_bytes(32), nonce=b"\xff" * 32, value=AtomicAmount(UINT256_MAX), version=2)
def test_what_a_buyer_signs_is_taken(key: bytes, nonce: bytes, value: AtomicAmount, version: Literal[1, 2]) -> None:
    """Any key can pay any price, and its signature recovers to its own account."""
    requirements = replace(REQUIREMENTS, amount=value)
    authorization = structs.replace(GOOD, payer=address_of(key), nonce=AuthorizationNonce(nonce), value=value)
    signature = sign_authorization(USDC, authorization, key)
    assert recover_signer(transfer_digest(USDC.domain_separator, authorization), signature) == authorization.payer
    header = (
        header_v1(authorization, signature, network=USDC.network)
        if version == 1
        else header_v2(authorization, signature, requirements=requirements)
    )
    verify(PaymentPayload.from_header(header, version=version), requirements, now=NOW)


@given(signature=st.binary(max_size=70) | st.binary(min_size=64, max_size=64).map(lambda rs: rs + b"\x1b"))
def test_no_other_signature_is_taken(signature: bytes) -> None:
    """Arbitrary bytes in place of the signature are a bad signature, never anything else."""
    payload = structs.replace(PaymentPayload.from_header(HEADERS[1], version=1), signature=signature)
    with pytest.raises(BadSignature):
        verify(payload, REQUIREMENTS, now=NOW)


@given(bit=st.integers(0, 65 * 8 - 1))
def test_no_bit_of_the_signature_is_free(bit: int) -> None:
    """A good signature with one bit changed is refused."""
    changed = int.from_bytes(GOOD_SIGNATURE) ^ (1 << bit)
    payload = structs.replace(PaymentPayload.from_header(HEADERS[1], version=1), signature=changed.to_bytes(65))
    with pytest.raises(InvalidPayment):
        verify(payload, REQUIREMENTS, now=NOW)
