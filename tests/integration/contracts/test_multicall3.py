"""The Multicall3 of local chains is the real one, and behaves as the settle worker needs it."""

from __future__ import annotations

from payfirst.chain.contracts import (
    MULTICALL3,
    artifact,
    decode_aggregate3,
    encode_aggregate3,
    encode_call,
    encode_try_aggregate,
    revert_reason,
)
from payfirst.chain.evidence import paid_transfers
from payfirst.local.chain import CHAIN_ID, LocalChain, dev_address
from payfirst.units import keccak

from .calls import account, refusal, view
from .coin import SELLER, Coin, sign, transfer_data

BATCH_GAS = 2_000_000  # stated, because an estimate takes an item that fails for want of gas as good enough
CANONICAL_CODE_HASH = "d5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891"


def test_its_code_is_that_of_the_public_chains() -> None:
    """The hash of the code is the EXTCODEHASH at the canonical address on public chains."""
    assert keccak(artifact("Multicall3").runtime).hex() == CANONICAL_CODE_HASH


async def test_one_failing_payment_leaves_the_others_alone(chain: LocalChain, coin: Coin) -> None:
    """What settles a batch: the item that reverts is skipped and the rest is paid."""
    await coin.fund()
    orders = [(await coin.order()).numbered(number) for number in range(3)]
    signatures = [sign(orders[0]), sign(orders[1], role="thief"), sign(orders[2])]
    calls = [(coin.address, transfer_data(o, s)) for o, s in zip(orders, signatures, strict=True)]
    receipt = await chain.send(MULTICALL3, encode_try_aggregate(calls), gas=BATCH_GAS)
    assert receipt.succeeded
    paid = [transfer.nonce for transfer in paid_transfers(receipt, asset=coin.address)]
    assert paid == [orders[0].nonce, orders[2].nonce]


async def test_results_come_back_in_order(chain: LocalChain, coin: Coin) -> None:
    """Each call has its success and its bytes, the revert data of a failed one too."""
    await coin.fund()
    balance = encode_call("balanceOf(address)", dev_address("payer"))
    fails = encode_call("transfer(address,uint256)", SELLER, 1)
    answer = await chain.call(MULTICALL3, encode_aggregate3([(coin.address, balance), (coin.address, fails)]))
    (ok, first), (failed, second) = decode_aggregate3(answer)
    assert (ok, int.from_bytes(first)) == (True, 1_000_000)
    assert not failed
    assert str(revert_reason(second)) == "ERC20: transfer amount exceeds balance"


async def test_without_allowed_failures_one_takes_all_along(chain: LocalChain, coin: Coin) -> None:
    """The flag decides, call by call."""
    fails = encode_call("transfer(address,uint256)", SELLER, 1)
    attempt = chain.call(MULTICALL3, encode_aggregate3([(coin.address, fails)], allow_failure=False))
    assert str(await refusal(attempt)) == "Multicall3: call failed"


async def test_no_calls_no_results(chain: LocalChain) -> None:
    """An empty batch is answered with an empty list."""
    assert decode_aggregate3(await chain.call(MULTICALL3, encode_aggregate3([]))) == []


async def test_try_aggregate_answers_as_aggregate3_does(chain: LocalChain, coin: Coin) -> None:
    """What was tried by the one may be sent by the other."""
    await coin.fund()
    balance = encode_call("balanceOf(address)", dev_address("payer"))
    fails = encode_call("transfer(address,uint256)", SELLER, 1)
    calls = [(coin.address, balance), (coin.address, fails)]
    answer = await chain.call(MULTICALL3, encode_try_aggregate(calls))
    assert answer == await chain.call(MULTICALL3, encode_aggregate3(calls))
    assert [ok for ok, _ in decode_aggregate3(answer)] == [True, False]


async def test_aggregate3_value_sends_value(chain: LocalChain) -> None:
    """Calls with native value are passed on: here zero to an account without code."""
    call = [(account("somebody"), False, 0, b"")]
    answer = await chain.call(MULTICALL3, encode_call("aggregate3Value((address,bool,uint256,bytes)[])", call))
    assert decode_aggregate3(answer) == [(True, b"")]


async def test_it_tells_of_the_block(chain: LocalChain) -> None:
    """Number, time, chain id and native balances, as of the block of the call."""
    head = await chain.rpc.head()
    assert await view(chain, MULTICALL3, "getBlockNumber()", "uint256") == head.number
    assert await view(chain, MULTICALL3, "getCurrentBlockTimestamp()", "uint256") == head.time
    assert await view(chain, MULTICALL3, "getChainId()", "uint256") == CHAIN_ID
    balance = await chain.rpc.balance(dev_address("owner"))
    assert await view(chain, MULTICALL3, "getEthBalance(address)", "uint256", dev_address("owner")) == balance
