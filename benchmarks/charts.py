"""Which of the figures are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.picture import Bars, Lines

# Of the steps that growth measures, those that the goals name.
STEPS = ("accept", "claim", "confirm", "confirm mints", "look-up", "start-up")


def of(found: dict[str, Any], grown: Sequence[dict[str, Any]]) -> list[Bars | Lines]:
    """The charts of one run, and of all runs of --growth that are kept."""
    taken, flow = found.get("accept", {}), found.get("end_to_end") or {}
    at = {shape: seen["per_s"].median for shape, seen in taken.items()}
    shares = [step / 20 for step in range(21)]
    minted = {
        f"{name.replace('_', ' ')}, {found[name]['offered_per_s']:g} a second": list(
            zip(found[name]["accepted_to_minted_steps_s"], (100 * share for share in shares), strict=True)
        )
        for name in ("end_to_end", "low_load", "long")
        if name in found
    }
    return [
        Lines("Accepting: rate against latency, at more and more connections", "accepted a second", "ms to a 202", {
            f"{figure.removesuffix('_ms')}, {processes} process(es)": [
                (at[shape], seen[figure].median) for shape, seen in taken.items() if shape.startswith(f"{processes}_")
            ]
            for processes in sorted({shape.partition("_")[0] for shape in taken}) for figure in ("p50_ms", "p99_ms")
        }),
        Bars("Accepting", "a second", [(shape.replace("_", " "), rate) for shape, rate in at.items()]),
        Lines("Accepted to minted: how many have been minted after how long", "s", "% of the payments", minted),
        Bars("CPU of a minted payment", "µs", list(flow.get("cpu_us", {}).items())),
        Bars("CPU of a request, API and database", "µs", [
            (kind, seen.median) for kind, seen in found.get("bad_input", {}).get("cpu_us", {}).items()
        ]),
        history(grown),
    ]  # fmt: skip


def history(grown: Sequence[dict[str, Any]]) -> Lines:
    """What a step costs PostgreSQL with so much history, as a share of what it costs in an empty database."""
    ordered = sorted(grown, key=lambda one: int(one["payments"]))
    return Lines("Cost against history", "payments in the live tables", "times the cost in an empty database", {
        step: [(0.0, 1.0), *((float(one["payments"]), one["steps"][step]["cpu_ratio"]) for one in ordered)]
        for step in STEPS if ordered and all(step in one["steps"] for one in ordered)
    })  # fmt: skip
