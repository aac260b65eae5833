"""What is known of a network by its name: its USDC, and how to judge and pay its blocks. Pure.

Sources: `x402.assets` for the contracts; Base's documentation of finality, fees and the gas maximum of a transaction.
A conformance test compares the assets with those that the official x402 client knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from decimal import Decimal

from payfirst.units import ZERO_ADDRESS, checksum_address, parse_address
from payfirst.x402.assets import USDC_ON_BASE, USDC_ON_BASE_SEPOLIA
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text


def _asset(usdc: Asset) -> dict[str, object]:
    return {
        "asset.address": checksum_address(usdc.address),
        "asset.name": usdc.name,
        "asset.version": usdc.version,
        "asset.decimals": usdc.decimals,
    }


_BASE = {
    **_asset(USDC_ON_BASE),
    "network.confirmations": 2,
    "network.final_depth": 900,
    "network.max_fee_gwei": Decimal("1.0"),
}
_BASE_SEPOLIA = {
    **_asset(USDC_ON_BASE_SEPOLIA),
    "network.confirmations": 1,
    "network.final_depth": 64,
    "network.max_fee_gwei": Decimal("50.0"),
}
PRESETS: Mapping[str, Mapping[str, object]] = {"base": _BASE, "base-sepolia": _BASE_SEPOLIA}
# Why a preset is what it is: for the file that `payfirst init` writes, and for docs/networks.md.
REASONS: Mapping[str, Mapping[str, str]] = {
    "base": {
        "asset.address": "On Base: USDC, as Circle lists it.",
        "network.confirmations": "On Base: one block upon it, 2 s more. One sequencer orders the blocks, and a reorg"
        " there has taken one block, once.",
        "network.final_depth": "On Base: 30 minutes of 2 s blocks; a batch is final on Ethereum after about 20.",
        "network.max_fee_gwei": "On Base: the least base fee is 0.002 gwei; a whole transaction of 16,777,216 gas costs"
        " 0.017 ETH at this cap.",
    },
    "base-sepolia": {
        "asset.address": "On Base Sepolia: USDC for tests, as Circle lists it.",
        "network.confirmations": "On Base Sepolia: test money, so the head block is soon enough.",
        "network.final_depth": "On Base Sepolia: two minutes of 2 s blocks, for test money.",
        "network.max_fee_gwei": "On Base Sepolia: test money, so a high cap costs nothing.",
    },
}

ASSET_SETTINGS = ("asset.address", "asset.name", "asset.version", "asset.decimals")
_DEFAULT_NETWORK = "base-sepolia"


def fill(values: MutableMapping[str, object], sources: MutableMapping[str, str]) -> None:
    """Give what is unset the value of the network's preset. Another asset than its USDC gets nothing of USDC's."""
    name = _network(values)
    if name is None or name not in PRESETS:
        return
    is_usdc = _is(values.get("asset.address"), PRESETS[name]["asset.address"])
    for setting, value in PRESETS[name].items():
        if setting not in values and (is_usdc or setting not in ASSET_SETTINGS):
            values[setting], sources[setting] = value, f"preset: {name}"


def contradictions(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Settings of the asset that are missing or cannot be, after `fill`: each with what is expected."""
    name = _network(values)
    if name is None:
        return  # a name that is none is refused as such
    preset = PRESETS.get(name, {})
    address = values.get("asset.address")
    for other, theirs in PRESETS.items():
        if other != name and address is not None and _is(address, theirs["asset.address"]):
            wanted = f"write {preset['asset.address']}, or nothing" if preset else "write that of this network"
            yield "asset.address", f"an asset of {name}, and this is USDC on {other}: {wanted}"
            return
    if preset and _is(address, preset["asset.address"]):
        for setting in ASSET_SETTINGS[1:]:
            if values[setting] != preset[setting]:
                shown = f'"{preset[setting]}"' if isinstance(preset[setting], str) else preset[setting]
                yield setting, f"{shown}, which is what USDC has on {name}: write that, or nothing"
        return
    if address is not None and not _is_an_address(address):
        return  # refused as such; what goes with it cannot be said
    for setting in ASSET_SETTINGS:
        if setting not in values:
            yield setting, f"a value: only USDC on {' and '.join(PRESETS)} is known, so the asset has to be described"


def _network(values: Mapping[str, object]) -> str | None:
    """The named network, None where the name is none."""
    try:
        network = network_from_text(str(values.get("network.name", _DEFAULT_NETWORK)))
    except ValueError:
        return None
    return network.name or network.caip2


def _is_an_address(address: object) -> bool:
    try:
        return parse_address(str(address)) != ZERO_ADDRESS
    except ValueError:
        return False


def _is(address: object, usdc: object) -> bool:
    """Whether `address` is unset or `usdc`, in any letter case. Text that is no address is refused as such."""
    if address is None:
        return True
    try:
        return parse_address(str(address)) == parse_address(str(usdc))
    except ValueError:
        return False
