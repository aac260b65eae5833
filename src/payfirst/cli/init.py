"""`payfirst init`: a commented payfirst.toml from few answers, each checked as it is given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from payfirst import config as configuration
from payfirst.chain.rpc import RpcClient
from payfirst.config import DEFAULT_FILE, PRESETS, SETTINGS
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.units import checksum_address, parse_address
from payfirst.x402.networks import network_from_text

DEFAULT_NETWORK = "base-sepolia"
RPC_TIMEOUT_S = 5.0

Check = Callable[[str], str]

console = Console(highlight=False, soft_wrap=True)


class Unusable(OperatorError):
    """An answer that cannot be used; at a terminal it is asked for again."""


def init(
    path: Path | None, *, network: str | None, pay_to: str | None, rpc_urls: Sequence[str], minimal: bool, force: bool
) -> None:
    """Write the file, and say what comes next. Raises OperatorError with nothing written."""
    named = os.environ.get("PAYFIRST_CONFIG")
    target = path or (Path(named) if named else DEFAULT_FILE)
    if target.exists() and not force:
        raise OperatorError(f"{target} is there already: --force overwrites it, --config writes another file")
    given = {"--network": network, "--pay-to": pay_to, "--rpc-url": ",".join(rpc_urls) or None}
    missing = [flag for flag, answer in given.items() if answer is None]
    if missing and not minimal and not sys.stdin.isatty():
        raise OperatorError(
            f"there is nobody to ask: give {', '.join(missing)}, or --minimal for a file to be filled in later"
        )
    chosen: dict[str, object] = {}
    chosen["network.name"] = name = _answer(
        network, f"Network ({' or '.join(PRESETS)})", _known_network, default=DEFAULT_NETWORK, ask=not minimal
    )
    if pay_to is not None or not minimal:
        chosen["payments.pay_to"] = _answer(pay_to, "Where buyers pay to (an address of yours)", _pay_to)
    if rpc_urls or not minimal:
        local = SETTINGS["network.rpc_urls"].default[0]
        urls = _answer(
            given["--rpc-url"],
            "RPC URLs, the preferred one first, separated by commas",
            lambda text: _endpoints(text, name),
            default=local,
        )
        chosen["network.rpc_urls"] = _split(urls)
    to_do = [setting for setting in ("network.rpc_urls", "payments.pay_to") if setting not in chosen]
    _write(target, configuration.file_text(chosen, network=name, to_do=to_do), force=force)
    _say_what_is_next(target, to_do)


def _answer(given: str | None, question: str, check: Check, *, default: str | None = None, ask: bool = True) -> str:
    """What was given or is answered, checked; at a terminal an answer that cannot be used is asked for again."""
    if given is not None:
        return check(given)
    if not ask:
        return check(default or "")
    while True:
        try:
            return check(str(typer.prompt(question, default=default)))
        except Unusable as unusable:
            console.print(f"  {escape(str(unusable))}")


def _known_network(text: str) -> str:
    with contextlib.suppress(ValueError):
        name = network_from_text(text.strip()).name
        if name is not None and name in PRESETS:
            return name
    raise Unusable(
        f"{text.strip()[:64]!r}: {' and '.join(PRESETS)} are known by name. For another network copy"
        " payfirst.example.toml, and describe the asset in it (docs/networks.md)"
    )


def _pay_to(text: str) -> str:
    text = text.strip()
    expected = "an address: 0x and 40 hex digits" if not text else None
    expected = expected or configuration.expected_instead("payments.pay_to", text)
    if expected is not None:
        raise Unusable(f"payments.pay_to: expected {expected}")
    # Any letter case is taken, but mixed case is a checksum (EIP-55), and all the money goes there.
    correct = checksum_address(parse_address(text))
    if text[2:] not in (correct[2:], text[2:].lower(), text[2:].upper()):
        console.print(f"  [yellow]Look again:[/] {escape(text)} does not fit its checksum. If no digit is wrong, it is")
        console.print(f"  {correct}")
    return correct


def _endpoints(text: str, network: str) -> str:
    urls = _split(text)
    expected = configuration.expected_instead("network.rpc_urls", urls)
    if expected is not None:
        raise Unusable(f"network.rpc_urls: expected {expected}")
    wanted = network_from_text(network).chain_id
    for url, found in zip(urls, asyncio.run(_chains(urls)), strict=True):
        host = urlsplit(url).hostname  # the rest of the URL may be a secret
        if found is None:
            console.print(f"  [yellow]{host} does not answer now;[/] workers wait until it does")
        elif found != wanted:
            raise Unusable(f"{host} serves chain {found}, {network} is {wanted}")
    return text


async def _chains(urls: Sequence[str]) -> list[int | None]:
    log.configure("console", "error", stream=sys.stderr)  # what is found is said here
    async with RpcClient(urls, timeout_s=RPC_TIMEOUT_S) as rpc:
        return await rpc.chains()


def _split(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())


def _write(target: Path, text: str, *, force: bool) -> None:
    """Whole, and only if it loads; for its owner's eyes, because RPC URLs hold keys."""
    new = target.with_name(f".{target.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        configuration.load(new, role="tool", environ={})
        if force:
            new.replace(target)
        else:
            target.hardlink_to(new)  # fails if one was put there since
    except FileExistsError:
        raise OperatorError(f"{target} is there already: --force overwrites it") from None
    except OSError as error:
        raise OperatorError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def _say_what_is_next(target: Path, to_do: Sequence[str]) -> None:
    more = "" if target == DEFAULT_FILE else f" --config {target}"
    console.print(f"{escape(str(target))} is written, readable by you only.")
    if to_do:
        console.print(f"Fill in there: {', '.join(to_do)}")
    for line in (
        "Next:",
        f"  payfirst db upgrade{more}",
        f"  payfirst signers new --purpose settle{more}",
        f"  payfirst signers new --purpose mint{more}",
        "  send both addresses gas money",
        f"  payfirst tokens deploy --help, or payfirst tokens add 0xYourToken --price 0.01{more}",
        f"  payfirst up{more}",
    ):
        console.print(escape(line))
