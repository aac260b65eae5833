"""What is asked before a worker starts: is it the configured chain, and is the asset the configured one?"""

from __future__ import annotations

import asyncio

from payfirst.chain import contracts
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.chain.rpc_errors import Blame, blame
from payfirst.errors import OperatorError, RetriedError
from payfirst.ops.log import get_logger
from payfirst.pipeline.terms import Terms
from payfirst.x402.eip712 import DOMAIN_TEXT_BYTES_MAX, domain_separator

RETRY_S = 1.0

log = get_logger()


async def demand_configured_chain(rpc: RpcClient, terms: Terms) -> None:
    """Return when chain and asset are as configured; waits while no endpoint answers, because that may end.

    Raises OperatorError that says which setting to correct.
    """
    warned = False
    while True:
        try:
            await _demand_chain(rpc, terms)
            await _demand_domain(rpc, terms)
            await _demand_tags(rpc, terms)
            return
        except RetriedError as error:
            if not warned:
                log.warning("rpc_unavailable", message=f"RPC: waiting for an endpoint: {error}")
            warned = True
            await asyncio.sleep(RETRY_S)


async def _demand_chain(rpc: RpcClient, terms: Terms) -> None:
    found = await rpc.chains()
    if terms.chain_id in found:
        return
    if None in found:
        # One that is away may be the right one.
        raise RpcUnavailable(f"no endpoint of chain {terms.chain_id} answers")
    serves = " and ".join(map(str, dict.fromkeys(found)))
    raise OperatorError(
        f"the RPC endpoint serves chain {serves}, network.name says {terms.chain_id}: correct network.rpc_urls"
    )


async def _demand_tags(rpc: RpcClient, terms: Terms) -> None:
    """Nodes of chains without a consensus layer do not know `safe` and `finalized`."""
    for tag in {depth for depth in terms.depths if not isinstance(depth, int)}:
        try:
            await rpc.head(tag)
        except RpcRefused as refused:
            if blame(refused) is not Blame.CALL:
                raise
            raise OperatorError(
                f"the RPC endpoint knows no {tag} block ({refused}): write a number of blocks instead of"
                f' "{tag}" in [network]'
            ) from refused


async def _demand_domain(rpc: RpcClient, terms: Terms) -> None:
    """Payers sign under the asset's EIP-712 domain: with another name or version every payment would fail on chain."""
    theirs = await _view(rpc, terms, "DOMAIN_SEPARATOR()", ["bytes32"])
    if theirs is None:
        if await _view(rpc, terms, "decimals()", ["uint8"]) is None:
            raise OperatorError(
                f"there is no ERC-20 at asset.address on chain {terms.chain_id}: correct asset.address or network.name"
            )
        log.warning(
            "asset_domain_unknown",
            message="The asset has no DOMAIN_SEPARATOR: whether asset.name and asset.version are right shows only when"
            " a payment settles",
        )
        return
    if _separator(terms, terms.asset_name, terms.asset_version) == theirs[0]:
        return
    for name, version in await _said(rpc, terms):
        if _separator(terms, name, version) == theirs[0]:
            raise OperatorError(
                f'asset.name = "{terms.asset_name}" and asset.version = "{terms.asset_version}" are not the EIP-712'
                f' domain of the asset: write asset.name = "{name}" and asset.version = "{version}"'
            )
    raise OperatorError(
        f'asset.name = "{terms.asset_name}" and asset.version = "{terms.asset_version}" are not the EIP-712 domain of'
        " the asset, and it does not say which are: correct asset.name, asset.version or asset.address"
    )


def _separator(terms: Terms, name: str, version: str) -> bytes:
    return domain_separator(name=name, version=version, chain_id=terms.chain_id, contract=terms.asset)


async def _said(rpc: RpcClient, terms: Terms) -> list[tuple[str, str]]:
    """The names and versions that the asset gives of itself (EIP-5267, or ERC-20's name), likely first."""
    domain = await _view(
        rpc,
        terms,
        "eip712Domain()",
        ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"],
    )
    name = await _view(rpc, terms, "name()", ["string"])
    version = await _view(rpc, terms, "version()", ["string"])
    said = [] if domain is None else [(str(domain[1]), str(domain[2]))]
    if name is not None:
        # Without version() it is one of the two in use; what fits is found by the separator.
        said += [(str(name[0]), v) for v in ([str(version[0])] if version is not None else ["1", "2"])]
    return [
        (name, version)
        for name, version in said
        # A contract chooses these letters, and they are shown.
        if (name + version).isprintable() and len((name + version).encode()) <= DOMAIN_TEXT_BYTES_MAX
    ]


async def _view(rpc: RpcClient, terms: Terms, view: str, types: list[str]) -> tuple[object, ...] | None:
    """What a view of the asset returns; None where it has no such view."""
    try:
        data = await rpc.eth_call(to=terms.asset, data=contracts.encode_call(view))
        return tuple(contracts.decode_result(types, data))
    except RpcRefused as refused:
        if not refused.is_execution:
            raise
    except contracts.UndecodableAnswer:
        pass
    return None
