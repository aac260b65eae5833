"""The pre-flight lens: what it foretells is what the chain then does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from payfirst.chain.contracts import (
    PREFLIGHT_ITEMS_MAX,
    Preflight,
    PreflightRequest,
    decode_preflight,
    encode_call,
    encode_preflight,
    revert_reason,
)
from payfirst.chain.rpc import RpcRefused
from payfirst.local.chain import LocalChain
from payfirst.units import Address, AtomicAmount, BlockHash, BlockNumber, UnixTime

from .calls import account, refusal
from .coin import PAYER, SELLER, Coin, Order, sign, transfer_data
from .token import compiled_for_tests

INIT_CODE_BYTES_MAX = 49_152  # EIP-3860
CODE_BYTES_MAX = 24_576  # EIP-170: a node takes the answer for code
ESTIMATE_SLACK_GAS = 8_000  # more than the lens' own overhead and the two storage slots it has looked at


async def look(
    chain: LocalChain,
    orders: Sequence[tuple[Order, bytes]],
    *,
    asset: Address | None = None,
    at: BlockHash | BlockNumber | str = "latest",
) -> Preflight:
    """One pre-flight of signed orders to SELLER."""
    requests = [
        PreflightRequest(
            payer=order.payer,
            value=order.value,
            valid_after=order.valid_after,
            valid_before=order.valid_before,
            nonce=order.nonce,
            signature=signature,
        )
        for order, signature in orders
    ]
    data = encode_preflight(asset or chain.usdc, SELLER, requests)
    assert len(data) <= INIT_CODE_BYTES_MAX
    answer = await chain.rpc.eth_call(to=None, data=data, at=at)
    assert len(answer) <= CODE_BYTES_MAX
    return decode_preflight(answer)


async def foretold_and_done(coin: Coin, order: Order, signature: bytes) -> str:
    """What the lens says of one payment; it is a failure when a transaction says something else."""
    (item,) = (await look(coin.chain, [(order, signature)])).items
    receipt = await coin.chain.send(coin.address, transfer_data(order, signature), gas=300_000)
    assert item.ok == receipt.succeeded
    if item.ok:
        return "paid"
    said = revert_reason(item.revert_data)
    assert said == await refusal(coin.transfer(order, signature))
    return str(said)


async def test_good_payment_is_foretold(coin: Coin) -> None:
    """It says ok, and the transfer goes through."""
    await coin.fund()
    order = await coin.order()
    assert await foretold_and_done(coin, order, sign(order)) == "paid"


async def test_empty_account_is_foretold(coin: Coin) -> None:
    """A payer without money."""
    order = await coin.order()
    assert await foretold_and_done(coin, order, sign(order)) == "ERC20: transfer amount exceeds balance"


async def test_used_authorization_is_foretold(coin: Coin) -> None:
    """An authorization that was used before."""
    await coin.fund()
    order = await coin.order()
    await coin.transfer(order, sign(order))
    (item,) = (await look(coin.chain, [(order, sign(order))])).items
    assert item.used
    said = await foretold_and_done(coin, order, sign(order))
    assert said == "FiatTokenV2: authorization is used or canceled"


async def test_expired_authorization_is_foretold(coin: Coin) -> None:
    """An authorization whose time is over."""
    await coin.fund()
    order = await coin.order()
    order = replace(order, valid_before=UnixTime(order.valid_after + 60))
    assert await foretold_and_done(coin, order, sign(order)) == "FiatTokenV2: authorization is expired"


async def test_early_authorization_is_foretold(coin: Coin) -> None:
    """An authorization whose time has not come."""
    await coin.fund()
    order = await coin.order()
    order = replace(order, valid_after=UnixTime(order.valid_before - 60))
    assert await foretold_and_done(coin, order, sign(order)) == "FiatTokenV2: authorization is not yet valid"


async def test_bad_signature_is_foretold(coin: Coin) -> None:
    """A signature of another key."""
    await coin.fund()
    order = await coin.order()
    assert await foretold_and_done(coin, order, sign(order, role="thief")) == "FiatTokenV2: invalid signature"


async def test_blacklisted_payer_is_foretold(coin: Coin) -> None:
    """A payer whom the asset refuses."""
    await coin.fund()
    await coin.owner("blacklist(address)", PAYER)
    order = await coin.order()
    assert await foretold_and_done(coin, order, sign(order)) == "Blacklistable: account is blacklisted"


async def test_paused_asset_is_foretold(coin: Coin) -> None:
    """An asset that refuses everybody."""
    await coin.fund()
    await coin.owner("pause()")
    order = await coin.order()
    assert await foretold_and_done(coin, order, sign(order)) == "Pausable: paused"


async def test_items_see_what_earlier_items_left(coin: Coin) -> None:
    """A payer with money for one payment passes once, and its balance shrinks from item to item."""
    await coin.fund(amount=1_500)
    orders = [(await coin.order()).numbered(number) for number in range(2)]
    first, second = (await look(coin.chain, [(order, sign(order)) for order in orders])).items
    assert (first.ok, first.balance) == (True, 1_500)
    assert (second.ok, second.balance) == (False, 500)


async def test_same_authorization_twice_is_used_the_second_time(coin: Coin) -> None:
    """Within one pre-flight too."""
    await coin.fund()
    order = await coin.order()
    first, second = (await look(coin.chain, [(order, sign(order))] * 2)).items
    assert (first.used, second.used) == (False, True)


async def test_nothing_of_it_stays(coin: Coin) -> None:
    """It is a call: the authorization is unused and the money where it was."""
    await coin.fund()
    order = await coin.order()
    await look(coin.chain, [(order, sign(order))])
    assert not await coin.used(order)
    assert await coin.balance(PAYER) == 1_000_000


async def test_gas_is_what_a_transfer_costs(coin: Coin) -> None:
    """The gas of a first payment covers its execution in a transaction, and not much more."""
    await coin.fund()
    order = await coin.order()
    (item,) = (await look(coin.chain, [(order, sign(order))])).items
    data = transfer_data(order, sign(order))
    intrinsic = 21_000 + sum(16 if byte else 4 for byte in data)
    spent = (await coin.transfer(order, sign(order))).gas_used - intrinsic
    assert spent <= item.gas_used <= spent + ESTIMATE_SLACK_GAS


@pytest.mark.parametrize("pin", ["hash", "number"])
async def test_it_sees_the_block_it_is_pinned_to(coin: Coin, pin: str) -> None:
    """At an earlier block the balance is the earlier one, and the answer tells number and time of that block."""
    before = await coin.chain.rpc.head()
    await coin.fund()
    order = await coin.order()
    at = before.hash if pin == "hash" else before.number
    seen = await look(coin.chain, [(order, sign(order))], at=at)
    assert (seen.block_number, seen.block_time) == (before.number, before.time)
    assert seen.items[0].balance == 0
    assert (await look(coin.chain, [(order, sign(order))])).items[0].balance == 1_000_000


async def test_payer_with_code_is_told_apart(chain: LocalChain, coin: Coin) -> None:
    """The size of a payer's code is told; for an account without code it is 0."""
    wallet_code = compiled_for_tests("BurnWallet")
    wallet = await chain.deploy(wallet_code)
    await coin.fund()
    await coin.fund(wallet)
    order = await coin.order()
    items = (await look(chain, [(order, sign(order)), (replace(order, payer=wallet), bytes(65))])).items
    assert [(item.ok, item.code_size) for item in items] == [(True, 0), (True, len(wallet_code.runtime))]


async def test_payer_that_burns_gas_is_stopped(chain: LocalChain, coin: Coin) -> None:
    """A wallet that spins gets a million gas, and the payment after it is still tried."""
    await chain.set_code(account("spinner"), bytes.fromhex("5b5f56"))  # jumps to itself for ever
    await coin.fund()
    order = await coin.order()
    spinning = replace(order, payer=account("spinner"))
    burned, good = (await look(chain, [(spinning, bytes(65)), (order, sign(order))])).items
    assert not burned.ok
    assert 900_000 < burned.gas_used < 1_100_000
    assert good.ok


async def test_most_items_at_once(coin: Coin) -> None:
    """250 payments fit, and each has its answer."""
    await coin.fund()
    order = await coin.order()
    orders = [order.numbered(number) for number in range(PREFLIGHT_ITEMS_MAX)]
    items = (await look(coin.chain, [(each, sign(each)) for each in orders])).items
    assert [item.ok for item in items] == [True] * PREFLIGHT_ITEMS_MAX


async def test_equal_reasons_are_listed_once(coin: Coin) -> None:
    """250 refusals for one reason all tell it."""
    order = await coin.order()
    items = (await look(coin.chain, [(order, bytes(64) + b"\x1b")] * PREFLIGHT_ITEMS_MAX)).items
    assert {str(revert_reason(item.revert_data)) for item in items} == {"ECRecover: invalid signature"}


async def test_reasons_beyond_the_limit_are_left_out(chain: LocalChain, coin: Coin) -> None:
    """Of 250 long reasons that all differ, 120 are told, cut to 132 bytes; the answer still fits."""
    # balanceOf and authorizationState answer with a word; anything longer is thrown back with the payer in it.
    code = "60443611600b5760205ff35b365f5f37365ffd"
    asset = account("asset that differs")
    await chain.set_code(asset, bytes.fromhex(code))
    order = await coin.order()
    orders = [(order.numbered(number), bytes(64) + b"\x1b") for number in range(PREFLIGHT_ITEMS_MAX)]
    payers = [replace(each, payer=account(f"payer {n}")) for n, (each, _) in enumerate(orders)]
    items = (await look(chain, [(each, bytes(65)) for each in payers], asset=asset)).items
    assert [len(item.revert_data) for item in items] == [132] * 120 + [0] * 130
    assert items[119].revert_data[16:36] == payers[119].payer
    assert not any(item.ok for item in items)


async def test_address_without_code_is_no_asset(coin: Coin) -> None:
    """Calls to an empty address succeed silently; the lens refuses them."""
    order = await coin.order()
    reason = await refusal(look(coin.chain, [(order, sign(order))], asset=account("nothing there")))
    assert reason.name == "Preflight__NoAsset"


async def test_contract_without_eip_3009_is_no_asset(chain: LocalChain, coin: Coin) -> None:
    """A contract that answers other calls only is refused as well."""
    order = await coin.order()
    wallet = await chain.deploy(compiled_for_tests("BurnWallet"))
    assert (await refusal(look(chain, [(order, sign(order))], asset=wallet))).name == "Preflight__NoAsset"


async def test_cut_off_items_are_refused(coin: Coin) -> None:
    """Bytes beyond the items that were announced, or too few, are a fault of the program."""
    data = encode_preflight(coin.address, SELLER, [])
    broken = data[:-32] + (1).to_bytes(32) + bytes(32)
    with pytest.raises(RpcRefused) as caught:
        await coin.chain.rpc.eth_call(to=None, data=broken)
    assert str(revert_reason(caught.value.data)) == "Preflight__Malformed(1)"


async def test_huge_numbers_stay_refused(coin: Coin) -> None:
    """A value and times beyond the packed form are still told as what they are: unpayable."""
    await coin.fund()
    order = await coin.order()
    huge = replace(order, value=AtomicAmount(2**256 - 1), valid_before=UnixTime(2**64 + 5))
    (item,) = (await look(coin.chain, [(huge, sign(huge))])).items
    assert not item.ok


async def test_no_items_no_answers(coin: Coin) -> None:
    """An empty pre-flight tells the block only."""
    assert (await look(coin.chain, [])).items == ()


async def test_blacklisting_reads_as_balance(coin: Coin) -> None:
    """The flag inside the balance's word never shows in the balance."""
    await coin.fund()
    await coin.chain.send(coin.address, encode_call("blacklist(address)", PAYER))
    order = await coin.order()
    assert (await look(coin.chain, [(order, sign(order))])).items[0].balance == 1_000_000
