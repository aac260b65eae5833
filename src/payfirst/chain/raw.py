"""The bytes of transactions, put together from their fields, those of mined ones again, and taken apart. Pure.

RLP is the Ethereum yellow paper's appendix B; the envelopes are EIP-155, EIP-2930 and EIP-1559.
"""

from __future__ import annotations

from typing import TypeAlias

from payfirst.chain.blocks import MinedTransaction
from payfirst.chain.rpc_errors import RpcUnavailable
from payfirst.chain.rpc_wire import WireTransaction, bytes_of, number_of
from payfirst.units import AccountNonce, Address, BlockNumber, Gas, TxHash, Wei, keccak

Item: TypeAlias = "bytes | list[Item]"

DYNAMIC_FEE = b"\x02"  # how the bytes of an EIP-1559 transaction begin
_LEGACY, _ACCESS_LIST, _DYNAMIC_FEE = 0, 1, 2
# How a string and a list begin; up to so many bytes the length is in that byte.
_STRING, _LIST, _SHORT_MAX = 0x80, 0xC0, 55


def mined_transaction(wire: WireTransaction) -> MinedTransaction:
    """A transaction in a block. Raises RpcUnavailable when a field cannot be read."""
    if wire.block_number is None:
        raise RpcUnavailable(f"RPC: {wire.hash} is in no block yet")
    price = wire.gas_price or "0x0"
    tx_hash = TxHash(bytes_of(wire.hash))
    signed = signed_bytes(wire)
    return MinedTransaction(
        hash=tx_hash,
        sender=Address(bytes_of(wire.sender)),
        nonce=AccountNonce(number_of(wire.nonce)),
        to=None if wire.to is None else Address(bytes_of(wire.to)),
        data=bytes_of(wire.input),
        gas_limit=Gas(number_of(wire.gas)),
        max_fee=Wei(number_of(wire.max_fee_per_gas or price)),
        max_priority_fee=Wei(number_of(wire.max_priority_fee_per_gas or price)),
        block=BlockNumber(number_of(wire.block_number)),
        # Bytes that do not have its hash are not its bytes.
        signed=signed if keccak(signed) == tx_hash else b"",
    )


def signed_bytes(wire: WireTransaction) -> bytes:
    """What was broadcast; empty for a kind of transaction that is not known here."""
    kind = number_of(wire.kind)
    call = [_number(wire.gas), bytes_of(wire.to or "0x"), _number(wire.value), bytes_of(wire.input)]
    signature = [_number(wire.r), _number(wire.s)]
    parity = _number(wire.y_parity if wire.y_parity is not None else wire.v)
    access: Item = [
        [bytes_of(entry.address), [bytes_of(key) for key in entry.storage_keys]] for entry in wire.access_list or []
    ]
    chain, nonce, price = _number(wire.chain_id), _number(wire.nonce), _number(wire.gas_price)
    if kind == _LEGACY:
        return encode([nonce, price, *call, _number(wire.v), *signature])
    if kind == _ACCESS_LIST:
        return bytes([kind]) + encode([chain, nonce, price, *call, access, parity, *signature])
    if kind == _DYNAMIC_FEE:
        fees = [_number(wire.max_priority_fee_per_gas), _number(wire.max_fee_per_gas)]
        return bytes([kind]) + encode([chain, nonce, *fees, *call, access, parity, *signature])
    return b""


def encode(item: Item) -> bytes:
    """RLP of bytes, or of a list of such."""
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < _STRING else _headed(_STRING, item)
    return _headed(_LIST, b"".join(map(encode, item)))


def decode(data: bytes) -> Item:
    """What `encode` made of bytes or a list. Raises ValueError where it is cut off, or more follows."""
    item, end = _decoded(data, 0)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the RLP item")
    return item


def _decoded(data: bytes, at: int) -> tuple[Item, int]:
    """The item that begins at `at`, and where it ends."""
    if at >= len(data):
        raise ValueError("the RLP item is cut off")
    head = data[at]
    if head < _STRING:
        return data[at : at + 1], at + 1
    size, start = (head - _STRING) % (_LIST - _STRING), at + 1
    if size > _SHORT_MAX:
        start += size - _SHORT_MAX
        size = int.from_bytes(data[at + 1 : start])
    end = start + size
    if end > len(data):
        raise ValueError("the RLP item is cut off")
    if head < _LIST:
        return data[start:end], end
    items: list[Item] = []
    while start < end:
        item, start = _decoded(data, start)
        items.append(item)
    if start != end:
        raise ValueError("an RLP item ends beyond its list")
    return items, end


def _headed(offset: int, payload: bytes) -> bytes:
    if len(payload) <= _SHORT_MAX:
        return bytes([offset + len(payload)]) + payload
    length = minimal(len(payload))
    return bytes([offset + _SHORT_MAX + len(length)]) + length + payload


def _number(text: str | None) -> bytes:
    return minimal(number_of(text or "0x0"))


def minimal(number: int) -> bytes:
    """A number as RLP has it: big-endian without leading zeros, 0 is empty."""
    return number.to_bytes((number.bit_length() + 7) // 8)
