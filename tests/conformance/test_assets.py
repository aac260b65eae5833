"""The assets of the presets are those that official clients know."""

from __future__ import annotations

import pytest
from x402.mechanisms.evm.default_assets import DEFAULT_ASSETS

from payfirst.config import PRESETS
from payfirst.x402.networks import network_from_text


@pytest.mark.parametrize("network", list(PRESETS))
def test_a_preset_is_the_asset_that_the_official_client_pays_with(network: str) -> None:
    """Address, EIP-712 domain and decimals: with any other, no buyer's signature would be good."""
    theirs = DEFAULT_ASSETS[network_from_text(network).caip2][0]
    ours = PRESETS[network]
    assert ours["asset.address"] == theirs["asset"]
    assert ours["asset.name"] == theirs["name"]
    assert ours["asset.version"] == theirs["version"]
    assert ours["asset.decimals"] == theirs["decimals"]
