"""`payfirst audit`: does the database say what the chain says?"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from payfirst import config as configuration
from payfirst.chain.rpc import RpcClient
from payfirst.cli import settings, work
from payfirst.errors import OperatorError
from payfirst.pipeline.audit import Auditor
from payfirst.pipeline.audit_kinds import KINDS, Finding, Level, exit_code
from payfirst.pipeline.audit_plan import Period
from payfirst.pipeline.configured import demand_configured_chain
from payfirst.pipeline.recredit import Recrediter
from payfirst.pipeline.terms import Terms
from payfirst.store import database, heads
from payfirst.store.database import Pool, session
from payfirst.store.wake import ChangeNotifier
from payfirst.units import BlockNumber, UnixTime

ACTOR = "payfirst audit --repair"
DEFAULT_SINCE = "1h"
SHOWN_MAX = 50
RPC_PATIENCE_S = 15.0
# A worker that lives writes every second when it saw the chain; a time this old was written by none that lives.
SILENT_S = 30.0
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be compared."""

    first: int | None
    last: int | None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Audited:
    """The blocks that were compared (None: none of those asked for has been read yet), and what differed."""

    period: Period | None
    findings: Sequence[Finding]


def audit(config: Path | None, asked: Asked, *, repair: bool, as_json: bool) -> int:
    """Compare, print, and return the exit code."""
    if asked.since is not None and (asked.first, asked.last) != (None, None):
        raise OperatorError("give --since, or --from-block and --to-block, not both")
    seconds = seconds_of(asked.since or DEFAULT_SINCE)
    loaded = configuration.load(config, role="tool")
    terms = work.terms(loaded)
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        found = asyncio.run(compare(terms, loaded.network.rpc_urls, url, asked, seconds=seconds, repair=repair))
    code = exit_code(found.findings, repaired=repair)
    if as_json:
        typer.echo(json.dumps(document(found, repaired=repair, code=code)))
    else:
        _show(found, repaired=repair, code=code)
    return code


def seconds_of(text: str) -> int:
    """`90s`, `30m`, `1h` or `2d` in seconds. Raises OperatorError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text.strip())
    if match is None:
        raise OperatorError(f"--since is a number and s, m, h or d, such as 1h, not {text[:40]!r}")
    return int(match.group(1)) * _SECONDS[match.group(2)]


async def compare(
    terms: Terms, rpc_urls: Sequence[str], url: str, asked: Asked, *, seconds: int, repair: bool
) -> Audited:
    """Compare what is asked for, by default the last `seconds`. Raises OperatorError or RetriedError."""
    pool = await database.connect(url, name="tool", size=2)
    async with pool, RpcClient(rpc_urls, chain_id=terms.chain_id, log_blocks_max=terms.log_blocks_max) as rpc:
        try:
            await asyncio.wait_for(demand_configured_chain(rpc, terms), RPC_PATIENCE_S)
        except TimeoutError:
            raise OperatorError("no RPC endpoint answers: check network.rpc_urls") from None
        async with session(pool, "look whether the chain is followed") as connection:
            if await heads.audited(connection, terms.network) is None:
                raise OperatorError("no worker has read this chain yet, so there is nothing to compare")
        changes = ChangeNotifier(pool)
        auditor = Auditor(
            pool, rpc, terms=terms, recrediter=Recrediter(pool, rpc, terms=terms), on_changed=changes.changed
        )
        first = asked.first
        if first is None and asked.last is None:
            first = await block_at(rpc, seconds_ago=seconds)
        elif first is None:
            first = asked.last
        period = await auditor.period(
            first=None if first is None else BlockNumber(first),
            last=None if asked.last is None else BlockNumber(asked.last),
        )
        start = None if first is None else BlockNumber(first)
        findings = await auditor.nonces(first=start, repair=repair, actor=ACTOR, cut=await _cut(pool, terms))
        if period is not None:
            findings += await auditor.compare(period, repair=repair, actor=ACTOR, thorough=True)
        return Audited(period, findings)


async def _cut(pool: Pool, terms: Terms) -> dt.datetime | None:
    """Up to when rows are older than any loss: when a worker last lived, if none lives now (`Auditor.fence_lost`)."""
    async with session(pool, "read when a worker last saw the chain") as connection:
        seen = await heads.seen_at(connection, terms.network)
        now: dt.datetime = await connection.fetchval("SELECT now()")
    return seen if seen is not None and (now - seen).total_seconds() > SILENT_S else None


async def block_at(rpc: RpcClient, *, seconds_ago: int) -> BlockNumber:
    """The first block that is at most so many seconds older than the head, by the blocks' own times."""
    head = await rpc.head()
    wanted = UnixTime(head.time - seconds_ago)
    low, high = 0, int(head.number)
    while low < high:
        middle = (low + high) // 2
        found = await rpc.blocks(BlockNumber(middle), BlockNumber(middle))
        if found and found[0].head.time >= wanted:
            high = middle
        else:
            low = middle + 1
    return BlockNumber(low)


def document(found: Audited, *, repaired: bool, code: int) -> dict[str, object]:
    """What --json prints."""
    period = found.period
    return {
        "period": None if period is None else {"first": period.first, "last": period.last, "final": period.final},
        "repaired": repaired,
        "exitCode": code,
        "findings": [
            {
                "kind": f.kind.value,
                "level": f.level.name.lower(),
                "subject": f.subject,
                "detail": f.sentence,
                "block": f.height,
                "meaning": KINDS[f.kind].meaning,
                "remedy": KINDS[f.kind].remedy,
            }
            for f in found.findings
        ],
    }


def _show(found: Audited, *, repaired: bool, code: int) -> None:
    period = found.period
    if period is None:
        console.print("No block of that period has been read by a worker yet; signers and counts were compared.")
    else:
        console.print(f"Blocks {period.first} to {period.last} (final up to {max(0, period.final)})")
    for kind in dict.fromkeys(f.kind for f in sorted(found.findings, key=lambda f: -f.level.value)):
        of_kind = [f for f in found.findings if f.kind is kind]
        meaning = KINDS[kind]
        console.print(f"\n[bold]{len(of_kind)} × {kind.value}[/]: {escape(meaning.meaning)}")
        console.print(f"  {_who(meaning.level, repaired=repaired)}: {escape(meaning.remedy)}")
        for finding in of_kind[:SHOWN_MAX]:
            place = "" if finding.height is None else f" (block {finding.height})"
            console.print(f"  {escape(finding.subject)}: {escape(finding.sentence)}{place}")
        if len(of_kind) > SHOWN_MAX:
            console.print(f"  and {len(of_kind) - SHOWN_MAX} more: --json shows all")
    if not found.findings:
        console.print("Database and chain agree.")
    elif code == 0:
        console.print("\nDatabase and chain agree now." if repaired else "\nDatabase and chain agree.")


def _who(level: Level, *, repaired: bool) -> str:
    if level is Level.REPAIR:
        return "done" if repaired else "--repair"
    return {Level.OPERATOR: "an operator has to look", Level.LATER: "later", Level.NOTE: "note"}[level]
