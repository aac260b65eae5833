"""Reading payment headers: what is taken, and what each refusal says."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from payfirst.errors import PayerError
from payfirst.units import UINT256_MAX
from payfirst.x402.payload import HEADER_BYTES_MAX, MalformedPayment, PaymentPayload, WrongVersion

from .samples import AUTHORIZATION, HEADER_V1, HEADER_V2, SIGNATURE, Document, changed, document, encode

Version = Literal[1, 2]
VERSIONS: list[Version] = [1, 2]


def authorization_of(content: Document) -> Document:
    found: Document = content["payload"]["authorization"]
    return found


def setting(name: str, value: object) -> Callable[[Document], object]:
    """A change of one authorization field."""
    return lambda content: authorization_of(content).update({name: value})


@pytest.fixture
def recursion_limit() -> Iterator[Callable[[int], None]]:
    """Sets the interpreter's recursion limit for one test: eth-account raises it when it is imported."""
    before = sys.getrecursionlimit()
    yield sys.setrecursionlimit
    sys.setrecursionlimit(before)


def refusal(header: str | bytes, version: Version) -> MalformedPayment:
    with pytest.raises(MalformedPayment) as caught:
        PaymentPayload.from_header(header, version=version)
    return caught.value


@pytest.mark.parametrize("header", [HEADER_V1, HEADER_V1.encode()], ids=["text", "bytes"])
def test_a_good_v1_header_is_read(header: str | bytes) -> None:
    """An X-PAYMENT header gives the typed payment, from text and from bytes."""
    payload = PaymentPayload.from_header(header, version=1)
    assert (payload.x402_version, payload.scheme, payload.network) == (1, "exact", "base-sepolia")
    assert (payload.authorization, payload.signature, payload.accepted) == (AUTHORIZATION, SIGNATURE, None)


def test_a_good_v2_header_is_read() -> None:
    """A PAYMENT-SIGNATURE header gives scheme and network from what was accepted."""
    payload = PaymentPayload.from_header(HEADER_V2, version=2)
    assert (payload.x402_version, payload.scheme, payload.network) == (2, "exact", "eip155:84532")
    assert (payload.authorization, payload.signature) == (AUTHORIZATION, SIGNATURE)
    assert payload.accepted is not None
    assert (payload.accepted.domain_name, payload.accepted.domain_version) == ("USDC", "2")


def test_the_signature_is_not_in_the_repr() -> None:
    """A payload that is logged by accident does not show its signature."""
    shown = repr(PaymentPayload.from_header(HEADER_V1, version=1))
    assert SIGNATURE.hex() not in shown
    assert repr(SIGNATURE) not in shown


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_fields_are_ignored(version: Version) -> None:
    """Fields of tomorrow's protocol do not hinder today's payment."""
    plain = PaymentPayload.from_header(encode(document(version)), version=version)

    def add(content: Document) -> None:
        content["extensions"] = {"payment-identifier": {"info": {"required": False}}}
        content["resource"] = None
        content["payload"]["later"] = [1, 2.5, None]
        authorization_of(content)["later"] = {}

    assert PaymentPayload.from_header(changed(version, add), version=version) == plain


@pytest.mark.parametrize("extra", [None, {}, {"name": None}, {"later": 1}], ids=repr)
def test_v2_extra_may_be_short_or_missing(extra: object) -> None:
    """A client that does not repeat the domain has said nothing about it."""
    header = changed(2, lambda content: content["accepted"].update(extra=extra))
    accepted = PaymentPayload.from_header(header, version=2).accepted
    assert accepted is not None
    assert (accepted.domain_name, accepted.domain_version, accepted.payment_flow) == (None, None, None)


def test_of_a_repeated_key_the_last_counts() -> None:
    """A key given twice is no error: what counts is verified like any other value."""
    text = base64.b64decode(HEADER_V1).decode().replace('"scheme":"exact"', '"scheme":"x","scheme":"exact"')
    header = base64.b64encode(text.encode())
    assert PaymentPayload.from_header(header, version=1).scheme == "exact"


@pytest.mark.parametrize("spell", [str.lower, lambda text: "0X" + text[2:].upper()], ids=["lower", "upper"])
def test_addresses_and_hex_are_read_in_any_case(spell: Callable[[str], str]) -> None:
    """Letter case carries no meaning: the checksum is not demanded."""

    def respell(content: Document) -> None:
        for name in ("from", "to", "nonce"):
            authorization_of(content)[name] = spell(authorization_of(content)[name])
        content["payload"]["signature"] = spell(content["payload"]["signature"])

    payload = PaymentPayload.from_header(changed(1, respell), version=1)
    assert (payload.authorization, payload.signature) == (AUTHORIZATION, SIGNATURE)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "header",
    ["", "not base64!", "e30", "====", "é", HEADER_V1 + "\n", " " + HEADER_V1, HEADER_V1[:-1], b"\xff\x00"],
    ids=repr,
)
def test_what_is_not_base64_or_json_is_malformed(header: str | bytes, version: Version) -> None:
    """Garbage is refused as an invalid payload that names the header."""
    error = refusal(header, version)
    assert error.code == "invalid_payload"
    assert {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}[version] in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"1e999", b'"\\ud800"', b'{"x402Version":1}', b"\xff\xfe", b'{"\xff":1}', b"{}x"],
    ids=repr,
)
@pytest.mark.parametrize("version", VERSIONS)
def test_json_of_another_shape_is_malformed(content: bytes, version: Version) -> None:
    """Whatever is inside the base64, the answer is a refusal."""
    assert isinstance(refusal(base64.b64encode(content), version), PayerError)


@pytest.mark.parametrize(("limit", "reason"), [(1_000, "nested too deeply"), (100_000, "truncated")])
def test_deep_nesting_is_malformed(limit: int, reason: str, recursion_limit: Callable[[int], None]) -> None:
    """JSON nested as deeply as a header allows is refused, whatever the interpreter's own limit is."""
    recursion_limit(limit)
    deepest = b'{"x402Version":1,"later":' + b"[" * (HEADER_BYTES_MAX // 4 * 3 - 25)
    assert reason in str(refusal(base64.b64encode(deepest), 1))


def test_a_header_at_the_limit_is_read_and_one_above_is_not() -> None:
    """The header's length is limited before anything is decoded."""
    room = (HEADER_BYTES_MAX // 4 * 3) - len(encode({**document(1), "pad": ""})) // 4 * 3

    def padded(size: int) -> str:
        return encode({**document(1), "pad": "x" * size})

    fits = next(size for size in range(room + 3, 0, -1) if len(padded(size)) <= HEADER_BYTES_MAX)
    assert len(padded(fits)) == HEADER_BYTES_MAX
    assert PaymentPayload.from_header(padded(fits), version=1).authorization == AUTHORIZATION
    assert str(HEADER_BYTES_MAX) in str(refusal(padded(fits + 3), 1))


@pytest.mark.parametrize(
    ("header", "version", "advice"),
    [
        (HEADER_V2, 1, "send it as PAYMENT-SIGNATURE"),
        (HEADER_V1, 2, "send it as X-PAYMENT"),
        (changed(1, lambda content: content.update(x402Version=2)), 1, "send it as PAYMENT-SIGNATURE"),
        (changed(2, lambda content: content.update(x402Version=1)), 2, "send it as X-PAYMENT"),
        (changed(2, lambda content: content.update(x402Version=3)), 2, "versions 1 and 2"),
        (encode({"x402Version": 0}), 1, "versions 1 and 2"),
    ],
    ids=["v2-as-v1", "v1-as-v2", "v1-says-2", "v2-says-1", "v2-says-3", "nothing-else"],
)
def test_a_version_that_contradicts_its_header_is_named(header: str, version: Version, advice: str) -> None:
    """The wrong version is the refusal, even where other fields are missing because of it."""
    error = refusal(header, version)
    assert isinstance(error, WrongVersion)
    assert error.code == "invalid_x402_version"
    assert advice in str(error)


@pytest.mark.parametrize("stated", [True, "1", None, 1.5, 2**70], ids=repr)
def test_a_version_that_is_no_integer_is_malformed(stated: object) -> None:
    """x402Version is an integer."""
    assert refusal(changed(1, lambda content: content.update(x402Version=stated)), 1)


@pytest.mark.parametrize("name", ["from", "to", "value", "validAfter", "validBefore", "nonce"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_authorization_field_is_needed(name: str, version: Version) -> None:
    """A missing field is named."""
    error = refusal(changed(version, lambda content: authorization_of(content).pop(name)), version)
    assert f"`{name}`" in str(error)


@pytest.mark.parametrize("name", ["scheme", "network", "asset", "payTo", "amount"])
def test_each_accepted_field_is_needed(name: str) -> None:
    """A v2 payment says what it accepted."""
    assert f"`{name}`" in str(refusal(changed(2, lambda content: content["accepted"].pop(name)), 2))


def test_a_permit2_payload_is_told_what_is_taken() -> None:
    """Another transfer method is refused with the one that is taken."""

    def permit2(content: Document) -> None:
        content["payload"] = {"signature": "0x00", "permit2Authorization": {}}

    assert "EIP-3009 authorization" in str(refusal(changed(2, permit2), 2))


@pytest.mark.parametrize("value", ["0", "10000", str(UINT256_MAX)])
def test_canonical_decimal_strings_are_read(value: str) -> None:
    """Amounts run from 0 to the largest uint256."""
    payload = PaymentPayload.from_header(changed(1, setting("value", value)), version=1)
    assert payload.authorization.value == int(value)


@pytest.mark.parametrize(
    "value",
    [10000, 1.0, None, "", "-1", "+1", "01", "1.0", "1e4", " 1", "1\n", "0x1", "١", str(UINT256_MAX + 1), "9" * 79],
    ids=repr,
)
def test_other_amounts_are_malformed(value: object) -> None:
    """Numbers, signs, leading zeros, other digits and more than a uint256 are refused."""
    assert "value" in str(refusal(changed(1, setting("value", value)), 1))


@pytest.mark.parametrize("name", ["validAfter", "validBefore"])
def test_times_end_at_int64(name: str) -> None:
    """A time is at most what a signed 64-bit integer holds; the refusal says so."""
    most = 2**63 - 1
    assert PaymentPayload.from_header(changed(1, setting(name, str(most))), version=1)
    error = refusal(changed(1, setting(name, str(most + 1))), 1)
    assert f"payload.authorization.{name}: expected at most {most}" in str(error)


@pytest.mark.parametrize("text", ["", "0x", "0x" + "g" * 40, "0x" + "1" * 39, "0x" + "1" * 41, "1" * 42], ids=repr)
@pytest.mark.parametrize("name", ["from", "to"])
def test_what_is_no_address_is_malformed(name: str, text: str) -> None:
    """An address is 0x and 40 hex digits."""
    assert f"payload.authorization.{name}" in str(refusal(changed(1, setting(name, text)), 1))


@pytest.mark.parametrize("name", ["asset", "payTo"])
def test_what_is_no_address_in_accepted_is_malformed(name: str) -> None:
    """The accepted requirement is parsed like the rest."""
    assert f"accepted.{name}" in str(refusal(changed(2, lambda content: content["accepted"].update({name: "x"})), 2))


@pytest.mark.parametrize("text", ["", "0x", "0x" + "1" * 62, "0x" + "1" * 66, "0x" + " 1" * 32], ids=repr)
def test_what_is_no_nonce_is_malformed(text: str) -> None:
    """The authorization's nonce is 32 bytes of hex."""
    assert "nonce" in str(refusal(changed(1, setting("nonce", text)), 1))


@pytest.mark.parametrize("length", [0, 1, 64, 66, 500])
def test_a_signature_of_any_length_is_well_formed(length: int) -> None:
    """How long a signature may be is for the verification to say, not for the parser."""
    header = changed(1, lambda content: content["payload"].update(signature="0x" + "ab" * length))
    assert PaymentPayload.from_header(header, version=1).signature == b"\xab" * length


@pytest.mark.parametrize("text", ["", "ab", "0xa", "0xzz", "0x a", "0x12 ", None, 5], ids=repr)
def test_a_signature_that_is_not_hex_is_malformed(text: object) -> None:
    """A signature is 0x and hex digits in pairs."""
    header = changed(1, lambda content: content["payload"].update(signature=text))
    assert "signature" in str(refusal(header, 1))
