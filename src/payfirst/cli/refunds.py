"""`payfirst refunds`: what buyers are given back of what could not be minted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from payfirst import config as configuration
from payfirst.cli import output, settings
from payfirst.cli.output import ActorOption, JsonOption
from payfirst.cli.settings import ConfigOption
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.store import audit_log, database, refund_list, refunds, treasuries
from payfirst.store.database import Connection
from payfirst.store.refund_list import ListedRefund
from payfirst.store.treasuries import TreasuryState
from payfirst.units import checksum_address, format_units, hex_text, utc_text

LISTED_MAX = 10_000
AT_ONCE_MAX = 1_000

T = TypeVar("T")

app = typer.Typer()
console = Console(highlight=False, soft_wrap=True)


class Shown(Enum):
    """How far a refund is; `owed` is a debt without one."""

    OWED = "owed"
    WAITING = "waiting"
    APPROVED = "approved"
    SENT = "sent"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    IMPOSSIBLE = "impossible"


_DONE = {Shown.WAITING: "approved", Shown.APPROVED: "is tried again now"}

IdsArgument = Annotated[list[uuid.UUID] | None, typer.Argument(help="Refunds, as list shows them.")]


@app.command("list")
def list_refunds(
    status: Annotated[Shown | None, typer.Option(help="Only those that are so far.")] = None,
    limit: Annotated[int, typer.Option(help="So many at the most, the newest first.", min=1, max=LISTED_MAX)] = 100,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """What is owed to buyers and how far its refund is: nothing needs doing but for what waits for an approval."""
    loaded = configuration.load(config, role="tool")
    network, asset = loaded.network.network.caip2, loaded.asset.address_bytes

    async def read(connection: Connection) -> tuple[list[ListedRefund], list[TreasuryState]]:
        wanted = None if status is None else status.value
        found = await refund_list.read(connection, network, status=wanted, limit=limit)
        return found, await treasuries.read(connection, network, asset)

    found, paid_from = _with_database(loaded, "list refunds", read)
    if as_json:
        typer.echo(json.dumps([_document(refund) for refund in found]))
        return
    table = Table("refund", "payment", "unit", f"amount ({loaded.asset.name})", "to", "status", "why")
    for refund in found:
        table.add_row(
            "" if refund.id is None else str(refund.id),
            "" if refund.payment_id is None else str(refund.payment_id),
            "all" if refund.unit is None else str(refund.unit),
            format_units(refund.amount, decimals=loaded.asset.decimals),
            checksum_address(refund.beneficiary),
            refund.status,
            escape(refund.why or (hex_text(refund.tx_hash) if refund.tx_hash is not None else "")),
        )
    console.print(table)
    for treasury in paid_from[:1]:
        balance = format_units(treasury.balance, decimals=loaded.asset.decimals)
        console.print(
            f"Treasury {checksum_address(treasury.address)}: {balance} {escape(loaded.asset.name)} at"
            f" {utc_text(treasury.seen_at)}{'' if treasury.held_reason is None else ', short of money'}"
        )
    if not paid_from:
        console.print("No worker with a treasury's key has run yet: what is owed stays owed")


@app.command()
def approve(
    ids: IdsArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Each one that waits, up to 1,000 at once.")] = False,
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Let waiting refunds be sent. From then on their units are not minted any more."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)

    async def act(connection: Connection, wanted: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        return await refunds.approve(connection, wanted, by=who)

    _change(loaded, ids or [], every=every, of=Shown.WAITING, action="approve", act=act, actor=who, as_json=as_json)


@app.command()
def retry(
    ids: IdsArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Each one that is approved, up to 1,000 at once.")] = False,
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Try approved refunds again now, once what held them is mended. No refund is ever paid twice by this."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)
    act = refunds.retry
    _change(loaded, ids or [], every=every, of=Shown.APPROVED, action="retry", act=act, actor=who, as_json=as_json)


def _change(
    loaded: Config,
    ids: Sequence[uuid.UUID],
    *,
    every: bool,
    of: Shown,
    action: str,
    act: Callable[[Connection, Sequence[uuid.UUID]], Awaitable[list[uuid.UUID]]],
    actor: str,
    as_json: bool,
) -> None:
    """Do it to those that are so far and note who did; the others are said with what they are instead."""
    if bool(ids) == every:
        raise OperatorError(f"name the refunds, or say --all: payfirst refunds list --status {of.value} shows them")
    if len(ids) > AT_ONCE_MAX:
        raise OperatorError(f"{len(ids)} refunds: {AT_ONCE_MAX} at once are taken")
    network = loaded.network.network.caip2

    async def run(connection: Connection) -> list[dict[str, object]]:
        wanted = list(dict.fromkeys(ids))
        if every:
            listed = await refund_list.read(connection, network, status=of.value, limit=AT_ONCE_MAX)
            wanted = [refund.id for refund in listed if refund.id is not None]
        before = await refund_list.status_of(connection, network, wanted)
        fit = [one for one in wanted if before.get(one) == of.value]
        done = set(await act(connection, fit))
        for one in done:
            await audit_log.record(connection, actor=actor, action=f"refunds.{action}", subject=str(one), details={})
        return [_outcome(one, before.get(one), done=one in done, of=of) for one in wanted]

    outcome = _with_database(loaded, f"{action} refunds", run)
    if as_json:
        typer.echo(json.dumps(outcome))
    else:
        for one in outcome:
            said = _DONE[of] if one["done"] else f"left alone: {one['why']}"
            console.print(f"{one['id']} {escape(said)}")
        if not outcome:
            console.print(f"No refund is {of.value}")
    if not all(one["done"] for one in outcome):
        raise typer.Exit(1)


def _outcome(refund: uuid.UUID, before: str | None, *, done: bool, of: Shown) -> dict[str, object]:
    why = None
    if not done and before is None:
        why = "there is no such refund on this network"
    elif not done and before != of.value:
        why = f"it is {before}, not {of.value}"
    elif not done:
        why = "its debt ended otherwise, or a reorg took what it rests on: look again with payfirst refunds list"
    return {"id": str(refund), "done": done, "before": before, "why": why}


def _document(refund: ListedRefund) -> dict[str, object]:
    return {
        "id": None if refund.id is None else str(refund.id),
        "status": refund.status,
        "paymentQueueId": None if refund.payment_id is None else str(refund.payment_id),
        "unit": refund.unit,
        "reason": refund.reason,
        "amount": str(refund.amount),
        "beneficiary": checksum_address(refund.beneficiary),
        "why": refund.why,
        "treasury": None if refund.treasury is None else checksum_address(refund.treasury),
        "txHash": None if refund.tx_hash is None else hex_text(refund.tx_hash),
        "approvedBy": refund.approved_by,
        "createdAt": utc_text(refund.created_at),
        "processedAt": None if refund.processed_at is None else utc_text(refund.processed_at),
    }


def _with_database(loaded: Config, doing: str, act: Callable[[Connection], Awaitable[T]]) -> T:
    """What `act` returns, done in one transaction."""

    async def run(url: str) -> T:
        pool = await database.connect(url, name="tool", size=1)
        async with pool, database.transaction(pool, doing) as connection:
            return await act(connection)

    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        return asyncio.run(run(url))
