"""The ceiling: a bare skeleton of the flow on the real tables, constraints, contracts and chain, and how far above the
goals it lies.

`python -m benchmarks.skeleton api|worker` are its processes. It keeps what makes payfirst safe and costs something on
every payment: decoding and verifying, the never-reuse key, one shared commit before the 202, pre-flight at a pinned
block, the reservation under the token's lock, stored bytes before they are sent, evidence from logs, payment first by
foreign key, the units' trigger. It leaves out what is payfirst's own: routes, admission, limits, replays, leases that
are renewed, rebroadcasts, reorgs, expiry, finality, wallets, refunds, metrics, logs. So nothing that it stores is fit
for use, and what payfirst costs above it is what those cost.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks import accept, end_to_end
from benchmarks.stage import Shape

# By figure: the goal that README.md names, and whether more is better.
GOALS = {
    "accept_rps_1proc_c64": (5_000.0, True),
    "accept_rps_2proc_c1000": (10_000.0, True),
    "accept_p50_ms_c64": (10.0, False),
    "accept_p99_ms_c64": (30.0, False),
    "accept_p50_ms_c1": (2.0, False),
    "e2e_sustained_rps": (3_000.0, True),
    "e2e_minted_s_p50": (2.5, False),
}


async def section(*, counts: tuple[int, int, int], repeats: int, rate: float, seconds: float) -> dict[str, Any]:
    """Accepting alone and the whole flow, as `accept` and `end_to_end` measure payfirst. `counts`: requests at 1
    connection, at 64, and at 1,000."""
    alone, one, many = counts
    taken = await accept.section(apis=1, connections=(1, 64), counts=(alone, one), repeats=repeats, bare=True)
    taken |= await accept.section(apis=2, connections=(1_000,), counts=(many,), repeats=repeats, bare=True)
    flow = await end_to_end.section(Shape(bare=True), rate=rate, seconds=seconds)
    return {"accept": taken, "end_to_end": flow, "cores_bound_per_s": cores_bound(taken, flow)}


def cores_bound(taken: dict[str, Any], flow: dict[str, Any], *, cores: int | None = None) -> dict[str, int]:
    """What all cores together would do of each at the CPU time that one costs: hardly moved by other programs, which
    is what a rate is when they are there."""
    cores = cores or os.cpu_count() or 1
    costs = {shape: seen["cpu_us_sum"].median for shape, seen in taken.items()} | {"end_to_end": flow["cpu_us_sum"]}
    return {shape: round(cores * 1e6 / us) for shape, us in costs.items() if us}


def beside_goals(figures: dict[str, float]) -> dict[str, dict[str, float]]:
    """Each goal with the ceiling found for it, and how many times better than the goal that is (below 1: worse)."""
    found = {}
    for name, (goal, more_is_better) in GOALS.items():
        if figures.get(name):
            ceiling = figures[name]
            times = ceiling / goal if more_is_better else goal / ceiling
            found[name] = {"ceiling": ceiling, "goal": goal, "times": round(times, 2)}
    return found


if __name__ == "__main__":
    # Here, because the processes import much that the section does not.
    if sys.argv[1] == "api":
        from benchmarks import skeleton_api

        skeleton_api.main()
    else:
        from benchmarks import skeleton_worker

        skeleton_worker.main()
