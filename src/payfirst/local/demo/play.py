"""The demo from the first step to the last."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from payfirst.errors import RetriedError
from payfirst.local.demo import bad, burst, checks, ledger, measure, official, report
from payfirst.local.demo.accounts import BURST_PAYERS, EMPTY_ACCOUNTS, people, person
from payfirst.local.demo.checks import Check
from payfirst.local.demo.folder import fresh_folder
from payfirst.local.demo.ledger import QueryResult
from payfirst.local.demo.measure import ApiStats
from payfirst.local.demo.outcome import Outcome
from payfirst.local.demo.programs import while_running
from payfirst.local.demo.report import BurstPace, Figures
from payfirst.local.demo.stage import Stage, free_port, open_stage
from payfirst.local.demo.view import View
from payfirst.local.demo.volley import Result
from payfirst.store.database import session

FOLDER = Path("payfirst-demo")
LOOK_S = 0.5
SETTLE_S_MAX = 120.0
STOPPED_EARLY = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    once: bool
    json: bool
    port: int


@dataclass(frozen=True, slots=True)
class Acts:
    """What the three acts brought home, and what the API measured before and after the last."""

    official: Outcome
    bad: Outcome
    burst: Outcome
    volley: Result
    before_burst: ApiStats
    after_burst: ApiStats

    @property
    def accepted(self) -> int:
        """202s to new payments."""
        return self.official.accepted + self.bad.accepted + self.burst.accepted

    @property
    def rejected(self) -> int:
        """4xx to payments."""
        return self.official.rejected + self.bad.rejected + self.burst.rejected


def run(options: Options) -> int:
    """Play it; returns the exit code: 0 if everything added up, 1 if not, 130 when stopped before that was known.

    Raises OperatorError when something cannot run here.
    """
    return asyncio.run(_until_stopped(options))


async def _until_stopped(options: Options) -> int:
    """Ctrl-C and SIGTERM end it in good order, wherever it is; asked twice, it does not hurry."""
    task = asyncio.ensure_future(_demo(options))
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return STOPPED_EARLY


async def _demo(options: Options) -> int:
    err = Console(stderr=True, highlight=False)
    with fresh_folder(FOLDER) as folder:
        async with contextlib.AsyncExitStack() as stack:
            with View(err) as view:
                view.step("the official x402 client")
                await asyncio.to_thread(official.load_client)
                port = free_port(options.port)
                if port != options.port:
                    view.note(f"Port {options.port} is taken: the demo serves on {port}.")
                stage = await stack.enter_async_context(open_stage(folder, port=port, say=view.step))
                figures = await while_running(stage.programs, _play(stage, view, options))
            if not options.once:
                # To be stopped is how serving ends.
                with contextlib.suppress(asyncio.CancelledError):
                    await while_running(stage.programs, _for_ever())
                err.print("Stopping")
    return 0 if figures.invariants_ok else 1


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _play(stage: Stage, view: View, options: Options) -> Figures:
    """The three acts, then what came of them: measured, judged, told."""
    async with _watched(stage, view):
        acts = await _acts(stage, view)
    view.step("database against chain")
    figures, pace, judged, found = await _judge(stage, acts)
    view.close()
    out = Console(file=sys.stdout, highlight=False)
    report.show(out, figures, pace, judged, found)
    if not options.once:
        report.show_what_to_try(out, stage, acts.official.paid[0].payment_id if acts.official.paid else None)
    if options.json:
        print(report.json_line(figures), flush=True)
    return figures


async def _acts(stage: Stage, view: View) -> Acts:
    view.step(f"(a) {official.PURCHASES} purchases with the official x402 client")
    bought = await official.buy_all(stage, progress=lambda n: view.detail(f"{n} minted"))
    view.step("(b) bad payments, replays, empty accounts")
    refused = await bad.try_all(stage, bought.paid)
    view.step(f"(c) {burst.PAYMENTS:,} payments: signing")
    volley = await burst.load(stage)
    try:
        before = await measure.api_stats(stage, accepted=bought.accepted + refused.accepted)
        view.step(f"(c) {burst.PAYMENTS:,} payments at {burst.CONNECTIONS} connections: accepted")
        fired = Outcome()
        result = await volley.fire(fired)
    finally:
        await volley.stop()
    view.step("(c) settled and minted")
    await measure.until_settled(stage, deadline_s=SETTLE_S_MAX)
    after = await measure.api_stats(stage, accepted=bought.accepted + refused.accepted + fired.accepted)
    return Acts(bought, refused, fired, result, before, after)


async def _judge(stage: Stage, acts: Acts) -> tuple[Figures, BurstPace, list[Check], list[QueryResult]]:
    bursters = [p.address for p in people("burst payer", BURST_PAYERS)]
    buyers = [p.address for p in official.people_who_buy()]
    empty = [p.address for p in bad.empty_accounts()]
    cheat = person("bad buyer").address
    database = await ledger.read_database(stage, bad=[cheat], empty=empty)
    chain = await ledger.read_chain(stage, holders=[*buyers, *bursters, *empty, cheat], bad_buyer=cheat)
    async with session(stage.pool, "read what was measured") as connection:
        found = await ledger.read_queries(connection)
        minted_s = await measure.minted_seconds(connection, buyers)
        gas = await measure.settle_gas(connection, bursters)
        settled_s, all_minted_s = await measure.burst_seconds(connection, bursters)
    judged = checks.judge(
        official=acts.official,
        bad=acts.bad,
        burst=acts.burst,
        refused_by_api=acts.after_burst.refused,
        empty_accounts=EMPTY_ACCOUNTS,
        database=database,
        chain=chain,
        queries=found,
    )
    accept = acts.after_burst.accept.subtract(acts.before_burst.accept)
    figures = Figures(
        accepted=acts.accepted,
        rejected=acts.rejected,
        failed=database.payments.get("failed", 0),
        settled=database.payments.get("completed", 0),
        minted=database.mints.get("completed", 0),
        owed=database.owed,
        accept_ms_p50=_ms(accept.percentile(50)),
        accept_ms_p99=_ms(accept.percentile(99)),
        minted_s_p50=round(measure.percentile(minted_s, 50), 3),
        minted_s_p99=round(measure.percentile(minted_s, 99), 3),
        gas_per_payment=round(gas.per_payment),
        transactions=sum(chain.account_nonces.values()),
        api_loop_stall_ms_max=round(acts.after_burst.loop_stall_ms_max, 1),
        invariants_ok=all(check.holds for check in judged),
    )
    pace = BurstPace(
        accepted_per_s=acts.burst.accepted / acts.volley.seconds if acts.volley.seconds else 0.0,
        settled_s=settled_s,
        minted_s=all_minted_s,
        payments=acts.burst.accepted,
        client_ms_p50=acts.volley.latency_ms_p50,
        client_ms_p99=acts.volley.latency_ms_p99,
    )
    return figures, pace, judged, found


@contextlib.asynccontextmanager
async def _watched(stage: Stage, view: View) -> AsyncIterator[None]:
    """Show the queues while the block runs."""

    async def look() -> None:
        while True:
            with contextlib.suppress(RetriedError):  # the next look is half a second away
                async with session(stage.pool, "count both queues") as connection:
                    view.show(await measure.counts(connection, stage.network))
            await asyncio.sleep(LOOK_S)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _ms(seconds: float | None) -> float:
    return 0.0 if seconds is None else round(1_000 * seconds, 2)
