"""What a transaction of ours was to do, read back from its calldata: the inverse of `contracts`' encoders. Pure."""

from __future__ import annotations

from payfirst.chain.abi import UndecodableAnswer, decode_result, selector
from payfirst.units import Address, AuthorizationNonce, MintId

_TRANSFER = selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)")
# A smart wallet's; payer and nonce stand in the same places.
_TRANSFER_WITH_BYTES = selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
_TRANSFER_BYTES = 4 + 8 * 32
# What settles several payments at once, and what did in earlier releases.
_BATCHES = {
    selector("tryAggregate(bool,(address,bytes)[])"): ["bool", "(address,bytes)[]"],
    selector("aggregate3((address,bool,bytes)[])"): ["(address,bool,bytes)[]"],
}
_BATCH_MINT = selector("batchMint(address[],bytes32[])")


def authorizations_in(
    to: Address | None, data: bytes, *, asset: Address, multicall3: Address
) -> list[tuple[Address, AuthorizationNonce]]:
    """Payer and nonce of each authorization that a transaction was to use, in order; empty for any other call."""
    calls = [(to, data)]
    batch = _BATCHES.get(data[:4]) if to == multicall3 else None
    if batch is not None:
        try:
            *_, found = decode_result(batch, data[4:])
        except UndecodableAnswer:
            return []
        calls = [(Address(bytes.fromhex(target[2:])), inner) for target, *_, inner in found]
    return [
        (Address(call[16:36]), AuthorizationNonce(call[164:196]))
        for target, call in calls
        if target == asset and call[:4] in (_TRANSFER, _TRANSFER_WITH_BYTES) and len(call) >= _TRANSFER_BYTES
    ]


def mint_ids_in(data: bytes) -> list[MintId]:
    """The ids that a batchMint was to mint, in order; empty for any other call."""
    if data[:4] != _BATCH_MINT:
        return []
    try:
        _, ids = decode_result(["address[]", "bytes32[]"], data[4:])
    except UndecodableAnswer:
        return []
    return [MintId(found) for found in ids]
