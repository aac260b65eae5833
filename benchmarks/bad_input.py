"""What bad requests cost: CPU of each kind beside a good one's, and what many of them do to those who pay."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bad import KINDS
from benchmarks.figures import Figure
from benchmarks.stage import Shape, load, measure, open_stage

CONNECTIONS = 64
MIXED_KINDS = ("no_json", "bad_signature", "wrong_amount")


async def section(*, count: int, repeats: int, good_per_s: float, bad_per_s: float, seconds: float) -> dict[str, Any]:
    """CPU of server and database by kind, taken in turns; then good ones alone and beside bad ones."""
    cost: dict[str, list[float]] = {kind: [] for kind in ("good", *KINDS)}
    async with open_stage(Shape(settling=False)) as stage, load() as client, load() as attacker:
        for _ in range(repeats):
            for kind, seen in cost.items():
                measured = await measure(stage, client, stage.order(count, connections=CONNECTIONS, kind=kind))
                seen.append(measured.cpu_us["api"] + measured.cpu_us["postgres"])
        alone, beside = [], []
        for turn in range(repeats):
            good = int(good_per_s * seconds)
            await client.sign(stage.order(good, connections=CONNECTIONS, rate=good_per_s))
            alone.append((await client.fire()).p50)
            kind = MIXED_KINDS[turn % len(MIXED_KINDS)]
            bad = stage.order(int(bad_per_s * seconds), connections=CONNECTIONS, rate=bad_per_s, kind=kind)
            good_order = stage.order(good, connections=CONNECTIONS, rate=good_per_s)
            await asyncio.gather(attacker.sign(bad), client.sign(good_order))
            answered, _ = await asyncio.gather(client.fire(), attacker.fire())
            beside.append(answered.p50)
    return {
        "cpu_us": {kind: Figure.of(seen) for kind, seen in cost.items()},
        "good_p50_ms_alone": Figure.of(alone),
        "good_p50_ms_beside_bad": Figure.of(beside),
    }
