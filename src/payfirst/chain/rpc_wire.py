"""What nodes write on the wire, and what it is here: hex text to numbers and bytes. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from payfirst.chain.blocks import Block, Head, Log, PlacedLog, Receipt
from payfirst.chain.rpc_errors import RpcUnavailable
from payfirst.units import Address, BlockHash, BlockNumber, TxHash, UnixTime, Wei


class Error(msgspec.Struct):
    """The `error` of a JSON-RPC answer."""

    code: int = 0
    message: str = ""
    data: object = None


class Answer(msgspec.Struct):
    """One JSON-RPC answer, its result still as it came."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Error | None = None


class WireHead(msgspec.Struct, rename="camel"):
    """A block header, as far as it is used."""

    number: str
    hash: str
    parent_hash: str
    timestamp: str
    base_fee_per_gas: str = "0x0"


class WireBlock(WireHead, rename="camel"):
    """A block with the hashes of its transactions."""

    transactions: list[str] = []


class WireLog(msgspec.Struct, rename="camel"):
    """One log."""

    address: str
    topics: list[str]
    data: str
    log_index: str
    transaction_hash: str


class WireLogsTransaction(msgspec.Struct, rename="camel"):
    """Of a log, where it is; the rest is skipped unread."""

    transaction_hash: str


class WireReceipt(msgspec.Struct, rename="camel"):
    """A receipt with its logs."""

    transaction_hash: str
    block_hash: str
    block_number: str
    status: str
    gas_used: str
    effective_gas_price: str
    logs: list[WireLog]


class WirePlacedLog(WireLog, rename="camel"):
    """One log with its block."""

    block_number: str
    block_hash: str


class WireTransaction(msgspec.Struct, rename="camel"):
    """A transaction, as far as its bytes are made of it. What a kind of transaction does not have stays empty."""

    hash: str
    sender: str = msgspec.field(name="from", default="0x")
    nonce: str = "0x0"
    to: str | None = None
    input: str = "0x"
    value: str = "0x0"
    gas: str = "0x0"
    kind: str = msgspec.field(name="type", default="0x0")
    chain_id: str | None = None
    gas_price: str | None = None
    max_fee_per_gas: str | None = None
    max_priority_fee_per_gas: str | None = None
    access_list: list[WireAccess] | None = None
    v: str | None = None
    y_parity: str | None = None
    r: str | None = None
    s: str | None = None
    block_number: str | None = None


class WireAccess(msgspec.Struct, rename="camel"):
    """An entry of an access list (EIP-2930)."""

    address: str
    storage_keys: list[str]


class WireFullBlock(msgspec.Struct):
    """A block with its transactions."""

    transactions: list[WireTransaction] = []


# Any, because a union is no type[T]; the variables that take the answers state the type.
MAYBE_HEAD: Any = WireHead | None
MAYBE_BLOCK: Any = WireBlock | None
MAYBE_RECEIPT: Any = WireReceipt | None
MAYBE_TRANSACTION: Any = WireTransaction | None
MAYBE_FULL_BLOCK: Any = WireFullBlock | None


def revert_data(data: Any) -> bytes:
    """Revert data of an error, empty where there is none."""
    # Nodes put it in `data` as hex, or one level down as {"data": hex} or {"result": hex}.
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return b""
    return b""


def bytes_of(text: str) -> bytes:
    """The bytes of 0x text. Raises RpcUnavailable: an answer that cannot be read is none."""
    try:
        return bytes.fromhex(text[2:])
    except ValueError as error:
        raise RpcUnavailable(f"the endpoint sent {text[:40]!r} where hex was due") from error


def number_of(text: str) -> int:
    """The number of 0x text. Raises RpcUnavailable."""
    try:
        return int(text, 16)
    except ValueError as error:
        raise RpcUnavailable(f"the endpoint sent {text[:40]!r} where a hex number was due") from error


def head_of(wire: WireHead) -> Head:
    """A header."""
    return Head(
        number=BlockNumber(number_of(wire.number)),
        hash=BlockHash(bytes_of(wire.hash)),
        parent_hash=BlockHash(bytes_of(wire.parent_hash)),
        time=UnixTime(number_of(wire.timestamp)),
        base_fee=Wei(number_of(wire.base_fee_per_gas)),
    )


def block_of(wire: WireBlock) -> Block:
    """A block."""
    return Block(head=head_of(wire), transactions=tuple(TxHash(bytes_of(h)) for h in wire.transactions))


def receipt_of(wire: WireReceipt) -> Receipt:
    """A receipt."""
    return Receipt(
        tx_hash=TxHash(bytes_of(wire.transaction_hash)),
        block_hash=BlockHash(bytes_of(wire.block_hash)),
        block_number=BlockNumber(number_of(wire.block_number)),
        succeeded=wire.status == "0x1",
        gas_used=number_of(wire.gas_used),
        gas_price=Wei(number_of(wire.effective_gas_price)),
        logs=tuple(map(log_of, wire.logs)),
    )


def log_of(wire: WireLog) -> Log:
    """A log."""
    return Log(
        address=Address(bytes_of(wire.address)),
        topics=tuple(bytes_of(t) for t in wire.topics),
        data=bytes_of(wire.data),
        index=number_of(wire.log_index),
    )


def placed_log_of(wire: WirePlacedLog) -> PlacedLog:
    """A log with its block and transaction."""
    return PlacedLog(
        log=log_of(wire),
        tx_hash=TxHash(bytes_of(wire.transaction_hash)),
        block=BlockNumber(number_of(wire.block_number)),
        block_hash=BlockHash(bytes_of(wire.block_hash)),
    )
