"""EVM networks and their two spellings on the wire: a v1 name, and the CAIP-2 text of v2. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The words v1 clients know; a network without one is offered through v2 only.
V1_CHAIN_IDS: dict[str, int] = {
    "abstract": 2741,
    "abstract-testnet": 11124,
    "avalanche": 43114,
    "avalanche-fuji": 43113,
    "base": 8453,
    "base-sepolia": 84532,
    "celo": 42220,
    "educhain": 656476,
    "ethereum": 1,
    "flare": 14,
    "iotex": 4689,
    "megaeth": 4326,
    "monad": 143,
    "monad-testnet": 10143,
    "peaq": 3338,
    "polygon": 137,
    "polygon-amoy": 80002,
    "sei": 1329,
    "sei-testnet": 1328,
    "skale-base-sepolia": 1444673419,
    "stable": 988,
    "stable-testnet": 2201,
    "story": 1513,
}
# Chains whose money is worth nothing; what is not known is taken to be worth something.
TEST_CHAIN_IDS = frozenset(
    {chain_id for name, chain_id in V1_CHAIN_IDS.items() if name.endswith(("-testnet", "-sepolia", "-fuji", "-amoy"))}
)
_V1_NAMES = {chain_id: name for name, chain_id in V1_CHAIN_IDS.items()}

# CAIP-2 allows a reference of at most 32 characters.
_CAIP2 = re.compile(r"eip155:([1-9][0-9]{0,31})")


@dataclass(frozen=True, slots=True)
class Network:
    """One EVM chain."""

    chain_id: int
    name: str | None  # the v1 name, e.g. "base-sepolia"; None where v1 has no word for the chain

    @property
    def caip2(self) -> str:
        """The v2 spelling, e.g. `eip155:84532` (CAIP-2)."""
        return f"eip155:{self.chain_id}"

    @property
    def has_test_money(self) -> bool:
        """Whether nothing of value is paid there."""
        return self.chain_id in TEST_CHAIN_IDS


def network_from_text(text: str) -> Network:
    """The network from its v1 name or its CAIP-2 text; a known chain has its name in both cases.

    Raises ValueError on anything else.
    """
    chain_id = V1_CHAIN_IDS.get(text)
    if chain_id is not None:
        return Network(chain_id, text)
    match = _CAIP2.fullmatch(text)
    if match is None:
        raise ValueError(
            f"not a network: expected eip155:<chain id> or one of {', '.join(V1_CHAIN_IDS)}; got {text[:64]!r}"
        )
    chain_id = int(match.group(1))
    return Network(chain_id, _V1_NAMES.get(chain_id))
