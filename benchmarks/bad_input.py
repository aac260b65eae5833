"""What bad requests cost: CPU of each kind beside a good one's, and what many of them do to those who pay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bad import KINDS
from benchmarks.figures import Figure
from benchmarks.stage import Load, Shape, Stage, load, measure, open_stage

CONNECTIONS = 64
BESIDE_KINDS = ("no_json", "bad_signature", "wrong_amount")
# Asked by turns, as this machine's speed changes within minutes. What they do to who pays at the bare skeleton is what
# nobody can avoid who has to read a request before he knows that it is bad, on as many cores.
BY_TURNS = {
    "2_processes": Shape(settling=False, apis=2),
    "skeleton_2_processes": Shape(settling=False, apis=2, bare=True),
}


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many good and bad requests a second, for so long."""

    good_per_s: float
    bad_per_s: float
    seconds: float


@dataclass(slots=True)
class Seen:
    """Milliseconds from a good request to its 202 at p50, a look each: `alone`, and beside each kind."""

    p50_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in ("alone", *BESIDE_KINDS)})

    def figures(self) -> dict[str, dict[str, Figure]]:
        """The looks, and each kind's as times of the `alone` of the same round."""
        alone = self.p50_ms["alone"]
        times = {
            kind: [one / other for one, other in zip(self.p50_ms[kind], alone, strict=True)] for kind in BESIDE_KINDS
        }
        return {
            "good_p50_ms": {kind: Figure.of(p50_ms) for kind, p50_ms in self.p50_ms.items()},
            "times_alone": {kind: Figure.of(seen) for kind, seen in times.items()},
        }


async def section(*, count: int, cost_repeats: int, repeats: int, crowd: Crowd) -> dict[str, Any]:
    """CPU of server and database by kind, taken in turns; then good ones alone and beside bad ones of one kind."""
    async with open_stage(Shape(settling=False)) as stage:
        cost = await _cost(stage, count=count, repeats=cost_repeats)
        one = await _beside({"1_process": stage}, repeats=repeats, crowd=crowd)
    async with AsyncExitStack() as opened:
        stages = {name: await opened.enter_async_context(open_stage(shape)) for name, shape in BY_TURNS.items()}
        two = await _beside(stages, repeats=repeats, crowd=crowd)
    return {"cpu_us": cost, "beside": {name: seen.figures() for name, seen in (one | two).items()}}


async def _cost(stage: Stage, *, count: int, repeats: int) -> dict[str, Figure]:
    cost: dict[str, list[float]] = {kind: [] for kind in ("good", *KINDS)}
    async with load() as client:
        for _ in range(repeats):
            for kind, seen in cost.items():
                measured = await measure(stage, client, stage.order(count, connections=CONNECTIONS, kind=kind))
                seen.append(measured.cpu_us["api"] + measured.cpu_us["postgres"])
    return {kind: Figure.of(seen) for kind, seen in cost.items()}


async def _beside(stages: Mapping[str, Stage], *, repeats: int, crowd: Crowd) -> dict[str, Seen]:
    """By stage. Each kind is asked of all of them before the next one is; in each round another one is first."""
    found = {name: Seen() for name in stages}
    order: Sequence[str] = tuple(stages)
    async with load() as client, load() as attacker:
        for _ in range(repeats):
            for kind in ("alone", *BESIDE_KINDS):
                for name in order:
                    found[name].p50_ms[kind].append(await _p50_ms(stages[name], client, attacker, kind, crowd))
            order = (*order[1:], order[0])
    return found


async def _p50_ms(stage: Stage, client: Load, attacker: Load, kind: str, crowd: Crowd) -> float:
    good = stage.order(int(crowd.good_per_s * crowd.seconds), connections=CONNECTIONS, rate=crowd.good_per_s)
    await client.sign(good)
    if kind == "alone":
        return (await client.fire()).p50
    bad = stage.order(int(crowd.bad_per_s * crowd.seconds), connections=CONNECTIONS, rate=crowd.bad_per_s, kind=kind)
    await attacker.sign(bad)
    answered, _ = await asyncio.gather(client.fire(), attacker.fire())
    return answered.p50
