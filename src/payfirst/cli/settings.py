"""From the configuration to what the processes go by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from payfirst.chain.signers import Signer
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.local.postgres import embedded
from payfirst.pipeline.terms import Terms
from payfirst.pipeline.worker import Keys
from payfirst.store import migrate

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The TOML file. Default: PAYFIRST_CONFIG, then ./payfirst.toml.", exists=False),
]


class SchemaOutOfDate(OperatorError):
    """The database's tables are not those of this release."""


def terms(config: Config) -> Terms:
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


def keys(config: Config) -> Keys:
    """The workers' signers."""
    signers = config.worker_signers()
    return Keys(settle=Signer(signers.settle_key_bytes), mint=Signer(signers.mint_key_bytes))


@contextlib.contextmanager
def database(config: Config) -> Iterator[str]:
    """The URL of the configured database, or of the embedded one, which runs while it is used."""
    if config.database.url:
        yield config.database.url
        return
    with embedded(config.data_dir / "postgres") as url:
        yield url


def demand_current_schema(url: str) -> None:
    """Return if the tables are those of this release. Raises SchemaOutOfDate."""
    found = migrate.status(url)
    if found.is_current:
        return
    raise SchemaOutOfDate(
        f"the database is at {found.current or 'no revision'}, this release needs {found.head}:"
        " run `payfirst db upgrade` first"
    )
