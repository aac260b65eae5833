"""The table of refusals, as requests: what is sent, and the status, code and advice that come back."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from payfirst.api import in_time
from payfirst.units import Address, AtomicAmount, UnixTime, checksum_address, hex_text
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import HEADER_BYTES_MAX
from payfirst.x402.signing import header_v1, header_v2, sign_authorization

from .shop import MINT_PATH, NETWORK, PAY_TO, PRICE, TOKEN, USDC, Buyer, Document, Shop, requirements, until

HEADERS = {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}
OTHER = Address(b"\x33" * 20)
ZERO = "0x" + "00" * 20
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SIGNED = "invalid_exact_evm_payload_authorization"
SIGNATURE = "invalid_exact_evm_payload_signature"

Send = Callable[[Shop, Buyer], Awaitable[httpx.Response]]
Change = Callable[[Document], object]


@dataclass(frozen=True)
class Case:
    """One request and what must come back; `advice` are words of the sentence that say what to do."""

    name: str
    send: Send
    status: int
    code: str
    advice: str


def good(buyer: Buyer, version: int, quantity: int = 1, **changes: Any) -> Document:
    """The JSON of a payment that is good but for `changes` to what is signed."""
    (header,) = buyer.header(quantity, version=version, **changes).values()
    document: Document = json.loads(base64.b64decode(header))
    return document


def paying(header: str | bytes, version: int = 1, **request: Any) -> Send:
    """A request with this payment header."""

    async def send(shop: Shop, _buyer: Buyer) -> httpx.Response:
        raw = header if isinstance(header, bytes) else header.encode()
        return await shop.mint(httpx.Headers([(HEADERS[version].encode(), raw)]), **request)

    return send


def changed(version: int, change: Change, **signed: Any) -> Send:
    """A payment whose JSON was changed after it was signed."""

    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        document = good(buyer, version, **signed)
        change(document)
        header = base64.b64encode(json.dumps(document).encode())
        return await paying(header, version)(shop, buyer)

    return send


def signed(version: int = 1, *, quantity: object = 1, pays_for: int = 1, **changes: Any) -> Send:
    """A well-signed payment with `changes`."""

    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        return await shop.mint(buyer.header(pays_for, version=version, **changes), quantity=quantity)

    return send


def timed(version: int, **offsets: int) -> Send:
    """A well-signed payment whose times are so many seconds from now."""

    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        times = {name: UnixTime(int(time.time()) + offset) for name, offset in offsets.items()}
        return await signed(version, **times)(shop, buyer)

    return send


def with_signature(version: int, make: Callable[[bytes], bytes]) -> Send:
    """A good payment whose 65 bytes were replaced."""

    def change(document: Document) -> None:
        signature = bytes.fromhex(document["payload"]["signature"][2:])
        document["payload"]["signature"] = hex_text(make(signature))

    return changed(version, change)


def under_domain(version: int, domain: dict[str, Any]) -> Send:
    """A payment that was signed under another EIP-712 domain."""

    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        authorization = buyer.authorize()
        other: Asset = dataclasses.replace(USDC, **domain)
        signature = sign_authorization(other, authorization, buyer.key)
        header = (
            header_v1(authorization, signature, network=NETWORK)
            if version == 1
            else header_v2(authorization, signature, requirements=requirements(1))
        )
        return await paying(header, version)(shop, buyer)

    return send


def high_s(signature: bytes) -> bytes:
    """The same signature in the form that EIP-2 refuses."""
    s = CURVE_ORDER - int.from_bytes(signature[32:64])
    return signature[:32] + s.to_bytes(32) + bytes([55 - signature[64]])


def posting(body: bytes | str, path: str = MINT_PATH) -> Send:
    """A request without a payment."""

    async def send(shop: Shop, _buyer: Buyer) -> httpx.Response:
        return await shop.client.post(path, content=body)

    return send


def both_ways(case: Callable[[int], Case]) -> list[Case]:
    """A case in version 1 and in version 2."""
    return [dataclasses.replace(case(version), name=f"{case(version).name}, v{version}") for version in (1, 2)]


def asking(method: str, path: str) -> Send:
    """A request without a body."""

    async def send(shop: Shop, _buyer: Buyer) -> httpx.Response:
        return await shop.client.request(method, path)

    return send


def put(*names: str, value: object) -> Change:
    """Replace a member of the payment's JSON."""

    def change(document: Document) -> None:
        for name in names[:-1]:
            document = document[name]
        document[names[-1]] = value

    return change


def drop(*names: str) -> Change:
    """Remove a member of the payment's JSON."""

    def change(document: Document) -> None:
        for name in names[:-1]:
            document = document[name]
        del document[names[-1]]

    return change


AUTHORIZATION = ("payload", "authorization")
ODD_NUMBERS = ("", " 1", "+1", "1_0", "1e4", "00", "\u0661", "\u00b2")
ODD_VERSIONS: tuple[object, ...] = (None, True, 1.5, [], "2")
FIELDS = ("from", "to", "value", "validAfter", "validBefore", "nonce")


def _structure() -> list[Case]:
    unknown = "invalid_x402_version"
    encode, is_no = "encode the JSON payload again", "Build it from the offer of the 402"
    broken: list[tuple[str, str | bytes]] = [
        ("empty", ""),
        ("no base64", "?"),
        ("base64url", "_-8="),
        ("no padding", "e30"),
        ("no JSON", base64.b64encode(b"not json")),
        ("no UTF-8", base64.b64encode(b'{"scheme":"\xff"}')),
        ("bytes above 127", b"\xff\xfe"),
        ("an empty object", base64.b64encode(b"{}")),
        ("a list", base64.b64encode(b"[]")),
        ("nested deeply", base64.b64encode(b"[" * 6_000)),
        ("garbage of the largest size", "A" * HEADER_BYTES_MAX),
    ]
    not_base64 = ("no base64", "base64url", "no padding", "bytes above 127")
    wrong: list[tuple[str, Change]] = [
        *((f"no {name}", drop(*AUTHORIZATION, name)) for name in FIELDS),
        *((f"{name} is a number", put(*AUTHORIZATION, name, value=1)) for name in FIELDS),
        *((f"{name} is null", put(*AUTHORIZATION, name, value=None)) for name in FIELDS),
        ("no signature", drop("payload", "signature")),
        ("no payload", drop("payload")),
        ("an odd signature", put("payload", "signature", value="0x123")),
        ("a signature without 0x", put("payload", "signature", value="12" * 65)),
        ("a short payer", put(*AUTHORIZATION, "from", value="0x12")),
        ("a short nonce", put(*AUTHORIZATION, "nonce", value="0x" + "11" * 31)),
        ("a hex value", put(*AUTHORIZATION, "value", value="0x10")),
        ("a negative value", put(*AUTHORIZATION, "value", value="-1")),
        ("a fractional value", put(*AUTHORIZATION, "value", value="1.0")),
        ("a value with a zero in front", put(*AUTHORIZATION, "value", value="010000")),
        ("a value above uint256", put(*AUTHORIZATION, "value", value=str(2**256))),
        ("a time above int64", put(*AUTHORIZATION, "validBefore", value=str(2**63))),
        *((f"digits such as {text!r}", put(*AUTHORIZATION, "value", value=text)) for text in ODD_NUMBERS),
        ("other digits in a nonce", put(*AUTHORIZATION, "nonce", value="0x" + "\u0661" * 64)),
        ("a long nonce", put(*AUTHORIZATION, "nonce", value="0x" + "11" * 33)),
        ("no version", drop("x402Version")),
        *((f"version {version!r}", put("x402Version", value=version)) for version in ODD_VERSIONS),
    ]
    wrong_accepted: list[tuple[str, Change]] = [
        *(
            (f"no accepted {name}", drop("accepted", name))
            for name in ("scheme", "network", "amount", "asset", "payTo")
        ),
        *((f"accepted {name} is null", put("accepted", name, value=None)) for name in ("scheme", "amount", "asset")),
        ("accepted payTo is no address", put("accepted", "payTo", value="0x12")),
        ("accepted amount is a fraction", put("accepted", "amount", value="1.5")),
        ("accepted extra is a list", put("accepted", "extra", value=[])),
        ("accepted domain name is a number", put("accepted", "extra", "name", value=1)),
    ]
    return [
        *(
            Case(name, paying(header, version), 400, "invalid_payload", encode if name in not_base64 else is_no)
            for name, header in broken
            for version in (1, 2)
        ),
        *(
            Case(name, changed(version, change), 400, "invalid_payload", is_no)
            for name, change in wrong
            for version in (1, 2)
        ),
        *(Case(name, changed(2, change), 400, "invalid_payload", is_no) for name, change in wrong_accepted),
        *(
            Case(f"version {number}", changed(v, put("x402Version", value=number)), 400, unknown, "speaks versions 1")
            for number in (-1, 0, 3, 10**30)
            for v in (1, 2)
        ),
        Case("both in one line, as a proxy joins them", _joined, 400, "invalid_payload", encode),
        Case("no accepted", changed(2, drop("accepted")), 400, "invalid_payload", "`accepted`"),
        Case("another version's payload", _crossed(1, 2), 400, "invalid_x402_version", "send it as X-PAYMENT"),
        Case("another version's, back", _crossed(2, 1), 400, "invalid_x402_version", "send it as PAYMENT-SIGNATURE"),
        Case("too large", paying("A" * (HEADER_BYTES_MAX + 1)), 431, "header_too_large", "Send only the payload"),
        Case("too large", paying("A" * (HEADER_BYTES_MAX + 1), 2), 431, "header_too_large", "Send only the payload"),
        Case("both generations", _twice(1, 2), 400, "invalid_payload", "Send one payment header"),
        Case("one header twice", _twice(1, 1), 400, "invalid_payload", "Send one payment header"),
        Case("the other header twice", _twice(2, 2), 400, "invalid_payload", "Send one payment header"),
    ]


async def _joined(shop: Shop, buyer: Buyer) -> httpx.Response:
    (one,), (other,) = buyer.header().values(), buyer.header().values()
    return await paying(f"{one}, {other}")(shop, buyer)


def _crossed(made: int, sent: int) -> Send:
    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        (header,) = buyer.header(version=made).values()
        return await paying(header, sent)(shop, buyer)

    return send


def _twice(*versions: int) -> Send:
    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        headers = [item for version in versions for item in buyer.header(version=version).items()]
        return await shop.mint(httpx.Headers(headers))

    return send


def _terms() -> list[Case]:
    mismatch, recipient = "invalid_payment_requirements", "invalid_exact_evm_payload_recipient_mismatch"
    again = "fetch the offer again"
    return [
        Case("scheme in capitals", changed(1, put("scheme", value="EXACT")), 402, "unsupported_scheme", "takes the"),
        Case("no network", changed(1, put("network", value="")), 402, "invalid_network", "Pay on base-sepolia"),
        Case("network in capitals", changed(1, put("network", value="BASE-SEPOLIA")), 402, "invalid_network", "Pay on"),
        Case("scheme, v1", changed(1, put("scheme", value="upto")), 402, "unsupported_scheme", "takes the scheme"),
        Case("scheme, v2", changed(2, put("accepted", "scheme", value="upto")), 402, "unsupported_scheme", "takes"),
        Case("network, v1", changed(1, put("network", value="base")), 402, "invalid_network", "Pay on base-sepolia"),
        Case("CAIP-2 in v1", changed(1, put("network", value="eip155:84532")), 402, "invalid_network", "Pay on base-"),
        Case("network, v2", changed(2, put("accepted", "network", value="eip155:8453")), 402, "invalid_network", "Pay"),
        Case("name in v2", changed(2, put("accepted", "network", value="base-sepolia")), 402, "invalid_network", "Pay"),
        Case("asset", changed(2, put("accepted", "asset", value=ZERO)), 402, mismatch, again),
        Case("accepted payTo", changed(2, put("accepted", "payTo", value=ZERO)), 402, mismatch, again),
        Case("accepted amount", changed(2, put("accepted", "amount", value="1")), 402, mismatch, again),
        Case("domain name", changed(2, put("accepted", "extra", "name", value="USD Coin")), 402, mismatch, again),
        Case("domain version", changed(2, put("accepted", "extra", "version", value="1")), 402, mismatch, again),
        Case("flow", changed(2, put("accepted", "extra", "paymentFlow", value="escrow")), 402, mismatch, again),
        Case("paid for two, asks one, v2", signed(2, pays_for=2), 402, mismatch, again),
        *both_ways(lambda v: Case("payTo", signed(v, pay_to=OTHER), 402, recipient, "Sign an authorization to")),
        *both_ways(lambda v: Case("the payer itself", _to_itself(v), 402, recipient, "Sign an authorization to")),
        *(
            dataclasses.replace(
                Case(f"pays {value}", signed(v, value=AtomicAmount(value)), 402, f"{SIGNED}_value_mismatch", "exactly")
            )
            for value in (0, 1, PRICE - 1, PRICE + 1, 2**256 - 1)
            for v in (1, 2)
        ),
        Case("paid for one, asks two", signed(quantity=2), 402, f"{SIGNED}_value_mismatch", "exactly 20000"),
        Case("paid for two, asks one", signed(pays_for=2), 402, f"{SIGNED}_value_mismatch", "exactly 10000"),
        *both_ways(lambda v: Case("soon", timed(v, valid_after=30), 402, f"{SIGNED}_valid_after", "valid already")),
        *both_ways(lambda v: Case("59 s", timed(v, valid_before=59), 402, f"{SIGNED}_valid_before", "sign a new")),
        *both_ways(lambda v: Case("over", timed(v, valid_before=-1), 402, f"{SIGNED}_valid_before", "sign a new")),
        *both_ways(
            lambda v: Case("1970", signed(v, valid_before=UnixTime(0)), 402, f"{SIGNED}_valid_before", "sign a new")
        ),
    ]


def _to_itself(version: int) -> Send:
    async def send(shop: Shop, buyer: Buyer) -> httpx.Response:
        return await signed(version, pay_to=buyer.address)(shop, buyer)

    return send


def _with_v(v: int, signature: bytes) -> bytes:
    return signature[:64] + bytes([v])


def _signatures() -> list[Case]:
    again = "Sign the authorization again"
    forms: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("no byte", lambda s: b""),
        ("64 bytes", lambda s: s[:64]),
        ("66 bytes", lambda s: s + b"\x00"),
        ("a smart wallet's", lambda s: s * 10),
        ("v is 0", lambda s: s[:64] + b"\x00"),
        ("v is 1", lambda s: s[:64] + b"\x01"),
        *((f"v is {v}", functools.partial(_with_v, v)) for v in (2, 26, 29, 37, 255)),
        ("nothing but zeros", lambda s: bytes(65)),
        ("nothing but ones", lambda s: b"\xff" * 65),
        ("s is the order", lambda s: s[:32] + CURVE_ORDER.to_bytes(32) + s[64:]),
        ("high s", high_s),
        ("r is zero", lambda s: bytes(32) + s[32:]),
        ("s is zero", lambda s: s[:32] + bytes(32) + s[64:]),
        ("r is the order", lambda s: CURVE_ORDER.to_bytes(32) + s[32:]),
        ("r of no point", lambda s: (5).to_bytes(32) + s[32:]),
    ]
    domains: list[dict[str, Any]] = [
        {"name": "USD Coin"},
        {"version": "1"},
        {"network": network_from_text("base")},
        {"address": OTHER},
    ]
    return [
        *(Case(name, with_signature(v, make), 402, SIGNATURE, again) for name, make in forms for v in (1, 2)),
        *(
            Case(f"domain {domain}", under_domain(v, domain), 402, SIGNATURE, "sign with that account")
            for domain in domains
            for v in (1, 2)
        ),
        *both_ways(lambda v: Case("another signer", signed(v, payer=OTHER), 402, SIGNATURE, "sign with that account")),
        *both_ways(
            lambda v: Case("the zero address", signed(v, payer=Address(bytes(20))), 402, SIGNATURE, "your own address")
        ),
    ]


def _bodies() -> list[Case]:
    such, whole = 'JSON such as {"quantity": 1}', "must be a whole number from 1 to 250"
    bodies: list[tuple[bytes | str, str]] = [
        (b"", such),
        (b"{", such),
        (b"[]", such),
        (b"null", such),
        (b"1", such),
        (b"{}", such),
        (b"\xff\xfe", such),
        (b"\xef\xbb\xbf{}", such),
        (b"[" * 4_000, such),
        (b'{"quantity":' + b"[" * 4_000, such),
        (b"quantity=1", such),
        ('{"quantity": null}', such),
        ('{"quantity": "1"}', such),
        ('{"quantity": 1.5}', such),
        ('{"quantity": true}', such),
        ('{"quantity": NaN}', such),
        ('{"quantity": 0}', whole),
        ('{"quantity": -1}', whole),
        ('{"quantity": 251}', whole),
        ('{"quantity": 9223372036854775808}', whole),
        ('{"quantity": 99999999999999999999999999}', whole),
        ('{"quantity": 1e400}', such),
        ('{"quantity": 11}', "ask for fewer"),
        ('{"quantity": 250}', "ask for fewer"),
        ('{"quantity": 1, "recipient": 5}', such),
        ('{"quantity": 1, "recipient": ""}', "expected 0x and 40 hex digits"),
        ('{"quantity": 1, "recipient": "0x12"}', "expected 0x and 40 hex digits"),
        ('{"quantity": 1, "recipient": "vitalik.eth"}', "expected 0x and 40 hex digits"),
        (json.dumps({"quantity": 1, "recipient": ZERO}), "leave it out"),
        (json.dumps({"quantity": 1, "recipient": checksum_address(TOKEN)}), "leave it out"),
        (json.dumps({"quantity": 1, "recipient": hex_text(TOKEN).upper()}), "leave it out"),
        (b'{"quantity": 1, "recipient": "\xff"}', such),
    ]
    in_body = "send it in the header X-PAYMENT or PAYMENT-SIGNATURE"
    return [
        *(Case(repr(body[:40]), posting(body), 400, "invalid_request", advice) for body, advice in bodies),
        Case("no payment", posting('{"quantity": 1}'), 402, "payment_required", "Sign one of the offers in accepts"),
        *(
            Case(
                f"{name} in the body", posting(json.dumps({"quantity": 1, name: {}})), 402, "payment_required", in_body
            )
            for name in ("authorization", "payment", "payload", "signature")
        ),
        Case("too large", posting(b'{"quantity": 1}'.ljust(4_097)), 413, "body_too_large", "send quantity and"),
        Case("too slow", _slowly, 408, "body_too_slow", "Send the request again"),
        Case("endless", _endlessly, 413, "body_too_large", "send quantity and recipient only"),
    ]


async def _slowly(shop: Shop, _buyer: Buyer) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"quantity"'
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_time, "REQUEST_TIMEOUT_S", 0.01)
        return await shop.client.post(MINT_PATH, content=body())


async def _endlessly(shop: Shop, _buyer: Buyer) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1_000

    return await shop.client.post(MINT_PATH, content=body())


def _paths() -> list[Case]:
    lists, token = "GET /api/tokens lists", checksum_address(TOKEN)
    ends = ["", "0x", "nothing", "0x" + "11" * 19, "0x" + "zz" * 20, f"{token}/", f"{token}/x", token[2:], "%00"]
    unknown = ["/", "/api", "/api/", "/api/mint", "/API/tokens", "/api/tokens/", "/api//tokens", "/%00", "/api/x?y=z"]
    ids = ["1", "stats%00", "g" * 36, "0" * 36, "{00000000-0000-0000-0000-000000000000}", "a" * 5_000]
    nobody = "00000000-0000-7000-8000-000000000000"
    reads = ["/api/tokens", f"/api/tokens/{token}", "/api/payment/stats", f"/api/payment/{nobody}", "/health", "/ready"]
    reads.append("/api/payment")
    return [
        *(
            Case(f"mint {end!r}", posting('{"quantity":1}', f"/api/mint/{end}"), 404, "unknown_token", lists)
            for end in ends
        ),
        Case("a token not sold", posting('{"quantity":1}', f"/api/mint/{ZERO}"), 404, "unknown_token", lists),
        Case("a token not sold, paid", _pays_for_another_token, 404, "unknown_token", lists),
        Case("a token not sold, read", asking("GET", f"/api/tokens/{ZERO}"), 404, "unknown_token", lists),
        Case("no token, read", asking("GET", "/api/tokens/0x12"), 404, "unknown_token", lists),
        *(Case(path, asking("GET", path), 404, "not_found", "GET /openapi.json lists") for path in unknown),
        *(
            Case(
                f"{queue} {end[:40]}",
                asking("GET", f"/api/{queue}/{end}"),
                400,
                "invalid_request",
                "UUID of 8-4-4-4-12",
            )
            for end in ids
            for queue in ("payment", "queue")
        ),
        Case(
            "no payment", asking("GET", f"/api/payment/{nobody}"), 404, "not_found", "use the paymentQueueId of a 202"
        ),
        *(
            Case(f"authorization {query}", asking("GET", f"/api/payment?{query}"), 400, "invalid_request", advice)
            for query, advice in _authorizations()
        ),
        Case(
            "no such authorization",
            asking("GET", f"/api/payment?payer={token}&nonce=0x{'11' * 32}"),
            404,
            "not_found",
            "send the same header again",
        ),
        Case("no unit", asking("GET", f"/api/queue/{nobody}"), 404, "not_found", "use one of the payment's queueIds"),
        *(
            Case(f"{method} {path}", asking(method, path), 405, "method_not_allowed", "Use GET, HEAD here")
            for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW")
            for path in reads
        ),
        *(
            Case(f"{method} mint", asking(method, MINT_PATH), 405, "method_not_allowed", "Use POST here")
            for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "BREW")
        ),
    ]


def _authorizations() -> list[tuple[str, str]]:
    """Queries that name no authorization, and what the refusal says."""
    payer, nonce = f"payer={checksum_address(TOKEN)}", f"nonce=0x{'11' * 32}"
    return [
        ("", "ask with ?payer= and &nonce="),
        (payer, "nonce is missing: ask with"),
        (nonce, "payer is missing: ask with"),
        (f"{payer}&{nonce}&{payer}", "payer is given more than once: ask with"),
        (f"{payer}&{nonce}&nonce=", "nonce is given more than once: ask with"),
        (f"payer=&{nonce}", "use authorization.from"),
        (f"payer=0x12&{nonce}", "use authorization.from"),
        (f"payer=vitalik.eth&{nonce}", "use authorization.from"),
        (f"payer=%00%ff&{nonce}", "use authorization.from"),
        (f"{payer}&nonce=", "use authorization.nonce"),
        (f"{payer}&nonce=1", "use authorization.nonce"),
        (f"{payer}&nonce=0x{'11' * 31}", "use authorization.nonce"),
        (f"{payer}&nonce={'11' * 32}", "use authorization.nonce"),
        (f"{payer}&nonce=0x{'zz' * 32}", "use authorization.nonce"),
    ]


async def _pays_for_another_token(shop: Shop, buyer: Buyer) -> httpx.Response:
    return await shop.mint(buyer.header(), path=f"/api/mint/{hex_text(PAY_TO)}")


# By subject: each group is sent to one open shop.
GROUPS: dict[str, list[Case]] = {
    "structure": _structure(),
    "terms": _terms(),
    "signatures": _signatures(),
    "bodies": _bodies(),
    "paths": _paths(),
}


async def _reused(shop: Shop, buyer: Buyer) -> httpx.Response:
    header = buyer.header()
    assert (await shop.mint(header)).status_code == 202
    return await shop.mint(header, recipient=checksum_address(OTHER))


async def _sold_out(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute("UPDATE tokens SET max_mint_count = minted + 3")
    return await _until_changed(shop, signed(pays_for=4, quantity=4), buyer)


async def _payer_at_limit(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute(_OF_PAYER, hex_text(buyer.address), hex_text(TOKEN), NETWORK.caip2)
    return await _until_changed(shop, signed(), buyer)


async def _payer_short(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute(
        "INSERT INTO short_payers (network, asset, payer, balance, height) VALUES ($1, $2, $3, 0, 100)",
        NETWORK.caip2,
        hex_text(USDC.address),
        hex_text(buyer.address),
    )
    return await _until_changed(shop, signed(), buyer)


async def _payer_quarantined(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute(
        "INSERT INTO quarantined_payers (network, payer, burns, until) VALUES ($1, $2, 1, now() + interval '1 hour')",
        NETWORK.caip2,
        hex_text(buyer.address),
    )
    return await _until_changed(shop, signed(), buyer)


# As many payments as one payer may have unsettled.
_OF_PAYER = """
INSERT INTO payment_queue (id, network, asset, pay_to, token_address, payer, recipient, amount, quantity,
                           authorization_nonce, valid_after, valid_before, signature, accepted_height)
SELECT gen_random_uuid(), $3, $2, $2, $2, $1, $1, 1, 1, '0x' || lpad(to_hex(n), 64, '0'), 0, 2000000000, '', 100
FROM generate_series(1, 200) n
"""


async def _paused(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute("UPDATE tokens SET status = 'paused'")
    return await _until_changed(shop, signed(), buyer)


async def _not_ready(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute("DELETE FROM processes WHERE role = 'worker'")
    return await _until_changed(shop, asking("GET", "/ready"), buyer)


async def _broken(shop: Shop, buyer: Buyer) -> httpx.Response:
    await shop.pool.execute("ALTER TABLE authorizations RENAME TO authorizations_away")
    return await shop.mint(buyer.header())


async def _until_changed(shop: Shop, send: Send, buyer: Buyer) -> httpx.Response:
    """The first refusal: the process looks at the database four times a second."""
    answer = httpx.Response(0)

    async def is_refused() -> bool:
        nonlocal answer
        answer = await send(shop, buyer)
        return answer.status_code not in (200, 202)

    await until(is_refused)
    return answer


# Each changes the shop, so each has one of its own.
ALONE: list[Case] = [
    Case("authorization reused", _reused, 409, "authorization_reused", "Sign a new one for this request"),
    Case("sold out", _sold_out, 409, "sold_out", "ask for fewer"),
    Case("payer at its limit", _payer_at_limit, 429, "too_many_payments", "Send the same request again in 5 s"),
    Case("payer short of money", _payer_short, 429, "payer_short_of_funds", "fund it first"),
    Case("payer quarantined", _payer_quarantined, 429, "payer_quarantined", "Pay from another account"),
    Case("paused", _paused, 503, "not_now", "Send the same request again in"),
    Case("not ready", _not_ready, 503, "not_ready", "Ask again later"),
    Case("broken", _broken, 500, "internal_error", "send the same header again"),
]
# Sent by a test of its own, which cuts the database off.
CUT = Case("cut off", signed(), 503, "outcome_unknown", "Send this same header again, do not sign a new one")
