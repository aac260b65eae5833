"""What a payment and a unit cost at most. Fees are paid by the operator, for each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from payfirst.chain.contracts import MULTICALL3, encode_try_aggregate
from payfirst.chain.evidence import minted_units, paid_transfers
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import AtomicAmount, MintId, keccak

from .calls import account
from .coin import Coin, sign, transfer_data
from .token import Token

ENOUGH_GAS = 16_000_000


@pytest.mark.parametrize(("payments", "gas_max"), [(50, 45_400), (100, 45_050)])
async def test_settling_a_batch(chain: LocalChain, coin: Coin, payments: int, gas_max: int) -> None:
    """A payment of its own payer in a batch, the seller having some money already."""
    roles = [f"payer {number}" for number in range(payments)]
    payers = [dev_address(role) for role in roles]
    await coin.fund()
    await chain.fund_usdc(payers, AtomicAmount(1_000_000))
    order = await coin.order()
    await coin.transfer(order, sign(order))
    calls = []
    for role, payer in zip(roles, payers, strict=True):
        each = replace(order, payer=payer)
        calls.append((coin.address, transfer_data(each, sign(each, role=role))))
    receipt = await chain.send(MULTICALL3, encode_try_aggregate(calls), gas=ENOUGH_GAS)
    assert len(paid_transfers(receipt, asset=coin.address)) == payments
    assert receipt.gas_used / payments <= gas_max


@pytest.mark.parametrize(("units", "gas_max"), [(100, 49_700), (250, 49_500)])
async def test_minting_to_new_holders(chain: LocalChain, units: int, gas_max: int) -> None:
    """A unit for somebody who has none, of a token that was minted before."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=1_000)
    await token.mint(account("first"), ids("first", 1)[0])
    receipt = await token.batch([account(f"holder {number}") for number in range(units)], ids("new", units))
    assert len(minted_units(receipt, tokens={token.address})) == units
    assert receipt.gas_used / units <= gas_max


async def test_minting_to_holders(chain: LocalChain) -> None:
    """A unit for somebody who has some."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=1_000)
    holders = [account(f"holder {number}") for number in range(100)]
    await token.batch(holders, ids("first", 100))
    receipt = await token.batch(holders, ids("second", 100))
    assert receipt.gas_used / 100 <= 33_000


async def test_minting_one(chain: LocalChain) -> None:
    """A unit in a transaction of its own."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=1_000)
    await token.mint(account("first"), ids("first", 1)[0])
    assert (await token.mint(account("second"), ids("second", 1)[0])).gas_used <= 85_000


async def test_skipping_is_cheap(chain: LocalChain) -> None:
    """A batch that is sent again costs little more than its bytes."""
    token = await Token.deploy(chain, "MintToken", max_mint_count=1_000)
    holders, units = [account(f"holder {number}") for number in range(100)], ids("same", 100)
    await token.batch(holders, units)
    assert (await token.batch(holders, units)).gas_used / 100 <= 4_000


def ids(name: str, count: int) -> list[MintId]:
    """Mint ids that look like real ones: a zero byte is cheaper than others."""
    return [MintId(keccak(f"{name} {number}".encode())) for number in range(count)]
