"""The configured chain, for commands that ask it something and end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.ops import log


@contextlib.asynccontextmanager
async def connected(config: Config) -> AsyncIterator[RpcClient]:
    """Calls to the configured endpoints. Raises RpcUnavailable where none answers, OperatorError for another chain."""
    log.configure(config.log.format, "warning", stream=sys.stderr)  # what is printed is the command's answer
    wanted = config.network.network.chain_id
    async with RpcClient(config.network.rpc_urls, chain_id=wanted, lag_blocks_max=config.network.lag_blocks_max) as rpc:
        found = await rpc.chains()
        if wanted not in found:
            answers = [chain for chain in found if chain is not None]
            if not answers:
                raise RpcUnavailable("no RPC endpoint answers: check network.rpc_urls and that the node runs")
            raise OperatorError(
                f"the RPC endpoint serves chain {answers[0]}, network.name says {wanted}: correct network.rpc_urls"
            )
        yield rpc
