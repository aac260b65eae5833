"""`payfirst work`: one worker process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from payfirst import config as configuration
from payfirst.chain.signers import Signer
from payfirst.cli import settings
from payfirst.ops import log
from payfirst.pipeline import worker
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.worker import Keys


def work(config: Path | None) -> None:
    """Settle, confirm and mint until stopped by SIGTERM or Ctrl-C. This is the process that holds the keys."""
    loaded = configuration.load(config, role="worker")
    log.configure(loaded.log.format, loaded.log.level)
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        asyncio.run(_work(loaded, url))


async def _work(loaded: configuration.Config, url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    await worker.work(
        database_url=url,
        rpc_urls=loaded.network.rpc_urls,
        terms=terms(loaded),
        keys=keys(loaded),
        stop=stop,
    )


def terms(config: configuration.Config) -> Terms:
    """What the workers go by."""
    return Terms(
        network=config.network.network.caip2,
        chain_id=config.network.network.chain_id,
        asset=config.asset.address_bytes,
        pay_to=config.payments.pay_to_bytes,
        multicall3=config.network.multicall3_bytes,
        confirmations=config.network.confirmations,
        final_depth=config.network.final_depth,
        poll_s=config.network.poll_interval_ms / 1000,
        tx_gas_max=config.network.tx_gas_max,
        max_fee=config.network.max_fee_wei,
        priority_fee=config.network.priority_fee_wei,
        settle_mode=config.settle.mode,
        settle_batch_max=config.settle.batch_max,
        settle_unresolved_max=config.settle.unresolved_max,
        linger_s=config.settle.linger_ms / 1000,
        mint_batch_max=config.mint.batch_max,
        mint_unresolved_max=config.mint.unresolved_max,
        mint_gas_per_unit=config.mint.gas_per_unit,
    )


def keys(config: configuration.Config) -> Keys:
    """The workers' signers."""
    signers = config.worker_signers()
    return Keys(settle=Signer(signers.settle_key_bytes), mint=Signer(signers.mint_key_bytes))
