"""What a node tells of blocks and transactions, as bytes and integers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.units import AccountNonce, Address, BlockHash, BlockNumber, Gas, TxHash, UnixTime, Wei


@dataclass(frozen=True, slots=True)
class Head:
    """A block's header, as far as payfirst looks at it."""

    number: BlockNumber
    hash: BlockHash
    parent_hash: BlockHash
    time: UnixTime
    base_fee: Wei


@dataclass(frozen=True, slots=True)
class Block:
    """A header and the hashes of the block's transactions, in order."""

    head: Head
    transactions: tuple[TxHash, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """An event log; `index` is its place in the block."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    index: int


@dataclass(frozen=True, slots=True)
class PlacedLog:
    """A log, and the transaction and block that it is in."""

    log: Log
    tx_hash: TxHash
    block: BlockNumber
    block_hash: BlockHash


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """A transaction as the chain holds it. `signed` are its bytes, put together again; empty where they cannot be.

    `to` is None for the creation of a contract.
    """

    hash: TxHash
    sender: Address
    nonce: AccountNonce
    to: Address | None
    data: bytes
    gas_limit: Gas
    max_fee: Wei
    max_priority_fee: Wei
    block: BlockNumber
    signed: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a mined transaction. Alone it proves nothing: see `payfirst.chain.evidence`."""

    tx_hash: TxHash
    block_hash: BlockHash
    block_number: BlockNumber
    succeeded: bool
    gas_used: int
    gas_price: Wei
    logs: tuple[Log, ...]
