"""`payfirst payments`: look at payments, learn why one is late, and look after what is stuck."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer

from payfirst import config as configuration
from payfirst.cli import output, queue
from payfirst.cli.output import ActorOption, CsvOption, JsonOption, LimitOption, SinceOption
from payfirst.cli.settings import ConfigOption
from payfirst.config import Config, live
from payfirst.errors import OperatorError
from payfirst.lifecycle import PaymentStatus
from payfirst.ops.timeline import timeline
from payfirst.ops.why import Limits, Verdict, why
from payfirst.store import by_hand, queue_list, settings, story, wake
from payfirst.store.by_hand import Done
from payfirst.store.database import Connection, Pool, session
from payfirst.store.queue_list import NEWEST, Filter
from payfirst.store.queue_stats import STUCK_S
from payfirst.store.signers import Purpose
from payfirst.store.story import Story, Surroundings
from payfirst.units import AuthorizationNonce, TxHash, parse_address, parse_bytes32

# More payments than these under one hash or payer are listed, not told.
FOUND_MAX = 50

COLUMNS = (
    "id", "status", "finality", "payer", "token_address", "amount", "quantity", "recipient", "tx_hash", "code", "error",
    "held_reason", "attempts", "created_at", "processed_at",
)  # fmt: skip

app = typer.Typer()

IdsArgument = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of payments.")]
ReasonOption = Annotated[str, typer.Option(help="Why.")]


@app.command("list")
def list_payments(
    status: Annotated[PaymentStatus | None, typer.Option(help="Only payments of this status.")] = None,
    payer: Annotated[str | None, typer.Option(help="Only this payer's.")] = None,
    token: Annotated[str | None, typer.Option(help="Only for this token.")] = None,
    since: SinceOption = None,
    code: Annotated[str | None, typer.Option(help="Only with this error code, such as insufficient_funds.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only what an operator holds.")] = False,
    limit: LimitOption = 50,
    after: Annotated[str | None, typer.Option(help="Go on below this id, as the last page said.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every page; with --csv.")] = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """Payments, the newest first, a page at a time. What has been moved to the history is found by show."""
    loaded = configuration.load(config, role="tool")
    network = loaded.network.network.caip2
    want = Filter(
        source="held" if held else status.value if status is not None else "all",
        status=None if status is None else status.value,
        payer=output.address(payer),
        token=output.address(token),
        code=code,
        since=output.moment(since),
    )
    begin = NEWEST if after is None else output.uuid_of(after)
    if every:
        _demand_csv(as_csv)

        async def export(pool: Pool) -> None:
            async with session(pool, "export payments") as connection:
                pages = queue_list.every_page(connection, network, want, table="payments", after=begin)
                await queue.export(pages, COLUMNS)

        queue.with_pool(loaded, export)
        return

    async def read(pool: Pool) -> queue_list.Page:
        async with session(pool, "list payments") as connection:
            return await queue_list.payments(connection, network, want, after=begin, limit=limit)

    page = queue.with_pool(loaded, read)
    if as_json:
        output.print_json({"payments": [dict(row) for row in page.rows], "next": page.next})
    elif as_csv:
        output.CsvWriter(COLUMNS).write(dict(row) for row in page.rows)
    else:
        headings = ("id", "status", "units", "amount", "payer", "accepted (UTC)", "what")
        queue.show_page(page, headings, _cells)


def _demand_csv(as_csv: bool) -> None:
    if not as_csv:
        raise OperatorError("--all goes with --csv: a table or a JSON document of everything would not fit")


def _cells(row: Any) -> tuple[object, ...]:
    what = f"held: {row['held_reason']}" if row["held_reason"] else row["code"] or ""
    status = row["status"] if row["finality"] in ("open", "final") else f"{row['status']} ({row['finality']})"
    return (
        row["id"],
        status,
        row["quantity"],
        row["amount"],
        output.short_address(row["payer"]),
        f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
        what,
    )


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="ID", help="An id, a transaction hash, or a payer's address.")],
    nonce: Annotated[str | None, typer.Option(help="With a payer: the authorization's nonce.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """One payment's whole story, and in the last lines why it is where it is and what happens next."""
    loaded = configuration.load(config, role="tool")
    found = queue.with_pool(loaded, lambda pool: _find(pool, loaded, reference, nonce))
    if len(found) > 1:
        if as_json:
            output.print_json({"payments": [str(one.payment.id) for one, _ in found]})
        else:
            output.say(f"{len(found)} payments go by {reference}: name one by its id")
            _print_verdicts(found)
        return
    one, verdict = found[0]
    events = timeline(one, asset=loaded.asset.name, decimals=loaded.asset.decimals)
    if as_json:
        output.print_json({"story": one, "timeline": events, "verdict": verdict})
        return
    output.say(f"payment {one.payment.id}: {one.payment.status}")
    output.print_table(
        ("time (UTC)", "what"),
        [("now" if e.at is None else f"{e.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], e.what) for e in events],
    )
    output.say(f"{verdict.standing}: {verdict.why}.")
    output.say(f"next: {verdict.next}.")


async def _find(pool: Pool, loaded: Config, reference: str, nonce: str | None) -> list[tuple[Story, Verdict]]:
    async with session(pool, "look for a payment") as connection:
        ids = await _ids(connection, loaded, reference, nonce)
        stories = await story.read(connection, ids)
        if not stories:
            raise OperatorError(f"no payment goes by {reference} in this database")
        around = await _surroundings(connection, loaded, stories)
        now = live.overlay(loaded, await settings.read(connection)).config
    return [(one, why(one, around, _limits(now))) for one in stories]


async def _ids(connection: Connection, loaded: Config, reference: str, nonce: str | None) -> list[uuid.UUID]:
    network = loaded.network.network.caip2
    try:
        if len(reference) == 66:
            return await queue_list.ids_by_hash(connection, TxHash(parse_bytes32(reference)), limit=FOUND_MAX)
        if len(reference) == 42:
            payer = parse_address(reference)
            wanted = None if nonce is None else AuthorizationNonce(parse_bytes32(nonce))
            return await queue_list.ids_by_authorization(connection, network, payer, wanted, limit=FOUND_MAX)
        subject = uuid.UUID(reference)
    except ValueError:
        raise OperatorError(f"{reference!r} is no id, no transaction hash and no address") from None
    by_unit = await queue_list.id_by_unit(connection, subject)
    return [by_unit or subject]


async def _surroundings(connection: Connection, loaded: Config, stories: list[Story]) -> Surroundings:
    tokens = sorted({one.payment.token_address for one in stories})
    return await story.surroundings(connection, loaded.network.network.caip2, tokens)


def _limits(loaded: Config) -> Limits:
    paused: dict[Purpose, bool] = {"settle": loaded.pause.settling, "mint": loaded.pause.minting}
    return Limits(
        paused=frozenset(purpose for purpose, is_paused in paused.items() if is_paused),
        max_fee_wei=loaded.network.max_fee_wei,
        priority_fee_wei=loaded.network.priority_fee_wei,
        confirmations=loaded.network.confirmations,
        final_depth=loaded.network.final_depth,
        replace_after_s=loaded.network.replace_after_s,
        settle_unresolved_max=loaded.settle.unresolved_max,
        mint_unresolved_max=loaded.mint.unresolved_max,
    )


def _print_verdicts(found: list[tuple[Story, Verdict]]) -> None:
    output.print_table(
        ("id", "status", "why", "next"), [(one.payment.id, one.payment.status, v.why, v.next) for one, v in found]
    )


@app.command()
def stuck(
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """What has been `sent` for over five minutes, payments and units, the oldest first, and why."""
    loaded = configuration.load(config, role="tool")

    async def read(pool: Pool) -> list[tuple[Story, Verdict]]:
        async with session(pool, "look for stuck payments") as connection:
            ids = await _stuck_ids(connection, loaded, limit)
            stories = await story.read(connection, ids)
            around = await _surroundings(connection, loaded, stories)
            now = live.overlay(loaded, await settings.read(connection)).config
        return [(one, why(one, around, _limits(now))) for one in stories]

    found = queue.with_pool(loaded, read)
    rows = [
        {
            "id": one.payment.id,
            "status": one.payment.status,
            "payer": one.payment.payer,
            "processed_at": one.payment.processed_at,
            "standing": verdict.standing,
            "why": verdict.why,
            "next": verdict.next,
        }
        for one, verdict in found
    ]
    if as_json:
        output.print_json(rows)
    elif as_csv:
        output.CsvWriter(("id", "status", "payer", "processed_at", "standing", "why", "next")).write(rows)
    elif rows:
        _print_verdicts(found)
    else:
        output.say("nothing has been in `sent` for over five minutes")


async def _stuck_ids(connection: Connection, loaded: Config, limit: int) -> list[uuid.UUID]:
    network = loaded.network.network.caip2
    ids = await queue_list.stuck(connection, network, older_than_s=STUCK_S, limit=limit)
    ids += await queue_list.stuck_by_units(connection, network, older_than_s=STUCK_S, limit=limit)
    return list(dict.fromkeys(ids))[:limit]


@app.command("reset-stuck")
def reset_stuck(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Ids of payments.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Everything that has been `sent` for over five minutes.")
    ] = False,
    wait: Annotated[int, typer.Option(help="Seconds to wait for the workers' answer.", min=0, max=300)] = 10,
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the chain about what is stuck; send its bytes again, or have its fee raised. Never a second nonce.

    Uses network.rpc_urls. Needs no key: a replacement is made by the worker that holds the signer.
    """
    from payfirst.chain.rpc import RpcClient
    from payfirst.pipeline import reset

    loaded = configuration.load(config, role="tool")
    if bool(ids) == every:
        raise OperatorError("name the payments, or say --all")
    wanted = [output.uuid_of(text) for text in ids or ()]
    who = output.actor(actor)
    chain = reset.Chain(
        network=loaded.network.network.caip2,
        asset=loaded.asset.address_bytes,
        multicall3=loaded.network.multicall3_bytes,
        confirmations=loaded.network.confirmations,
    )

    async def act(pool: Pool) -> list[reset.Reset]:
        subjects = wanted
        if every:
            async with session(pool, "look for stuck payments") as connection:
                subjects = await _stuck_ids(connection, loaded, queue.IDS_MAX)
        if not subjects:
            return []
        async with RpcClient(loaded.network.rpc_urls, chain_id=loaded.network.network.chain_id) as rpc:
            return await reset.reset(pool, rpc, subjects, chain=chain, actor=who, wait_s=wait)

    done = queue.with_pool(loaded, act)
    if as_json:
        output.print_json(done)
        return
    if not done:
        output.say("nothing has been in `sent` for over five minutes")
    for one in done:
        output.say(f"{one.payment_id}")
        for label, lines in (("found", one.found), ("did", one.did or ["nothing"]), ("do", one.advice)):
            for line in dict.fromkeys(lines):
                output.say(f"  {label}: {line}")


@app.command()
def hold(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of payments or of units.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Send nothing more for a payment (or one unit) until it is released. What is out already may still be mined."""
    loaded, who, words = configuration.load(config, role="tool"), output.actor(actor), _reason(reason)

    async def act(connection: Connection, subject: uuid.UUID) -> Done:
        return await by_hand.hold(connection, subject, reason=words, actor=who)

    queue.each(loaded, [output.uuid_of(i) for i in ids], act, channel=None, as_json=as_json)


@app.command()
def release(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of payments or of units.")],
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """End a hold: it is due at once."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)

    async def act(connection: Connection, subject: uuid.UUID) -> Done:
        return await by_hand.release(connection, subject, actor=who)

    queue.each(loaded, [output.uuid_of(i) for i in ids], act, channel=wake.PAYMENTS, as_json=as_json)


@app.command()
def fail(
    ids: IdsArgument,
    reason: Annotated[str, typer.Option(help="Why; the buyer reads it.")],
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """End payments that were never sent. Their supply is given back; money that comes all the same is credited."""
    loaded, who, words = configuration.load(config, role="tool"), output.actor(actor), _reason(reason)

    async def act(connection: Connection, subject: uuid.UUID) -> Done:
        return await by_hand.fail(connection, subject, reason=words, actor=who)

    queue.each(loaded, [output.uuid_of(i) for i in ids], act, channel=wake.PAYMENTS, as_json=as_json)


def _reason(text: str) -> str:
    words = text.strip()
    if not words:
        raise OperatorError("--reason needs words")
    return words
