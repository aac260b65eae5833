"""Transactions as the chain gives them back: their bytes, and what they were to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from payfirst.chain import contracts
from payfirst.chain.calldata import authorizations_in, mint_ids_in
from payfirst.chain.fees import Fees
from payfirst.chain.raw import mined_transaction
from payfirst.chain.rpc_wire import WireTransaction
from payfirst.chain.signers import Signer
from payfirst.units import (
    AccountNonce,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    Gas,
    MintId,
    UnixTime,
    Wei,
    checksum_address,
    hex_text,
)

KEY = b"\x11" * 32
ASSET, MULTICALL, TOKEN = Address(b"\xaa" * 20), Address(b"\xbb" * 20), Address(b"\xcc" * 20)
PAYERS = [Address(bytes([n]) * 20) for n in (1, 2)]
NONCES = [AuthorizationNonce(bytes([n]) * 32) for n in (3, 4)]


def transfer(payer: Address, nonce: AuthorizationNonce) -> bytes:
    """Calldata that uses an authorization."""
    return contracts.encode_transfer_with_authorization(
        payer=payer,
        pay_to=TOKEN,
        value=AtomicAmount(5),
        valid_after=UnixTime(0),
        valid_before=UnixTime(9),
        nonce=nonce,
        signature=bytes(65),
    )


def wire(signed: Any, **fields: object) -> WireTransaction:
    """What a node says of a signed transaction."""
    known = {
        "hash": hex_text(bytes(signed.hash)),
        "from": Account.from_key(KEY).address,
        "r": hex(signed.r),
        "s": hex(signed.s),
        "v": hex(signed.v),
        "blockNumber": "0x10",
        **fields,
    }
    return msgspec.convert(known, WireTransaction)


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(56), bytes(70_000)])
@pytest.mark.parametrize("nonce", [0, 127, 128, 70_000])
def test_the_bytes_of_a_dynamic_fee_transaction_are_those_that_were_signed(nonce: int, data: bytes) -> None:
    """The same bytes can be sent again, should a reorg take it."""
    fees = Fees(Wei(3 * 10**9), Wei(0))
    signed = Signer(KEY).sign(
        chain_id=84_532, nonce=AccountNonce(nonce), to=TOKEN, data=data, gas_limit=Gas(21_000), fees=fees
    )
    fields = TypedTransaction.from_bytes(HexBytes(signed.signed)).as_dict()
    found = mined_transaction(
        msgspec.convert(
            {
                "hash": hex_text(signed.hash), "from": hex_text(TOKEN), "type": "0x2", "chainId": hex(84_532),
                "nonce": hex(nonce), "to": hex_text(TOKEN), "input": hex_text(data), "gas": hex(21_000),
                "maxFeePerGas": hex(3 * 10**9), "maxPriorityFeePerGas": "0x0", "accessList": [],
                "yParity": hex(fields["v"]), "r": hex(fields["r"]), "s": hex(fields["s"]), "blockNumber": "0x10",
            },
            WireTransaction,
        )
    )  # fmt: skip
    assert found.signed == signed.signed
    assert (found.nonce, found.to, found.data, found.max_fee, found.block) == (nonce, TOKEN, data, 3 * 10**9, 16)


def test_the_bytes_of_other_kinds_are_those_that_were_signed() -> None:
    """An operator's wallet may send them with the signer's key: legacy, and with an access list."""
    call = {"nonce": 7, "gas": 30_000, "gasPrice": 10**9, "to": checksum_address(TOKEN), "value": 5, "data": b"\x09"}
    said = {"nonce": "0x7", "gas": hex(30_000), "gasPrice": hex(10**9), "to": hex_text(TOKEN), "value": "0x5"}
    legacy = Account.sign_transaction({**call, "chainId": 84_532}, KEY)
    assert mined_transaction(wire(legacy, type="0x0", input="0x09", **said)).signed == legacy.raw_transaction
    access = [{"address": checksum_address(ASSET), "storageKeys": ["0x" + "01" * 32]}]
    listed = Account.sign_transaction({**call, "chainId": 84_532, "type": 1, "accessList": access}, KEY)
    more = {**said, "chainId": hex(84_532), "accessList": access, "type": "0x1", "input": "0x09"}
    assert mined_transaction(wire(listed, **more)).signed == listed.raw_transaction


def test_bytes_that_do_not_have_the_hash_are_no_bytes() -> None:
    """A node that leaves a field out, or a kind that is not known here: nothing is sent again."""
    call = {"nonce": 7, "gas": 30_000, "gasPrice": 10**9, "to": checksum_address(TOKEN), "value": 5, "data": b"\x09"}
    signed = Account.sign_transaction({**call, "chainId": 84_532}, KEY)
    told = wire(signed, type="0x0", nonce="0x7", gas=hex(30_000), gasPrice=hex(10**9), to=hex_text(TOKEN))
    assert mined_transaction(told).signed == b""
    told.kind = "0x7e"
    assert mined_transaction(told).signed == b""


@pytest.mark.parametrize("encode", [contracts.encode_try_aggregate, contracts.encode_aggregate3])
def test_what_a_batch_carried_is_read_back_in_order(encode: Callable[[list[tuple[Address, bytes]]], bytes]) -> None:
    """Each authorization of the asset; other calls are passed over. Earlier releases sent the second form."""
    pairs = list(zip(PAYERS, NONCES, strict=True))
    calls = [(ASSET, transfer(*pairs[0])), (TOKEN, transfer(*pairs[0])), (ASSET, b"\x01"), (ASSET, transfer(*pairs[1]))]
    batch = encode(calls)
    assert authorizations_in(MULTICALL, batch, asset=ASSET, multicall3=MULTICALL) == pairs
    assert authorizations_in(ASSET, transfer(*pairs[1]), asset=ASSET, multicall3=MULTICALL) == pairs[1:]


@pytest.mark.parametrize("encode", [contracts.encode_try_aggregate, contracts.encode_aggregate3])
@pytest.mark.parametrize("to", [None, TOKEN, MULTICALL])
def test_other_calls_carry_nothing(to: Address | None, encode: Callable[[list[tuple[Address, bytes]]], bytes]) -> None:
    """The creation of a contract, another contract, and a batch that is cut off."""
    data = encode([(ASSET, transfer(PAYERS[0], NONCES[0]))])
    cut = data[:100] if to == MULTICALL else data
    assert authorizations_in(to, cut, asset=ASSET, multicall3=MULTICALL) == []


def test_the_ids_of_a_mint_are_read_back() -> None:
    """In the order of the call; any other call has none."""
    ids = [MintId(bytes([n]) * 32) for n in (5, 6)]
    data = contracts.encode_batch_mint(PAYERS, ids)
    assert mint_ids_in(data) == ids
    assert mint_ids_in(data[:80]) == []
    assert mint_ids_in(b"") == []
