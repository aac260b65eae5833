"""`payfirst work`: one worker process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

from payfirst import config as configuration
from payfirst.chain import keystores
from payfirst.chain.signers import Signer
from payfirst.cli import settings
from payfirst.config import live
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.pipeline import worker
from payfirst.pipeline.terms import LayOver, TakenUp, Terms
from payfirst.pipeline.worker import Keys
from payfirst.units import Address, checksum_address


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
        lay_over=lay_over(loaded),
        stop=stop,
    )


def terms(config: configuration.Config) -> Terms:
    """What the workers go by."""
    return Terms(
        network=config.network.network.caip2,
        chain_id=config.network.network.chain_id,
        asset=config.asset.address_bytes,
        asset_name=config.asset.name,
        asset_version=config.asset.version,
        pay_to=config.payments.pay_to_bytes,
        multicall3=config.network.multicall3_bytes,
        confirmations=config.network.confirmations,
        final_depth=config.network.final_depth,
        poll_s=config.network.poll_interval_ms / 1000,
        log_blocks_max=config.network.log_blocks_max,
        lag_blocks_max=config.network.lag_blocks_max,
        tx_gas_max=config.network.tx_gas_max,
        max_fee=config.network.max_fee_wei,
        priority_fee=config.network.priority_fee_wei,
        replace_after_s=config.network.replace_after_s,
        abandon_after_s=config.network.abandon_after_s,
        settle_mode=config.settle.mode,
        settle_batch_max=config.settle.batch_max,
        settle_unresolved_max=config.settle.unresolved_max,
        code_payer_gas_max=config.settle.code_payer_gas_max,
        quarantine_s=config.settle.quarantine_s,
        linger_s=config.settle.linger_ms / 1000,
        mint_batch_max=config.mint.batch_max,
        mint_unresolved_max=config.mint.unresolved_max,
        mint_gas_per_unit=config.mint.gas_per_unit,
        settling_paused=config.pause.settling,
        minting_paused=config.pause.minting,
        audit_every_s=config.network.audit_interval_s,
        large_amount=config.payments.large_atomic(config.asset.decimals),
        large_confirmations=config.network.large_confirmations,
        agree_amount=config.payments.agree_atomic(config.asset.decimals),
    )


def lay_over(config: configuration.Config) -> LayOver:
    """What a worker of this configuration goes by while the table of settings holds what it holds."""

    def laid_over(rows: Mapping[str, object]) -> TakenUp:
        found = live.overlay(config, rows)
        return TakenUp(terms(found.config), live.said_json(found))

    return laid_over


def keys(config: configuration.Config) -> Keys:
    """The workers' signers: the configured keys and the keystores, which take a second each to decrypt."""
    signers = config.worker_signers()
    passphrase = None if signers.passphrase is None else signers.passphrase.get_secret_value()
    found: dict[str, dict[Address, Signer]] = {"settle": {}, "mint": {}}
    for purpose, raw in (("settle", signers.settle_keys), ("mint", signers.mint_keys)):
        for key in raw:
            signer = Signer(key)
            found[purpose][signer.address] = signer
    for entry in keystores.find(config.signers_dir):
        if entry.address in found[entry.purpose]:
            continue
        found[entry.purpose][entry.address] = Signer(keystores.unlock(entry, passphrase))
    both = found["settle"].keys() & found["mint"].keys()
    if both:
        raise OperatorError(
            f"{checksum_address(next(iter(both)))} is to settle and to mint: give each purpose a key of its own,"
            " because an account's nonces have one owner"
        )
    for purpose, signers_of in found.items():
        if not signers_of:
            raise OperatorError(
                f"there is no {purpose} signer: run payfirst signers new --purpose {purpose}, or set"
                f" PAYFIRST_SIGNERS__{purpose.upper()}_KEY"
            )
    return Keys(settle=tuple(found["settle"].values()), mint=tuple(found["mint"].values()))
