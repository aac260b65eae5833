"""What bad requests cost: CPU of each kind beside a good one's, and what many of them do to those who pay."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bad import KINDS
from benchmarks.figures import Figure
from benchmarks.stage import Shape, Stage, load, measure, open_stage

CONNECTIONS = 64
BESIDE_KINDS = ("no_json", "bad_signature", "wrong_amount")
# By name: how many API processes, and whether the bare skeleton stands in payfirst's place. What it does to those who
# pay is what nobody who has to recover a signature before he knows that it is bad can avoid.
STAGES = {"1_process": (1, False), "2_processes": (2, False), "skeleton_2_processes": (2, True)}


async def section(*, count: int, repeats: int, good_per_s: float, bad_per_s: float, seconds: float) -> dict[str, Any]:
    """CPU of server and database by kind, taken in turns; then good ones alone and beside bad ones of one kind."""
    found: dict[str, Any] = {"good_p50_ms": {}}
    for name, (apis, bare) in STAGES.items():
        async with open_stage(Shape(settling=False, apis=apis, bare=bare)) as stage:
            if name == "1_process":
                found["cpu_us"] = await _cost(stage, count=count, repeats=repeats)
            found["good_p50_ms"][name] = await _beside(
                stage, repeats=repeats, good_per_s=good_per_s, bad_per_s=bad_per_s, seconds=seconds
            )
    return found


async def _cost(stage: Stage, *, count: int, repeats: int) -> dict[str, Figure]:
    cost: dict[str, list[float]] = {kind: [] for kind in ("good", *KINDS)}
    async with load() as client:
        for _ in range(repeats):
            for kind, seen in cost.items():
                measured = await measure(stage, client, stage.order(count, connections=CONNECTIONS, kind=kind))
                seen.append(measured.cpu_us["api"] + measured.cpu_us["postgres"])
    return {kind: Figure.of(seen) for kind, seen in cost.items()}


async def _beside(
    stage: Stage, *, repeats: int, good_per_s: float, bad_per_s: float, seconds: float
) -> dict[str, Figure]:
    """Milliseconds from a good request to its 202 at p50: `alone`, and beside each kind."""
    seen: dict[str, list[float]] = {kind: [] for kind in ("alone", *BESIDE_KINDS)}
    async with load() as client, load() as attacker:
        for _ in range(repeats):
            for kind, p50_ms in seen.items():
                good = stage.order(int(good_per_s * seconds), connections=CONNECTIONS, rate=good_per_s)
                if kind == "alone":
                    await client.sign(good)
                    p50_ms.append((await client.fire()).p50)
                    continue
                bad = stage.order(int(bad_per_s * seconds), connections=CONNECTIONS, rate=bad_per_s, kind=kind)
                await asyncio.gather(attacker.sign(bad), client.sign(good))
                answered, _ = await asyncio.gather(client.fire(), attacker.fire())
                p50_ms.append(answered.p50)
    return {kind: Figure.of(p50_ms) for kind, p50_ms in seen.items()}
