"""What counting costs: CPU of an accepted payment with metrics and without, by turns on one stage.

No setting turns counting off, because nobody needs one: so a second API process is started in which the counters'
methods do nothing. With metrics an exporter is scraped each second beside it, oftener than any Prometheus does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from benchmarks import cpu
from benchmarks.figures import Figure
from benchmarks.stage import Load, Shape, Stage, load, open_stage, until_answered
from payfirst.errors import OperatorError
from payfirst.local import children
from payfirst.local.demo.programs import running, while_running
from payfirst.local.demo.stage import HOST, free_port
from payfirst.ops import metrics as counters

CONNECTIONS = 64
SCRAPE_S = 1.0
LOOKS, CHUNK = 200, 100

# Python imports a module of this name at its start, in every process that has its folder in PYTHONPATH.
UNCOUNTED = """
from payfirst.ops import metrics
metrics.Counter.add = lambda self, *values, by=1: None
metrics.Histogram.observe = lambda self, value, *values: None
"""


@dataclass(frozen=True, slots=True)
class Beside:
    """An API that counts nothing, and an exporter of what the other one counts."""

    api: int  # process ids
    exporter: int
    api_port: int
    metrics_url: str


async def section(*, count: int, turns: int) -> dict[str, Any]:
    """CPU microseconds a payment of API, PostgreSQL and exporter, by `turns` of `count` payments each."""
    with_, without = [], []
    async with open_stage(Shape(settling=False)) as stage, load() as client, _beside(stage) as beside:
        shared = {"postgres": stage.roots["postgres"], "exporter": [beside.exporter]}
        for turn in range(-1, turns):  # the first is for warming up
            off = await _fired(stage, client, count, beside.api_port, {"api": [beside.api], **shared})
            scraping = asyncio.create_task(_scrape(beside.metrics_url))
            on = await _fired(stage, client, count, stage.config.server.port, {"api": stage.roots["api"], **shared})
            scraping.cancel()
            await asyncio.wait([scraping])
            if turn >= 0:
                with_.append(on)
                without.append(off)
    return {
        "cpu_us_with": {group: Figure.of([one[group] for one in with_]) for group in with_[0]},
        "cpu_us_without": {group: Figure.of([one[group] for one in without]) for group in without[0]},
        "difference_us": Figure.of([sum(a.values()) - sum(b.values()) for a, b in zip(with_, without, strict=True)]),
        "difference_api_us": Figure.of([a["api"] - b["api"] for a, b in zip(with_, without, strict=True)]),
        "counting_us": Figure.of([_counting_us() for _ in range(turns)]),
    }


async def _fired(stage: Stage, client: Load, count: int, port: int, roots: cpu.Groups) -> dict[str, float]:
    order = stage.order(count, connections=CONNECTIONS)
    order.shop.port = port
    await client.sign(order)
    before = cpu.by_group(roots)
    result = await client.fire()
    if result.statuses.get("202") != count:
        raise OperatorError(f"of {count} payments not all were accepted: {result.statuses}")
    after = cpu.by_group(roots)
    return {group: 1e6 * (after[group] - before[group]) / count for group in after}


async def _scrape(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(url) as answer:
                await answer.read()
            await asyncio.sleep(SCRAPE_S)


def _counting_us() -> float:
    """What the API counts for one accepted payment, alone: the best of many short looks."""
    best = float("inf")
    for _ in range(LOOKS):
        started = time.perf_counter()
        for _ in range(CHUNK):
            counters.HTTP_REQUESTS.add(counters.MINT_ROUTE, 202)
            counters.HTTP_SECONDS.observe(0.005, counters.MINT_ROUTE)
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / CHUNK


@contextlib.asynccontextmanager
async def _beside(stage: Stage) -> AsyncIterator[Beside]:
    folder = stage.folder / "uncounted"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(UNCOUNTED, encoding="utf-8")
    port, metrics_port = free_port(0), free_port(0)
    uncounted = {**stage.environment, "PYTHONPATH": str(folder), "PAYFIRST_SERVER__PORT": str(port)}
    counted = {**stage.environment, "PAYFIRST_METRICS__PORT": str(metrics_port)}
    programs = [replace(children.api(env=uncounted), name="uncounted"), children.metrics(env=counted)]
    url = f"http://{HOST}:{metrics_port}/metrics"
    async with running(programs, stage.folder) as started, aiohttp.ClientSession() as http:
        await while_running(started, until_answered(http, f"http://{HOST}:{port}/ready"))
        await while_running(started, until_answered(http, url))
        yield Beside(started[0].process.pid, started[1].process.pid, port, url)
