"""What nodes write on the wire, and what it is here: hex text to numbers and bytes. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from payfirst.chain.blocks import Block, Head, Log, Receipt
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


class WireReceipt(msgspec.Struct, rename="camel"):
    """A receipt with its logs."""

    transaction_hash: str
    block_hash: str
    block_number: str
    status: str
    gas_used: str
    effective_gas_price: str
    logs: list[WireLog]


# Any, because a union is no type[T]; the variables that take the answers state the type.
MAYBE_HEAD: Any = WireHead | None
MAYBE_BLOCK: Any = WireBlock | None
MAYBE_RECEIPT: Any = WireReceipt | None


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
        logs=tuple(
            Log(
                address=Address(bytes_of(log.address)),
                topics=tuple(bytes_of(t) for t in log.topics),
                data=bytes_of(log.data),
                index=number_of(log.log_index),
            )
            for log in wire.logs
        ),
    )
