"""`payfirst signers`: the keys that settle, mint and refund."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from payfirst import config as configuration
from payfirst.chain import keystores
from payfirst.chain.rpc import RpcClient
from payfirst.cli import keys, output, settings
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.store import database, signers
from payfirst.store.database import Connection
from payfirst.store.signers import ListedSigner
from payfirst.units import Address, Wei, checksum_address, parse_address

PASSPHRASE_VARIABLE = "PAYFIRST_SIGNERS__PASSPHRASE"  # noqa: S105 - a name, no secret
PASSPHRASE_LENGTH_MIN = 8

T = TypeVar("T")

app = typer.Typer()
console = Console(highlight=False, soft_wrap=True)


class Purpose(Enum):
    """What a signer is for."""

    SETTLE = "settle"
    MINT = "mint"
    REFUND = "refund"
    TREASURY = "treasury"


PurposeOption = Annotated[Purpose, typer.Option(help="What it is for; a signer has one purpose.")]
AddressArgument = Annotated[str, typer.Argument(help="The signer's address.")]


@app.command()
def new(purpose: PurposeOption, config: ConfigOption = None) -> None:
    """Make a key and keep it encrypted in data_dir/signers."""
    loaded = configuration.load(config, role="tool")
    _keep(loaded, purpose, secrets.token_bytes(32))


@app.command("import")
def import_key(
    purpose: PurposeOption,
    key_file: Annotated[
        Path | None, typer.Option(help="A file with 0x and 64 hex digits, or a keystore. Without it you are asked.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Keep a key that you have, encrypted, in data_dir/signers."""
    loaded = configuration.load(config, role="tool")
    _keep(loaded, purpose, _key_of(key_file))


@app.command("list")
def list_signers(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False, config: ConfigOption = None
) -> None:
    """Every signer: what it is for, whether it works, what it has on its way, and its gas money as seen last."""
    loaded = configuration.load(config, role="tool")
    rows = [_row(s) for s in _with_database(loaded, signers.read_all)]
    known = {row["address"]: row for row in rows}
    for entry in keystores.find(loaded.signers_dir):
        name = checksum_address(entry.address)
        if name in known:
            known[name]["keystore"] = str(entry.path)
        else:
            rows.append(
                {
                    "address": name,
                    "purpose": entry.purpose,
                    "state": "no worker has used it yet",
                    "nextNonce": None,
                    "unresolved": 0,
                    "balanceWei": None,
                    "keystore": str(entry.path),
                }
            )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("address", "purpose", "state", "next nonce", "unresolved", "gas money")
    for row in rows:
        balance = row["balanceWei"]
        table.add_row(
            str(row["address"]),
            str(row["purpose"]),
            str(row["state"]),
            "" if row["nextNonce"] is None else str(row["nextNonce"]),
            str(row["unresolved"]),
            "?" if balance is None else _ether(Wei(int(str(balance)))),
        )
    output.show(table)


@app.command()
def pause(
    address: AddressArgument,
    reason: Annotated[str, typer.Option(help="Why; shown by list.")] = "paused by the operator",
    config: ConfigOption = None,
) -> None:
    """Let a signer sign nothing more; what it has sent is still watched, and the other signers go on."""
    loaded, signer = configuration.load(config, role="tool"), _address(address)
    for own in (signers.EMPTY, signers.FENCED):
        if reason.startswith(own):
            raise OperatorError(f"a reason that begins with {own!r} would end by itself: use other words")

    async def act(connection: Connection, network: str) -> bool:
        await _demand_registered(connection, network, signer)
        return await signers.pause(connection, network, signer, reason=reason)

    changed = _with_database(loaded, act)
    console.print(f"{checksum_address(signer)} {'is paused' if changed else 'was paused already'}")


@app.command()
def resume(address: AddressArgument, config: ConfigOption = None) -> None:
    """Let a paused signer go on."""
    loaded, signer = configuration.load(config, role="tool"), _address(address)

    async def act(connection: Connection, network: str) -> bool:
        await _demand_registered(connection, network, signer)
        if signer in await signers.fenced(connection, network):
            raise OperatorError(
                "the chain is ahead of the database for this signer: run payfirst audit --repair, a worker then ends"
                " the fence"
            )
        return await signers.resume(connection, network, signer)

    changed = _with_database(loaded, act)
    console.print(f"{checksum_address(signer)} {'goes on' if changed else 'was not paused'}")


@app.command()
def balance(
    address: Annotated[str | None, typer.Argument(help="One signer; all without it.")] = None,
    config: ConfigOption = None,
) -> None:
    """The signers' gas money, asked of the chain now."""
    loaded = configuration.load(config, role="tool")
    if address is not None:
        wanted = [_address(address)]
    else:
        registered = [s.address for s in _with_database(loaded, signers.read_all)]
        wanted = list(dict.fromkeys([*registered, *(k.address for k in keystores.find(loaded.signers_dir))]))
    if not wanted:
        raise OperatorError("there is no signer yet: run payfirst signers new --purpose settle, and --purpose mint")

    async def read() -> list[Wei]:
        async with RpcClient(loaded.network.rpc_urls) as rpc:
            return [await rpc.balance(signer) for signer in wanted]

    for signer, found in zip(wanted, asyncio.run(read()), strict=True):
        console.print(f"{checksum_address(signer)} {_ether(found)}")


def _keep(loaded: configuration.Config, purpose: Purpose, key: bytes) -> None:
    kept = keystores.write(loaded.signers_dir, purpose=purpose.value, key=key, passphrase=_passphrase())
    if purpose is Purpose.TREASURY:
        console.print(f"Refunds are paid from {checksum_address(kept.address)}; its key is in {kept.path}")
        console.print(
            "Keep a copy of that file and of its passphrase. Send the address the asset; it needs no gas money."
        )
        return
    console.print(f"{checksum_address(kept.address)} {purpose.value}s; its key is in {kept.path}")
    console.print("Keep a copy of that file and of its passphrase. Send the address gas money before it is used.")
    if purpose is Purpose.MINT:
        console.print("Each token must grant it MINTER_ROLE.")


def _passphrase() -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None:
        given = str(typer.prompt("Passphrase of the keystores", hide_input=True, confirmation_prompt=True))
    if len(given) < PASSPHRASE_LENGTH_MIN:
        raise OperatorError(f"a passphrase has at least {PASSPHRASE_LENGTH_MIN} characters ({PASSPHRASE_VARIABLE})")
    return given


def _key_of(path: Path | None) -> bytes:
    """The key in a file, or typed in."""
    if path is not None:
        return key_in(path)
    return keys.key_in_text(str(typer.prompt("Private key (0x and 64 hex digits)", hide_input=True)))


def key_in(path: Path) -> bytes:
    """The key in a file that only its owner may read: 0x and 64 hex digits, or a keystore. Raises OperatorError."""
    return keys.key_in_file(path, passphrase=lambda: str(typer.prompt(f"Passphrase of {path}", hide_input=True)))


def _row(signer: ListedSigner) -> dict[str, object]:
    state = signer.paused_reason or ("working" if signer.held else "no worker holds it")
    return {
        "address": checksum_address(signer.address),
        "purpose": signer.purpose,
        "state": f"paused: {state}" if signer.paused_reason else state,
        "nextNonce": signer.next_nonce,
        "unresolved": signer.unresolved,
        "balanceWei": None if signer.balance is None else str(signer.balance),
        "keystore": None,
    }


def _with_database(loaded: configuration.Config, act: Callable[[Connection, str], Awaitable[T]]) -> T:
    async def run(url: str) -> T:
        pool = await database.connect(url, name="tool", size=1)
        async with pool, database.transaction(pool, "look after the signers") as connection:
            return await act(connection, loaded.network.network.caip2)

    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        return asyncio.run(run(url))


async def _demand_registered(connection: Connection, network: str, signer: Address) -> None:
    if await signers.read(connection, network, signer) is None:
        raise OperatorError(f"no worker has used {checksum_address(signer)} yet: payfirst signers list shows all")


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise OperatorError(str(error)) from error


def _ether(amount: Wei) -> str:
    return f"{amount / 10**18:.6f} ether"
