"""The contracts payfirst talks to: calldata by hand where it is hot, and what their answers say.

What is encoded by hand is compared with eth-abi in the tests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# The aliases say that these are offered here too: one import for whoever talks to a contract.
from payfirst.chain.abi import Artifact as Artifact
from payfirst.chain.abi import UndecodableAnswer as UndecodableAnswer
from payfirst.chain.abi import argument_types, selector
from payfirst.chain.abi import artifact as artifact
from payfirst.chain.abi import decode_result as decode_result
from payfirst.chain.abi import encode_call as encode_call
from payfirst.chain.abi import encode_constructor as encode_constructor
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, MintId, UnixTime, keccak

# The same address on every public chain that has it; the local chain sets the code there.
MULTICALL3: Final = Address(bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11"))

TRANSFER_TOPIC: Final = keccak(b"Transfer(address,address,uint256)")
AUTHORIZATION_USED_TOPIC: Final = keccak(b"AuthorizationUsed(address,bytes32)")
AUTHORIZATION_CANCELED_TOPIC: Final = keccak(b"AuthorizationCanceled(address,bytes32)")
TOKENS_MINTED_TOPIC: Final = keccak(b"TokensMinted(address,uint256,bytes32)")

PREFLIGHT_ITEMS_MAX: Final = 250
# What one pre-flight's items may come to, beside its code: EIP-3860 allows 49,152 bytes of creation code.
PREFLIGHT_BYTES_MAX: Final = 40_000
# An item without its signature.
PREFLIGHT_ITEM_BYTES: Final = 86
# Code of the payer's decides what its transfer costs: it gets no more than this, unless the seller says otherwise.
CODE_PAYER_GAS: Final = 1_000_000
# r, s and v: what a key signs with. All else is a smart wallet's.
KEY_SIGNATURE_BYTES: Final = 65

_WORD: Final = 32
_PAD: Final = bytes(12)  # before an address in a word
_TRUE: Final = (1).to_bytes(_WORD)
_FALSE: Final = bytes(_WORD)


# ---- settling: EIP-3009 through Multicall3 -----------------------------------------------------------

_TRANSFER_WITH_AUTHORIZATION = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
_TRANSFER_WITH_BYTES = selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
_AGGREGATE3 = selector("aggregate3((address,bool,bytes)[])")
_TRY_AGGREGATE = selector("tryAggregate(bool,(address,bytes)[])")


def encode_transfer_with_authorization(
    *,
    payer: Address,
    pay_to: Address,
    value: AtomicAmount,
    valid_after: UnixTime,
    valid_before: UnixTime,
    nonce: AuthorizationNonce,
    signature: bytes,
) -> bytes:
    """Calldata of EIP-3009's transfer. A `signature` of 65 bytes is r, s, v: 292 bytes.

    Any other is a smart wallet's, for FiatTokenV2.2's transfer that takes its bytes as they are (EIP-1271).
    """
    if len(signature) != KEY_SIGNATURE_BYTES:
        return b"".join(
            (
                _TRANSFER_WITH_BYTES,
                _PAD,
                payer,
                _PAD,
                pay_to,
                value.to_bytes(_WORD),
                valid_after.to_bytes(_WORD),
                valid_before.to_bytes(_WORD),
                nonce,
                (7 * _WORD).to_bytes(_WORD),
                len(signature).to_bytes(_WORD),
                signature,
                bytes(-len(signature) % _WORD),
            )
        )
    return b"".join(
        (
            _TRANSFER_WITH_AUTHORIZATION,
            _PAD,
            payer,
            _PAD,
            pay_to,
            value.to_bytes(_WORD),
            valid_after.to_bytes(_WORD),
            valid_before.to_bytes(_WORD),
            nonce,
            signature[64].to_bytes(_WORD),
            signature[:64],
        )
    )


def encode_try_aggregate(calls: Sequence[tuple[Address, bytes]]) -> bytes:
    """Calldata of Multicall3's tryAggregate: (target, calldata) each, in order.

    A call that reverts leaves the others alone. For what is sent: without aggregate3's flag for each call, one costs
    160 gas less. Both return the same.
    """
    return b"".join((_TRY_AGGREGATE, _FALSE, _SECOND_ARGUMENT, *_call_array(calls, _BYTES_IN_PAIR)))


def encode_aggregate3(calls: Sequence[tuple[Address, bytes]], *, allow_failure: bool = True) -> bytes:
    """Calldata of Multicall3's aggregate3: (target, calldata) each, in order.

    With `allow_failure` a call that reverts leaves the others alone; without, it reverts all.
    """
    flag = _TRUE if allow_failure else _FALSE
    return b"".join((_AGGREGATE3, _ONE_ARGUMENT, *_call_array(calls, flag + _BYTES_IN_CALL)))


def _call_array(calls: Sequence[tuple[Address, bytes]], middle: bytes) -> list[bytes]:
    """The array in words: its length, where each call begins, and each call, with `middle` behind its target."""
    offset = _WORD * len(calls)
    offsets: list[bytes] = []
    parts: list[bytes] = []
    for target, data in calls:
        offsets.append(offset.to_bytes(_WORD))
        padded = data + bytes(-len(data) % _WORD)
        parts += (_PAD, target, middle, len(data).to_bytes(_WORD), padded)
        offset += 2 * _WORD + len(middle) + len(padded)
    return [len(calls).to_bytes(_WORD), *offsets, *parts]


_ONE_ARGUMENT = _WORD.to_bytes(_WORD)  # a dynamic argument begins right after its own offset
_SECOND_ARGUMENT = (2 * _WORD).to_bytes(_WORD)
_BYTES_IN_PAIR = (2 * _WORD).to_bytes(_WORD)  # in (target, bytes) they begin after two
_BYTES_IN_CALL = (3 * _WORD).to_bytes(_WORD)  # in (target, flag, bytes) the bytes begin after three words


def decode_aggregate3(data: bytes) -> list[tuple[bool, bytes]]:
    """Success and returned bytes of each call, in order; of tryAggregate too. Raises UndecodableAnswer."""
    start = _uint(data, 0) + _WORD
    count = _uint(data, start - _WORD)
    if count > len(data) // _WORD:
        raise UndecodableAnswer(f"aggregate3 promises {count} results in {len(data)} bytes")
    results: list[tuple[bool, bytes]] = []
    for i in range(count):
        at = start + _uint(data, start + i * _WORD)
        ok = _uint(data, at)
        inner = at + _uint(data, at + _WORD)
        length = _uint(data, inner)
        returned = data[inner + _WORD : inner + _WORD + length]
        if ok > 1 or len(returned) != length:
            raise UndecodableAnswer(f"result {i} of aggregate3 is cut off or no result")
        results.append((ok == 1, returned))
    return results


def _uint(data: bytes, at: int) -> int:
    word = data[at : at + _WORD]
    if len(word) != _WORD:
        raise UndecodableAnswer(f"a word is missing at byte {at} of {len(data)}")
    return int.from_bytes(word)


# ---- minting -----------------------------------------------------------------------------------------

_MINT = selector("mint(address,bytes32)")
_BATCH_MINT = selector("batchMint(address[],bytes32[])")
_HAS_MINTED = selector("hasMinted(bytes32)")


def encode_mint(recipient: Address, mint_id: MintId) -> bytes:
    """Calldata of the token's mint: one unit, which reverts when the id is used."""
    return b"".join((_MINT, _PAD, recipient, mint_id))


def encode_batch_mint(recipients: Sequence[Address], mint_ids: Sequence[MintId]) -> bytes:
    """Calldata of the token's batchMint: one unit for each pair, in order."""
    if len(recipients) != len(mint_ids):
        raise ValueError(f"{len(recipients)} recipients for {len(mint_ids)} mint ids")
    count = len(recipients).to_bytes(_WORD)
    ids_at = (2 + 1 + len(recipients)) * _WORD
    padded = (part for recipient in recipients for part in (_PAD, recipient))
    return b"".join(
        (_BATCH_MINT, (2 * _WORD).to_bytes(_WORD), ids_at.to_bytes(_WORD), count, *padded, count, *mint_ids)
    )


def encode_has_minted(mint_id: MintId) -> bytes:
    """Calldata of the token's hasMinted; the answer is a bool."""
    return _HAS_MINTED + mint_id


# ---- pre-flight --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightRequest:
    """One authorization to be tried; a `signature` of 65 bytes is r, s, v, any other a smart wallet's."""

    payer: Address
    value: AtomicAmount
    valid_after: UnixTime
    valid_before: UnixTime
    nonce: AuthorizationNonce
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightItem:
    """What became of one authorization when it was tried after those before it.

    `code_size` of the payer in bytes, its `balance` and whether the authorization was `used` are from before this item
    was tried, after the earlier ones. `gas_used` counts the call itself, its storage as if not looked at before.
    """

    code_size: int
    balance: AtomicAmount
    used: bool
    ok: bool
    gas_used: int
    revert_data: bytes  # the first 132 bytes; empty too when more than 120 different ones were seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The answer of one pre-flight: the block whose state it saw, and an item for each request."""

    block_number: BlockNumber
    block_time: UnixTime
    items: tuple[PreflightItem, ...]


_VALUE_MAX = 2**128 - 1
_TIME_MAX = 2**64 - 1
_HEADER_BYTES = 19
_RESULT_BYTES = 26


def encode_preflight(
    asset: Address, pay_to: Address, items: Sequence[PreflightRequest], *, code_payer_gas: int = CODE_PAYER_GAS
) -> bytes:
    """The data of an eth_call without `to` that tries `items` in order: see contracts/Preflight.sol.

    A value above 2**128 - 1 or a time above 2**64 - 1 is sent as that: no payer has as much, and no clock as many.
    `code_payer_gas` is what a transfer gets whose payer has code.
    Raises ValueError for more than 250 items or PREFLIGHT_BYTES_MAX, which would not fit EIP-3860's limit.
    """
    if len(items) > PREFLIGHT_ITEMS_MAX:
        raise ValueError(f"{len(items)} items: one pre-flight takes {PREFLIGHT_ITEMS_MAX}")
    packed = b"".join(
        part
        for item in items
        for part in (
            item.payer,
            min(item.value, _VALUE_MAX).to_bytes(16),
            min(item.valid_after, _TIME_MAX).to_bytes(8),
            min(item.valid_before, _TIME_MAX).to_bytes(8),
            item.nonce,
            len(item.signature).to_bytes(2),
            item.signature,
        )
    )
    if len(packed) > PREFLIGHT_BYTES_MAX:
        raise ValueError(f"{len(packed)} bytes of items: one pre-flight takes {PREFLIGHT_BYTES_MAX}")
    head = (
        _PAD,
        asset,
        _PAD,
        pay_to,
        code_payer_gas.to_bytes(_WORD),
        len(items).to_bytes(_WORD),
        (5 * _WORD).to_bytes(_WORD),
        len(packed).to_bytes(_WORD),
    )
    return b"".join((artifact("Preflight").bytecode, *head, packed, bytes(-len(packed) % _WORD)))


def decode_preflight(data: bytes) -> Preflight:
    """The answer to `encode_preflight`'s call. Raises UndecodableAnswer."""
    count, reason_count = int.from_bytes(data[16:18]), int.from_bytes(data[18:19])
    at = _HEADER_BYTES + count * _RESULT_BYTES
    if len(data) < at or len(data) < _HEADER_BYTES:
        raise UndecodableAnswer(f"the pre-flight's answer of {len(data)} bytes is cut off")
    reasons: list[bytes] = []
    for _ in range(reason_count):
        end = at + 1 + int.from_bytes(data[at : at + 1])
        reasons.append(data[at + 1 : end])
        at = end
    if at != len(data):
        raise UndecodableAnswer(f"the pre-flight's answer ends at byte {len(data)} instead of {at}")
    return Preflight(
        block_number=BlockNumber(int.from_bytes(data[:8])),
        block_time=UnixTime(int.from_bytes(data[8:16])),
        items=tuple(
            _preflight_item(data[place : place + _RESULT_BYTES], reasons)
            for place in range(_HEADER_BYTES, _HEADER_BYTES + count * _RESULT_BYTES, _RESULT_BYTES)
        ),
    )


def _preflight_item(packed: bytes, reasons: Sequence[bytes]) -> PreflightItem:
    flags, reason = packed[0], packed[1]
    return PreflightItem(
        code_size=int.from_bytes(packed[2:6]),
        balance=AtomicAmount(int.from_bytes(packed[6:22])),
        used=flags & 1 != 0,
        ok=flags & 2 != 0,
        gas_used=int.from_bytes(packed[22:26]),
        revert_data=reasons[reason - 1] if 0 < reason <= len(reasons) else b"",
    )


# ---- why a call reverted -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RevertReason:
    """Why a call reverted: the error's name (`Error` for a string, empty when unknown) and its text.

    str() is what a person reads: the string itself, or `Name(argument, argument)`.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return self.text if self.name in ("", "Error", "Panic") else f"{self.name}({self.text})"


_ERROR_STRING = selector("Error(string)")
_PANIC = selector("Panic(uint256)")
_OTHER_ERRORS = (
    "EnforcedPause()",
    "ERC20InsufficientBalance(address,uint256,uint256)",
    "AccessControlUnauthorizedAccount(address,bytes32)",
)
_PANICS = {
    0x01: "an assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x32: "an index is out of bounds",
    0x41: "too much memory is asked for",
}
_REASON_CHARS_MAX = 200


def revert_reason(data: bytes) -> RevertReason:
    """What revert data says. Never raises; data that was cut off gives what is left of it."""
    if len(data) < 4:
        return RevertReason("", "no reason given")
    arguments = data[4:]
    if data[:4] == _ERROR_STRING:
        length = int.from_bytes(arguments[_WORD : 2 * _WORD])
        text = arguments[2 * _WORD : 2 * _WORD + min(length, _REASON_CHARS_MAX)]
        return RevertReason("Error", _printable(text.decode("utf-8", "replace")))
    if data[:4] == _PANIC:
        code = int.from_bytes(arguments[:_WORD])
        return RevertReason("Panic", f"panic {code:#x}: {_PANICS.get(code, 'an internal fault')}")
    known = _known_errors().get(data[:4])
    if known is None:
        return RevertReason("", f"unknown error 0x{data[:4].hex()}")
    name, types = known
    try:
        return RevertReason(
            name, _printable(", ".join(_argument_text(value) for value in decode_result(types, arguments)))
        )
    except UndecodableAnswer:
        return RevertReason(name, "…")


@functools.cache
def _known_errors() -> Mapping[bytes, tuple[str, list[str]]]:
    signatures = {
        entry.signature
        for name in ("MintToken", "DevStablecoin", "Preflight")
        for entry in artifact(name).abi
        if entry.kind == "error"
    }
    return {
        selector(signature): (signature.partition("(")[0], argument_types(signature))
        for signature in signatures.union(_OTHER_ERRORS)
    }


def _argument_text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _printable(text: str) -> str:
    # A contract chooses these letters; they end up in logs and answers.
    return "".join(letter if letter.isprintable() else "·" for letter in text[:_REASON_CHARS_MAX])
