"""`payfirst work`: one worker process."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Mapping
from pathlib import Path

from payfirst import config as configuration
from payfirst.chain import keystores
from payfirst.chain.signers import Signer, Treasury
from payfirst.cli import settings
from payfirst.config import live
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.ops.event_loop import new_event_loop
from payfirst.ops.latency import keep_collections_short
from payfirst.pipeline import worker
from payfirst.pipeline.terms import LayOver, TakenUp, Terms
from payfirst.pipeline.worker import Keys, RefundKeys
from payfirst.units import Address, AtomicAmount, checksum_address, parse_units

_WORK = {"settle": "to settle", "mint": "to mint", "refund": "to send refunds", "treasury": "to pay refunds from"}


def work(config: Path | None) -> None:
    """Settle, confirm and mint until stopped by SIGTERM or Ctrl-C. This is the process that holds the keys."""
    loaded = configuration.load(config, role="worker")
    log.configure(loaded.log.format, loaded.log.level)
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_work(loaded, url))


async def _work(loaded: configuration.Config, url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    keep_collections_short()
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
        refund_mode=config.refunds.mode,
        refund_amount_max=_atomic(config, "refunds.amount_max", config.refunds.amount_max),
        refund_daily_max=_atomic(config, "refunds.daily_max", config.refunds.daily_max),
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
    raw = {
        "settle": signers.settle_keys,
        "mint": signers.mint_keys,
        "refund": signers.refund_keys,
        "treasury": signers.treasury_keys,
    }
    found: dict[str, dict[Address, bytes]] = {
        purpose: {Signer(key).address: key for key in of_it} for purpose, of_it in raw.items()
    }
    for entry in keystores.find(config.signers_dir):
        if entry.address not in found[entry.purpose]:
            found[entry.purpose][entry.address] = keystores.unlock(entry, passphrase)
    for one, other in itertools.combinations(found, 2):
        both = found[one].keys() & found[other].keys()
        if both:
            raise OperatorError(
                f"{checksum_address(next(iter(both)))} is both {_WORK[one]} and {_WORK[other]}: give each purpose a key"
                " of its own, because an account's nonces have one owner"
            )
    for purpose in ("settle", "mint"):
        if not found[purpose]:
            raise OperatorError(_missing(purpose))
    return Keys(
        settle=tuple(Signer(key) for key in found["settle"].values()),
        mint=tuple(Signer(key) for key in found["mint"].values()),
        refund=_refund_keys(found["refund"], found["treasury"]),
    )


def _refund_keys(signers: Mapping[Address, bytes], treasuries: Mapping[Address, bytes]) -> RefundKeys | None:
    """Both or neither: a treasury without a signer cannot send, a signer without a treasury has nothing to."""
    if not treasuries and not signers:
        return None
    if len(treasuries) > 1:
        raise OperatorError(
            f"refunds have one treasury, there are {len(treasuries)}: keep one of"
            f" {', '.join(map(checksum_address, treasuries))}"
        )
    for purpose, known in (("treasury", treasuries), ("refund", signers)):
        if not known:
            raise OperatorError(_missing(purpose))
    (treasury,) = treasuries.values()
    return RefundKeys(treasury=Treasury(treasury), signers=tuple(Signer(key) for key in signers.values()))


def _missing(purpose: str) -> str:
    return (
        f"there is no key {_WORK[purpose]}: run payfirst signers new --purpose {purpose}, or set"
        f" PAYFIRST_SIGNERS__{purpose.upper()}_KEY"
    )


def _atomic(config: configuration.Config, setting: str, text: str) -> AtomicAmount | None:
    if not text:
        return None
    try:
        return parse_units(text, decimals=config.asset.decimals)
    except ValueError as error:
        raise OperatorError(f"{setting}: {error}") from error
