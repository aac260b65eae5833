"""DevStablecoin on a chain: what its owner can do, and plain ERC-20."""

from __future__ import annotations

from dataclasses import replace

import pytest

from payfirst.chain.contracts import TRANSFER_TOPIC
from payfirst.chain.evidence import paid_transfers
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import ZERO_ADDRESS, AtomicAmount, keccak

from .calls import account, refusal, view, word
from .coin import PAYER, SELLER, Coin, Order, sign, sign_cancel

ALICE, BOB = account("alice"), account("bob")


# ---- the owner's switches


async def attempts(coin: Coin, order: Order) -> list[str]:
    """What each way of moving money from PAYER to SELLER says when it is refused."""
    receiving = replace(order, pay_to=dev_address("payee"))
    ways = [
        coin.transfer(order, sign(order)),
        coin.transfer_bytes(order, sign(order)),
        coin.receive(receiving, sign(receiving, kind="ReceiveWithAuthorization"), role="payee"),
        coin.as_role("payer", "transfer(address,uint256)", SELLER, 1),
        coin.as_role("payer", "approve(address,uint256)", SELLER, 1),
        coin.as_role("spender", "transferFrom(address,address,uint256)", PAYER, SELLER, 1),
    ]
    return [str(await refusal(way)) for way in ways]


async def test_pause_stops_everything_until_unpause(coin: Coin) -> None:
    """While paused nothing moves and nothing is cancelled; afterwards all is as before."""
    await coin.fund()
    order = await coin.order()
    await coin.owner("pause()")
    assert set(await attempts(coin, order)) == {"Pausable: paused"}
    assert str(await refusal(coin.cancel(order, sign_cancel(order)))) == "Pausable: paused"
    await coin.owner("unpause()")
    await coin.transfer(order, sign(order))
    assert await coin.balance(SELLER) == order.value


async def test_blacklisted_payer_cannot_pay(coin: Coin) -> None:
    """Every way out of the account is closed, and its balance is still told."""
    await coin.fund()
    await coin.owner("blacklist(address)", PAYER)
    assert set(await attempts(coin, await coin.order())) == {"Blacklistable: account is blacklisted"}
    assert await view(coin.chain, coin.address, "isBlacklisted(address)", "bool", PAYER)
    assert await coin.balance(PAYER) == 1_000_000


async def test_blacklisted_payee_cannot_be_paid(coin: Coin) -> None:
    """Nor can money come in."""
    await coin.fund()
    await coin.owner("blacklist(address)", SELLER)
    order = await coin.order()
    assert str(await refusal(coin.transfer(order, sign(order)))) == "Blacklistable: account is blacklisted"


async def test_unblacklisted_account_is_as_before(coin: Coin) -> None:
    """Its balance comes through untouched."""
    await coin.fund()
    await coin.owner("blacklist(address)", PAYER)
    await coin.owner("unBlacklist(address)", PAYER)
    order = await coin.order()
    await coin.transfer(order, sign(order))
    assert await coin.balance(PAYER) == 1_000_000 - order.value
    assert not await view(coin.chain, coin.address, "isBlacklisted(address)", "bool", PAYER)


@pytest.mark.parametrize(
    ("function", "event", "args"),
    [
        ("pause()", b"Pause()", ()),
        ("unpause()", b"Unpause()", ()),
        ("blacklist(address)", b"Blacklisted(address)", (ALICE,)),
        ("unBlacklist(address)", b"UnBlacklisted(address)", (ALICE,)),
    ],
)
async def test_switches_are_logged(coin: Coin, function: str, event: bytes, args: tuple[bytes, ...]) -> None:
    """Each switch has its event, with the account where there is one."""
    (log,) = (await coin.owner(function, *args)).logs
    assert log.topics == (keccak(event), *(word(arg) for arg in args))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("pause()", ()),
        ("unpause()", ()),
        ("blacklist(address)", (ALICE,)),
        ("unBlacklist(address)", (ALICE,)),
        ("mint(address,uint256)", (ALICE, 1)),
        ("mintMany(address[],uint256)", ([ALICE], 1)),
    ],
)
async def test_only_the_owner_has_them(coin: Coin, function: str, args: tuple[object, ...]) -> None:
    """A stranger neither switches nor prints."""
    assert str(await refusal(coin.as_role("stranger", function, *args))) == "Ownable: caller is not the owner"


# ---- printing, and plain ERC-20


async def test_mint_prints_money(coin: Coin) -> None:
    """The amount appears on the balance, in the total, and as a Transfer from nobody."""
    receipt = await coin.owner("mint(address,uint256)", ALICE, 5)
    (log,) = receipt.logs
    assert log.topics == (TRANSFER_TOPIC, bytes(32), word(ALICE))
    assert await coin.balance(ALICE) == 5
    assert await view(coin.chain, coin.address, "totalSupply()", "uint256") == 5


async def test_mint_many_gives_each_the_same(coin: Coin) -> None:
    """One transaction funds many accounts."""
    await coin.owner("mintMany(address[],uint256)", [ALICE, BOB, ALICE], 5)
    assert (await coin.balance(ALICE), await coin.balance(BOB)) == (10, 5)


async def test_money_is_not_printed_into_the_void(coin: Coin) -> None:
    """Neither the zero address nor a blacklisted account is funded."""
    assert "zero address" in str(await refusal(coin.owner("mint(address,uint256)", ZERO_ADDRESS, 1)))
    await coin.owner("blacklist(address)", ALICE)
    reason = await refusal(coin.owner("mint(address,uint256)", ALICE, 1))
    assert str(reason) == "Blacklistable: account is blacklisted"


async def test_money_never_overflows_into_the_blacklist_flag(coin: Coin) -> None:
    """The total is kept below the bit that says blacklisted."""
    await coin.owner("mint(address,uint256)", ALICE, 2**255 - 1)
    reason = await refusal(coin.owner("mint(address,uint256)", ALICE, 1))
    assert str(reason) == "DevStablecoin: that is more money than fits"
    assert not await view(coin.chain, coin.address, "isBlacklisted(address)", "bool", ALICE)


async def test_transfer_moves_money(coin: Coin) -> None:
    """A plain transfer by the holder, with its event and without AuthorizationUsed."""
    await coin.fund()
    receipt = await coin.as_role("payer", "transfer(address,uint256)", BOB, 7)
    assert [log.topics[0] for log in receipt.logs] == [TRANSFER_TOPIC]
    assert await coin.balance(BOB) == 7
    assert paid_transfers(receipt, asset=coin.address) == []


async def test_transfer_to_oneself_keeps_the_balance(coin: Coin) -> None:
    """Paying oneself neither makes nor loses money."""
    await coin.fund()
    await coin.as_role("payer", "transfer(address,uint256)", PAYER, 7)
    assert await coin.balance(PAYER) == 1_000_000


async def test_transfer_beyond_the_balance_is_refused(coin: Coin) -> None:
    """Nobody pays more than they have."""
    reason = await refusal(coin.as_role("payer", "transfer(address,uint256)", BOB, 1))
    assert str(reason) == "ERC20: transfer amount exceeds balance"


async def test_spender_moves_what_it_was_allowed(coin: Coin) -> None:
    """approve, then transferFrom up to the allowance and not beyond."""
    await coin.fund()
    spender = dev_address("spender")
    await coin.as_role("payer", "approve(address,uint256)", spender, 10)
    await coin.as_role("spender", "transferFrom(address,address,uint256)", PAYER, BOB, 7)
    assert await coin.balance(BOB) == 7
    assert await view(coin.chain, coin.address, "allowance(address,address)", "uint256", PAYER, spender) == 3
    reason = await refusal(coin.as_role("spender", "transferFrom(address,address,uint256)", PAYER, BOB, 4))
    assert str(reason) == "ERC20: transfer amount exceeds allowance"


async def test_funding_adds_up(chain: LocalChain, coin: Coin) -> None:
    """Funding twice gives twice as much, also to more accounts than fit one transaction."""
    many = [account(f"buyer {number}") for number in range(450)]
    await chain.fund_usdc(many, AtomicAmount(3))
    await chain.fund_usdc(many[:1], AtomicAmount(3))
    assert (await coin.balance(many[0]), await coin.balance(many[449])) == (6, 3)
