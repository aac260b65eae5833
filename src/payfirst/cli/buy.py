"""`payfirst buy`: a purchase from an order to minted units, and the ones that were cut off."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from payfirst.errors import OperatorError, PayfirstError
from payfirst.units import Address, checksum_address, parse_address
from payfirst.x402.networks import network_from_text

if TYPE_CHECKING:
    from payfirst.client import AllowedAsset, Buyer, Order

KEY_VARIABLE = "PAYFIRST_BUYER_KEY"
PASSPHRASE_VARIABLE = "PAYFIRST_BUYER_PASSPHRASE"  # noqa: S105 - a name, no secret
SERVER = "http://127.0.0.1:4021"
DECIMALS_MAX = 36

# 2 is every error before anything is signed. Of several purchases the highest counts.
EXIT_CODES = {"minted": 0, "refused": 1, "failed": 1, "unknown": 3, "owed": 4}
INTERRUPTED = 130


def buy(
    what: Annotated[
        str | None, typer.Argument(help="A token's address, or the URL of its mint route.", show_default=False)
    ] = None,
    quantity: Annotated[int, typer.Option("--quantity", "-n", help="Units.", min=1)] = 1,
    recipient: Annotated[str | None, typer.Option(help="Who gets the units. Default: who pays.")] = None,
    max_total: Annotated[str, typer.Option(help="Pay no more than this, in whole units of the asset.")] = "1.00",
    pay_to: Annotated[str | None, typer.Option(help="Pay nobody but this address.")] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Pay on this network only; may be given again. Default: any known one.")
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option(help="Pay with this asset too: NETWORK/ADDRESS/DECIMALS. Default: USDC on Base, Base Sepolia."),
    ] = None,
    server: Annotated[str, typer.Option(help="The seller, where a token's address is given.")] = SERVER,
    key_file: Annotated[
        Path | None,
        typer.Option(help=f"Hex digits or a keystore, mode 0600. Without it: {KEY_VARIABLE}, or you are asked."),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where purchases are kept. Default: ~/.local/state/payfirst/purchases.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Your name for this purchase: used again it goes on, and pays nothing twice.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with all that is unfinished. No key is needed.")
    ] = False,
    patience: Annotated[float, typer.Option(help="Follow a purchase for so many seconds at most.", min=1)] = 1_200,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Buy over http from another machine, where others may interfere.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object a purchase.")] = False,
) -> None:
    """Buy units of a token: pay once, and see them minted. Exit code 0 only if they all are."""
    from payfirst.client import Buyer, Limits

    folder = state_dir or _default_folder()
    if resume:
        if what is not None:
            raise OperatorError("--resume goes on with everything unfinished: leave the token out")
        sys.exit(_run(Buyer(None, folder=folder, patience_s=patience), None, None, as_json=as_json))
    if what is None:
        raise OperatorError("what is to be bought? Give a token's address or a mint route's URL, or --resume")
    order = _order(what, server, quantity, recipient)
    limits = Limits(
        max_total=max_total,
        assets=_assets(network or [], asset or []),
        pay_to=None if pay_to is None else _address(pay_to),
        plain_http=plain_http,
    )
    try:
        buyer = Buyer(_key(key_file), folder=folder, limits=limits, patience_s=patience)
    except ValueError:
        raise OperatorError("that is no private key: it is zero, or not below the order of the curve") from None
    sys.exit(_run(buyer, order, reference, as_json=as_json))


def _run(buyer: Buyer, order: Order | None, reference: str | None, *, as_json: bool) -> int:
    """The exit code. Raises PayfirstError where nothing was signed."""
    from payfirst.cli.buy_view import View
    from payfirst.client import StillUnderWay

    view = View(as_json=as_json, many=order is None)

    async def follow() -> None:
        async with buyer:
            async for step in buyer.resume() if order is None else buyer.buy(order, reference=reference):
                view.show(step)

    with view:
        try:
            asyncio.run(follow())
        except KeyboardInterrupt:
            view.interrupted()
            return INTERRUPTED
        except StillUnderWay as error:
            view.still_under_way(error)
        except PayfirstError as error:
            view.nothing_signed(error)
            raise
    return max((EXIT_CODES[outcome] for outcome in view.outcomes), default=0)


def _order(what: str, server: str, quantity: int, recipient: str | None) -> Order:
    from payfirst.client import Order
    from payfirst.client.order import token_of

    to = None if recipient is None else _address(recipient)
    if "://" in what:
        return Order.at(what, quantity=quantity, recipient=to)
    return Order(base_url=server.rstrip("/"), token=token_of(what), quantity=quantity, recipient=to)


def _assets(networks: list[str], more: list[str]) -> tuple[AllowedAsset, ...]:
    """The well-known assets and those that were named, on the networks that were named."""
    from payfirst.client import AllowedAsset
    from payfirst.client.limits import KNOWN

    named = []
    for text in more:
        try:
            network, address, decimals = text.split("/")
            if not decimals.isdecimal() or int(decimals) > DECIMALS_MAX:
                raise ValueError(f"{decimals!r} is no number of decimals")
            named.append(
                AllowedAsset(network=network_from_text(network), address=parse_address(address), decimals=int(decimals))
            )
        except ValueError as error:
            raise OperatorError(
                f"--asset is NETWORK/ADDRESS/DECIMALS, such as base/0x…/6, not {text!r}: {error}"
            ) from None
    try:
        allowed = {network_from_text(name) for name in networks}
    except ValueError as error:
        raise OperatorError(str(error)) from None
    chosen = tuple(one for one in (*KNOWN, *named) if not allowed or one.network in allowed)
    if not chosen:
        raise OperatorError("no asset is known on that network: name one with --asset NETWORK/ADDRESS/DECIMALS")
    return chosen


def _address(text: str) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    # Whoever copied mixed case has copied a checksum: a slip in it would send the units to nobody.
    if text[2:] not in (text[2:].lower(), text[2:].upper()) and text[2:] != checksum_address(address)[2:]:
        raise OperatorError(f"{text} has a wrong checksum (EIP-55): is a character of it wrong?")
    return address


def _key(path: Path | None) -> bytes:
    from payfirst.cli import keys

    if path is not None:
        return keys.key_in_file(path, passphrase=lambda: _passphrase(path))
    given = os.environ.get(KEY_VARIABLE)
    if given is not None:
        return keys.key_in_text(given)
    if not sys.stdin.isatty():
        raise OperatorError(f"there is no key to pay with: give --key-file, or set {KEY_VARIABLE}")
    return keys.key_in_text(str(typer.prompt("Private key of the buyer (0x and 64 hex digits)", hide_input=True)))


def _passphrase(path: Path) -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    return given if given is not None else str(typer.prompt(f"Passphrase of {path}", hide_input=True))


def _default_folder() -> Path:
    """As the XDG Base Directory Specification has it for what a program must not lose between two runs."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "payfirst" / "purchases"
