"""`payfirst tokens`: what is for sale."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from payfirst import config as configuration
from payfirst.chain import deployment, token_check
from payfirst.chain.deployment import NewToken
from payfirst.chain.rpc import RpcClient
from payfirst.cli import chain, launching, offering, output, settings
from payfirst.cli.offering import Offered, address_given
from payfirst.cli.settings import ConfigOption
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.store import audit_log, database, tokens
from payfirst.store.database import Connection, Pool
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, checksum_address, format_units, hex_text, parse_units

DECIMALS = 18  # of MintToken

T = TypeVar("T")

app = typer.Typer()
console = Console(highlight=False, soft_wrap=True)

TokenArgument = Annotated[str, typer.Argument(help="The token's contract.")]
PriceOption = Annotated[str, typer.Option(help="What one mint costs, in whole units of the asset, such as 0.01.")]
MinterOption = Annotated[
    list[str] | None,
    typer.Option("--minter", help="A mint signer, as often as there are. Without it: all that are known here."),
]


@app.command()
def deploy(
    name: Annotated[str, typer.Option(help="The token's name.")],
    symbol: Annotated[str, typer.Option(help="Its symbol.")],
    mint_amount: Annotated[str, typer.Option(help="What one mint gives, in whole tokens, such as 100.")],
    max_mint_count: Annotated[int, typer.Option(help="How many mints there can ever be.", min=1)],
    price: PriceOption,
    owner: Annotated[str, typer.Option(help="Who may grant and revoke roles: an account of yours, no signer.")],
    minter: MinterOption = None,
    signer: Annotated[str | None, typer.Option(help="The mint signer that pays the deployment's gas.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Another account's key: a file with 0x and 64 hex digits, or a keystore.")
    ] = None,
    another: Annotated[bool, typer.Option("--another", help="Also if one of this name is on offer already.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Deploy the shipped MintToken with its roles, and offer it. The same words again deploy nothing twice."""
    loaded = configuration.load(config, role="tool")
    asked = _price(loaded, price)
    amount, admin = _mint_amount(mint_amount), address_given(owner)
    named = [address_given(m) for m in minter or []]
    chosen = None if signer is None else address_given(signer)

    async def run(pool: Pool, rpc: RpcClient) -> Offered:
        minters = await offering.mint_signers(loaded, pool, named=named)
        try:
            new = NewToken(name, symbol, amount, max_mint_count, admin, minters)
        except ValueError as error:
            raise OperatorError(str(error)) from error
        address = deployment.address(new)
        if await token_check.has_code(rpc, address):
            console.print(f"{checksum_address(address)} stands already")
        else:
            await _demand_no_namesake(loaded, pool, new, address, another=another)
            by = launching.deployer(loaded, chosen=chosen, key_file=key_file)
            cost = await launching.cost_for(loaded, rpc, new, by.signer.address)
            _show_plan(new, address, by, cost_most=launching.ether(cost.most))
            _ask(yes=yes)
            await launching.launch(loaded, pool, rpc, new, by=by, cost=cost, say=_say)
        return await offering.offer(loaded, pool, rpc, address, price=asked, minters=minters)

    _report(loaded, _on_chain(loaded, run), price)


@app.command()
def add(
    address: TokenArgument,
    price: PriceOption,
    minter: MinterOption = None,
    untried: Annotated[
        bool,
        typer.Option(
            "--untried",
            help="Read the contract and its roles only, without a trial of what a mint does: for endpoints that"
            " refuse eth_call with a state override. A token that mints twice is not found out then.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Offer a token that stands already, once the chain shows that it can be sold; it is on sale at once."""
    loaded = configuration.load(config, role="tool")
    asked, token = _price(loaded, price), address_given(address)
    named = [address_given(m) for m in minter or []]

    async def run(pool: Pool, rpc: RpcClient) -> Offered:
        minters = await offering.mint_signers(loaded, pool, named=named)
        return await offering.offer(loaded, pool, rpc, token, price=asked, minters=minters, try_a_mint=not untried)

    _report(loaded, _on_chain(loaded, run), price)


@app.command("list")
def list_tokens(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False, config: ConfigOption = None
) -> None:
    """The tokens on offer, with what is left of each."""
    loaded = configuration.load(config, role="tool")
    network = loaded.network.network.caip2
    offered = _with_database(loaded, "read the tokens", lambda connection: tokens.read(connection, network))
    if as_json:
        typer.echo(json.dumps([_document(loaded, token) for token in offered]))
        return
    table = Table("address", "symbol", f"price ({loaded.asset.name})", "minted", "reserved", "of", "state")
    for token in offered:
        table.add_row(
            checksum_address(token.address),
            escape(token.symbol or "?"),
            format_units(token.price, decimals=loaded.asset.decimals),
            str(token.minted),
            str(token.reserved),
            "?" if token.max_mint_count is None else str(token.max_mint_count),
            escape(_state(token)),
        )
    output.show(table)


@app.command()
def pause(address: TokenArgument, config: ConfigOption = None) -> None:
    """Sell no more of a token; what was accepted is settled and minted all the same."""
    changed = _change(config, address, action="token_paused", act=tokens.pause)
    console.print(f"{checksum_address(address_given(address))} {'is paused' if changed else 'was paused already'}")


@app.command()
def resume(address: TokenArgument, config: ConfigOption = None) -> None:
    """Sell a paused token again, or one that is held because it refused to mint."""
    changed = _change(config, address, action="token_resumed", act=tokens.resume)
    console.print(
        f"{checksum_address(address_given(address))} {'is on sale again' if changed else 'was neither paused nor held'}"
    )


@app.command("price")
def change_price(
    address: TokenArgument,
    price: Annotated[str, typer.Argument(help="What one mint costs from now on, in whole units of the asset.")],
    config: ConfigOption = None,
) -> None:
    """Ask another price. What was accepted keeps its own; who signed the old one is shown the new, and pays nothing."""
    loaded = configuration.load(config, role="tool")
    token, after = address_given(address), _price(loaded, price)
    network = loaded.network.network.caip2

    async def act(connection: Connection) -> AtomicAmount:
        before = (await offering.demand(connection, network, token)).price
        if before == after:
            return before
        if not await tokens.change_price(connection, network, token, before=before, after=after):
            raise OperatorError("the price was changed by someone else just now: look at payfirst tokens list")
        await audit_log.record(
            connection,
            actor=settings.operator(),
            action="token_price_changed",
            subject=hex_text(token),
            details={"network": network, "from": str(before), "to": str(after)},
        )
        return before

    before = _with_database(loaded, "change a price", act)
    was, now = (format_units(p, decimals=loaded.asset.decimals) for p in (before, after))
    said = f"costs {now} {loaded.asset.name} already" if before == after else f"costs {now} instead of {was} a mint"
    console.print(f"{checksum_address(token)} {said}")


@app.command()
def sync(
    address: Annotated[str | None, typer.Argument(help="One token; all without it.")] = None,
    config: ConfigOption = None,
) -> None:
    """Read supply, cap and amount from the chain now; workers do so every few seconds."""
    loaded = configuration.load(config, role="tool")
    wanted = None if address is None else address_given(address)

    async def run(pool: Pool, rpc: RpcClient) -> list[str]:
        network = loaded.network.network.caip2
        async with database.session(pool, "read the tokens") as connection:
            if wanted is not None:
                offered = [await offering.demand(connection, network, wanted)]
            else:
                offered = await tokens.read(connection, network)
        head = await rpc.head()
        unfit = []
        for token in offered:
            try:
                report = await token_check.read(rpc, token.address, at=head.number)
            except token_check.TokenUnfit as error:
                unfit.append(str(error))
                continue
            async with database.transaction(pool, "store what a token says") as connection:
                await tokens.sync_newer(connection, network, offering.facts_of(report), height=head.number)
            console.print(
                f"{checksum_address(token.address)} {escape(report.symbol)}: {report.minted} of"
                f" {report.max_mint_count} minted at block {head.number}, {_whole(report)} a mint"
            )
        return unfit

    unfit = _on_chain(loaded, run)
    if unfit:
        raise OperatorError("\n  ".join(unfit))


def _report(loaded: Config, offered: Offered, price: str) -> None:
    report, name = offered.report, checksum_address(offered.report.address)
    console.print(
        f"{name} {'is' if offered.is_new else 'was'} offered{'' if offered.is_new else ' already'} at"
        f" {price} {loaded.asset.name} a mint: {escape(report.name)} ({escape(report.symbol)}),"
        f" {_whole(report)} a mint, {report.max_mint_count - report.minted} of {report.max_mint_count} left"
    )
    if offered.is_paused:
        console.print(f"It is paused: payfirst tokens resume {name} puts it on sale")
    match report.used_ids:
        case "skipped" | "reverted":
            console.print(f"Tried: the mint signers may mint it; a used mint id is {report.used_ids} in a batch")
        case "untried":
            console.print("What a mint does was not tried; the mint signers have MINTER_ROLE as far as it says")


def _show_plan(new: NewToken, address: Address, by: launching.Deployer, *, cost_most: str) -> None:
    console.print(f"{escape(new.name)} ({escape(new.symbol)}) will stand at {checksum_address(address)}")
    console.print(
        f"  a mint      {format_units(AtomicAmount(new.mint_amount), decimals=DECIMALS)} {escape(new.symbol)}"
    )
    console.print(f"  mints       {new.max_mint_count} at most")
    console.print(f"  owner       {checksum_address(new.owner)}")
    for minter in new.minters:
        console.print(f"  may mint    {checksum_address(minter)}")
    console.print(f"  paid by     {checksum_address(by.signer.address)}, {cost_most} at most")


def _ask(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError("there is nobody to ask: add --yes to deploy this")
    typer.confirm("Deploy it?", abort=True)


def _say(line: str) -> None:
    console.print(f"  {line}")


async def _demand_no_namesake(loaded: Config, pool: Pool, new: NewToken, address: Address, *, another: bool) -> None:
    """Other minters or another owner make another address: by mistake it would be a second token."""
    async with database.session(pool, "read the tokens") as connection:
        offered = await tokens.read(connection, loaded.network.network.caip2)
    for token in offered:
        if not another and token.address != address and (token.name, token.symbol) == (new.name, new.symbol):
            raise OperatorError(
                f"{new.name} ({new.symbol}) is there already at {checksum_address(token.address)}, with other amounts,"
                " owner or mint signers than these: name those of then (--owner, --minter), or add --another"
            )


def _change(
    config: Path | None,
    address: str,
    *,
    action: str,
    act: Callable[[Connection, str, Address], Awaitable[bool]],
) -> bool:
    """Change a token's row, and write down who did it; False when there was nothing to change."""
    loaded, token = configuration.load(config, role="tool"), address_given(address)
    network = loaded.network.network.caip2

    async def run(connection: Connection) -> bool:
        await offering.demand(connection, network, token)
        changed = await act(connection, network, token)
        if changed:
            await audit_log.record(
                connection,
                actor=settings.operator(),
                action=action,
                subject=hex_text(token),
                details={"network": network},
            )
        return changed

    return _with_database(loaded, "look after the tokens", run)


def _with_database(loaded: Config, doing: str, act: Callable[[Connection], Awaitable[T]]) -> T:
    """What `act` returns, done in one transaction."""

    async def run(url: str) -> T:
        pool = await database.connect(url, name="tool", size=1)
        async with pool, database.transaction(pool, doing) as connection:
            return await act(connection)

    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        return asyncio.run(run(url))


def _on_chain(loaded: Config, act: Callable[[Pool, RpcClient], Awaitable[T]]) -> T:
    """What `act` returns, with the database and the chain at hand; no transaction spans a call to the chain."""

    async def run(url: str) -> T:
        async with chain.connected(loaded) as rpc, await database.connect(url, name="tool", size=2) as pool:
            return await act(pool, rpc)

    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        return asyncio.run(run(url))


def _price(loaded: Config, text: str) -> AtomicAmount:
    try:
        amount = parse_units(text, decimals=loaded.asset.decimals)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    if amount == 0:
        raise OperatorError("the price is above zero: an authorization over nothing pays nobody")
    return amount


def _mint_amount(text: str) -> int:
    try:
        return parse_units(text, decimals=DECIMALS)
    except ValueError as error:
        raise OperatorError(f"the mint amount: {error}") from error


def _whole(report: token_check.TokenReport) -> str:
    return format_units(AtomicAmount(report.mint_amount), decimals=report.decimals)


def _document(loaded: Config, token: Token) -> dict[str, object]:
    """Amounts are decimal strings in atomic units, as in GET /api/tokens; counts are numbers of mints."""
    return {
        "address": checksum_address(token.address),
        "name": token.name,
        "symbol": token.symbol,
        "price": str(token.price),
        "asset": checksum_address(loaded.asset.address_bytes),
        "network": loaded.network.network.caip2,
        "mintAmount": None if token.mint_amount is None else str(token.mint_amount),
        "maxMintCount": token.max_mint_count,
        "minted": token.minted,
        "reserved": token.reserved,
        "active": token.active,
        "heldReason": token.held_reason,
        "syncedHeight": token.synced_height,
        "syncedAgeSeconds": None if token.synced_age_s is None else round(token.synced_age_s, 3),
    }


def _state(token: Token) -> str:
    if token.held_reason is not None:
        return f"held: {token.held_reason}" if token.active else f"paused, and held: {token.held_reason}"
    if not token.active:
        return "paused"
    return "on offer" if token.synced_height is not None else "not read from the chain yet (payfirst tokens sync)"
