"""`payfirst tokens`: what is for sale."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.store import database, tokens
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, checksum_address, format_units, parse_address, parse_units

app = typer.Typer(help="What is for sale.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)


@app.command()
def add(
    address: Annotated[str, typer.Argument(help="The token's contract.")],
    price: Annotated[str, typer.Option(help="What one mint costs, in whole units of the asset, such as 0.01.")],
    config: ConfigOption = None,
) -> None:
    """Offer a token at a price, or change the price of one on offer. Workers read the rest from the chain."""
    loaded = configuration.load(config, role="tool")
    try:
        token = parse_address(address)
        amount = parse_units(price, decimals=loaded.asset.decimals)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    if amount == 0:
        raise OperatorError("the price is above zero: an authorization over nothing pays nobody")
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        asyncio.run(_add(url, loaded.network.network.caip2, token, amount))
    console.print(f"{checksum_address(token)} is offered at {price} {loaded.asset.name} a mint")


@app.command("list")
def list_tokens(config: ConfigOption = None) -> None:
    """The tokens on offer, with what is left of each."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        offered = asyncio.run(_read(url, loaded.network.network.caip2))
    table = Table("address", "symbol", f"price ({loaded.asset.name})", "minted", "reserved", "of", "state")
    for token in offered:
        table.add_row(
            checksum_address(token.address),
            token.symbol or "?",
            format_units(token.price, decimals=loaded.asset.decimals),
            str(token.minted),
            str(token.reserved),
            "?" if token.max_mint_count is None else str(token.max_mint_count),
            _state(token),
        )
    console.print(table)


def _state(token: Token) -> str:
    if token.held_reason is not None:
        return f"held: {token.held_reason}"
    if not token.active:
        return "paused"
    return "on offer" if token.synced_height is not None else "not read from the chain yet (is a worker running?)"


async def _add(url: str, network: str, token: Address, price: AtomicAmount) -> None:
    pool = await database.connect(url, name="tool", size=1)
    async with pool, database.session(pool, "offer a token") as connection:
        await tokens.add(connection, network, token, price=price)


async def _read(url: str, network: str) -> list[Token]:
    pool = await database.connect(url, name="tool", size=1)
    async with pool, database.session(pool, "read the tokens") as connection:
        return await tokens.read(connection, network)
