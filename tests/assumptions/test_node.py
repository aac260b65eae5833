"""What is believed of the node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from payfirst.chain.evidence import TRANSFER
from payfirst.chain.fees import Fees
from payfirst.chain.rpc import RpcRefused
from payfirst.chain.signers import Signer
from payfirst.local.chain import LocalChain, dev_address, dev_key
from payfirst.units import AccountNonce, Address, AtomicAmount, Gas, TxHash, Wei, hex_text

NOBODY = Address(b"\x77" * 20)


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A chain that mines by hand."""
    async with LocalChain(block_time_s=None) as running:
        await running.fund_gas([dev_address("sender")], Wei(10**20))
        yield running


def signed(nonce: int) -> tuple[TxHash, bytes]:
    """A transaction of the sender."""
    made = Signer(dev_key("sender")).sign(
        chain_id=84_532,
        nonce=AccountNonce(nonce),
        to=NOBODY,
        data=b"",
        gas_limit=Gas(21_000),
        fees=Fees(Wei(10**10), Wei(10**6)),
    )
    return made.hash, made.signed


async def test_creation_code_is_run_by_a_call_without_a_target(chain: LocalChain) -> None:
    """The pre-flight rests on it: what the code returns comes back, and nothing is deployed."""
    returns_42 = bytes.fromhex("602a60005260206000f3")
    assert int.from_bytes(await chain.rpc.eth_call(to=None, data=returns_42), "big") == 42


async def test_a_call_can_be_pinned_to_a_blocks_hash(chain: LocalChain) -> None:
    """EIP-1898: an answer about one block, not about a height."""
    number = bytes.fromhex("4360005260206000f3")  # NUMBER
    head = await chain.rpc.head()
    await chain.mine(3)
    assert int.from_bytes(await chain.rpc.eth_call(to=None, data=number, at=head.hash), "big") == head.number


async def test_the_same_bytes_twice_are_one_transaction(chain: LocalChain) -> None:
    """Sending again is refused or ignored, and harmless."""
    tx_hash, raw = signed(0)
    assert await chain.rpc.broadcast(raw) == tx_hash
    with pytest.raises(RpcRefused):
        await chain.rpc.broadcast(raw)
    await chain.mine(1)
    with pytest.raises(RpcRefused):
        await chain.rpc.broadcast(raw)
    assert await chain.rpc.account_nonce(dev_address("sender")) == 1


async def test_a_transaction_that_was_dropped_is_unknown_by_its_hash(chain: LocalChain) -> None:
    """So silence can be told from waiting."""
    tx_hash, raw = signed(0)
    await chain.rpc.broadcast(raw)
    assert await chain.rpc.is_known(tx_hash)
    await chain.rpc.call("anvil_dropAllTransactions", result=object)
    assert not await chain.rpc.is_known(tx_hash)
    assert await chain.rpc.broadcast(raw) == tx_hash


async def test_logs_are_found_by_the_hash_of_their_block(chain: LocalChain) -> None:
    """Gap-free reading asks for one block at a time, and for no other chain's."""
    await chain.fund_usdc([NOBODY], AtomicAmount(5))
    head = await chain.rpc.head()
    query = {"addresses": [chain.usdc], "topics": [hex_text(TRANSFER), None, hex_text(bytes(12) + NOBODY)]}
    (found,) = await chain.rpc.logs_of_blocks([head.hash], **query)  # type: ignore[arg-type]  # as named
    (none,) = await chain.rpc.logs_of_blocks([head.parent_hash], **query)  # type: ignore[arg-type]  # as named
    assert (len(found), none) == (1, [])
