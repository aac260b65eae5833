"""Networks and their two spellings."""

from __future__ import annotations

import pytest

from payfirst.x402.networks import V1_CHAIN_IDS, Network, network_from_text


def test_a_v1_name_gives_the_chain() -> None:
    """A v1 name is resolved to its chain id, and has a CAIP-2 spelling."""
    network = network_from_text("base-sepolia")
    assert network == Network(84532, "base-sepolia")
    assert network.caip2 == "eip155:84532"


@pytest.mark.parametrize("name", sorted(V1_CHAIN_IDS))
def test_both_spellings_are_one_network(name: str) -> None:
    """A network is the same whichever spelling named it."""
    network = network_from_text(name)
    assert network_from_text(network.caip2) == network


def test_a_chain_without_a_v1_name_has_none() -> None:
    """A chain that v1 has no word for is a network without a name."""
    assert network_from_text("eip155:31337") == Network(31337, None)


@pytest.mark.parametrize(
    "text",
    ["", "Base", "base ", "84532", "solana:mainnet", "EIP155:1", "eip155:", "eip155:0", "eip155:01", "eip155:-1"],
    ids=repr,
)
def test_anything_else_is_refused(text: str) -> None:
    """Other texts are refused with what is expected."""
    with pytest.raises(ValueError, match="expected eip155"):
        network_from_text(text)


@pytest.mark.parametrize(
    "text",
    ["eip155:1 ", "eip155:1\n", "eip155:x", "eip155:٣", "eip155:" + "9" * 33],
    ids=repr,
)
def test_a_reference_that_is_no_chain_id_is_refused(text: str) -> None:
    """After eip155 stands a plain decimal number of at most 32 digits."""
    with pytest.raises(ValueError, match="expected eip155"):
        network_from_text(text)


@pytest.mark.parametrize("name", ["base-sepolia", "eip155:80002", "sei-testnet", "avalanche-fuji"])
def test_test_money_is_known_as_such(name: str) -> None:
    """By the chain, whatever it is called."""
    assert network_from_text(name).has_test_money


@pytest.mark.parametrize("name", ["base", "eip155:8453", "eip155:31337", "avalanche", "sei"])
def test_what_is_not_known_as_test_money_may_be_worth_something(name: str) -> None:
    """Also a chain that nobody has heard of."""
    assert not network_from_text(name).has_test_money
