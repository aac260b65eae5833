"""The runner: `make bench`, `make bench ARGS="--quick --json"`. One module a section; README.md explains each."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import accept, bad_input, end_to_end, picture, reference
from benchmarks.figures import Figure
from benchmarks.stage import LIMITS, SAFETY_RULES, Shape
from payfirst.errors import OperatorError

FOLDER = Path(__file__).parent
# Sections of their own, which take long or an environment of their own: --growth, --side-by-side.
OTHERS = {"growth": "benchmarks.growth", "side_by_side": "benchmarks.side_by_side"}


def main(argv: list[str]) -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each section once and small: under two minutes")
    parser.add_argument("--json", action="store_true", help="end with one JSON line, and say nothing else there")
    parser.add_argument("--long", action="store_true", help="also 300 s at 1,000 a second, for memory")
    parser.add_argument("--rate", type=float, default=0.0, help="payments a second offered end to end")
    parser.add_argument("--seconds", type=float, default=0.0, help="for how long")
    parser.add_argument("--only", choices=("accept", "end_to_end", "gas", "bad_input", "scaling"))
    parser.add_argument(
        "--out", type=Path, default=Path("payfirst-bench"), help="folder for result.json and result.svg"
    )
    parser.add_argument("--growth", action="store_true", help="cost against the size of history")
    parser.add_argument("--side-by-side", action="store_true", help="beside the official Python SDK")
    asked, rest = parser.parse_known_args(argv)
    for name, module in OTHERS.items():
        if getattr(asked, name):
            return int(importlib.import_module(module).main([*rest, *(["--json"] if asked.json else [])]) or 0)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        found = asyncio.run(_run(asked))
    except OperatorError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    (asked.out / "result.svg").write_text(picture.svg(_charts(found)), encoding="utf-8")
    if asked.json:
        print(msgspec.json.encode(keys(found)).decode())
    return 0


async def _run(asked: argparse.Namespace) -> dict[str, Any]:
    quick, only = asked.quick, asked.only
    repeats = 1 if quick else 3
    found: dict[str, Any] = {"machine": machine(), "reference": reference.section(repeats=3)}
    _say("reference", found["reference"])

    def wanted(name: str) -> bool:
        return only in (None, name)

    if wanted("accept"):
        one, many = (3_000, 6_000) if quick else (20_000, 40_000)
        found["accept"] = await accept.section(
            apis=1, connections=(1, 64), counts=(200 if quick else 2_000, one), repeats=repeats
        )
        found["accept"] |= await accept.section(apis=2, connections=(1_000,), counts=(many,), repeats=repeats)
        _say("accept", found["accept"])
    if wanted("end_to_end"):
        rate = asked.rate or (500.0 if quick else 3_000.0)
        seconds = asked.seconds or (5.0 if quick else 60.0)
        found["end_to_end"] = await end_to_end.section(Shape(signers=2), rate=rate, seconds=seconds)
        _say("end_to_end", found["end_to_end"])
        if not quick:
            found["low_load"] = await end_to_end.section(Shape(), rate=1.0, seconds=30)
            _say("low_load", found["low_load"])
    if asked.long:
        found["long"] = await end_to_end.section(Shape(signers=2), rate=1_000, seconds=300)
        _say("long", found["long"])
    if wanted("gas") and not quick:
        found["gas"] = await end_to_end.gas_by_batch((1, 50, 100, 200), payments=1_000)
        _say("gas", found["gas"])
    if wanted("bad_input") and not quick:
        found["bad_input"] = await bad_input.section(
            count=2_000, repeats=repeats, good_per_s=1_000, bad_per_s=3_000, seconds=5
        )
        _say("bad_input", found["bad_input"])
    if only == "scaling":
        found["scaling"] = await _scaling(asked.rate or 3_000.0, asked.seconds or 10.0)
        _say("scaling", found["scaling"])
    return found


async def _scaling(rate: float, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for apis in (1, 2, 3):
        found |= await accept.section(apis=apis, connections=(256,), counts=(10_000,), repeats=3)
    for workers, signers in ((1, 1), (1, 2), (2, 1), (2, 2)):
        shape = Shape(workers=workers, signers=signers)
        found[f"{workers}_workers_{signers}_signers_each"] = await end_to_end.section(shape, rate=rate, seconds=seconds)
    return found


def keys(found: dict[str, Any]) -> dict[str, float]:
    """The figures that are followed from release to release."""
    taken = found.get("accept", {})
    named: dict[str, float] = {"verify_us": found["reference"]["verify_us"].median}
    for key, shape, figure in (
        ("accept_rps_1proc_c64", "1_processes_64_connections", "per_s"),
        ("accept_rps_2proc_c1000", "2_processes_1000_connections", "per_s"),
        ("accept_p50_ms_c64", "1_processes_64_connections", "p50_ms"),
        ("accept_p99_ms_c64", "1_processes_64_connections", "p99_ms"),
        ("accept_p50_ms_c1", "1_processes_1_connections", "p50_ms"),
    ):
        if shape in taken:
            named[key] = taken[shape][figure].median
    flow = found.get("end_to_end")
    if flow:
        named |= {
            "e2e_rps": flow["minted_per_s"],
            "e2e_minted_s_p50": flow["accepted_to_minted_s"]["p50"],
            "e2e_failed": flow["failed"] + flow["refused"],
        }
        named |= {f"gas_{purpose}": gas["each"] for purpose, gas in flow["gas"].items()}
    return named


def machine() -> dict[str, Any]:
    """On what it ran, and under which settings."""
    versions = {name: metadata.version(name) for name in ("payfirst", "granian", "asyncpg", "coincurve", "msgspec")}
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "load_before": [round(one, 2) for one in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "limits": LIMITS,
        "safety_rules": ["fsync", "synchronous_commit", "full_page_writes", *SAFETY_RULES],
    }


def _charts(found: dict[str, Any]) -> list[tuple[str, str, picture.Bars]]:
    taken = found.get("accept", {})
    flow = found.get("end_to_end") or {}
    named = {shape: shape.replace("_", " ") for shape in taken}
    return [
        ("Accepted", "a second", [(named[s], seen["per_s"].median) for s, seen in taken.items()]),
        ("Time to a 202, p50", "ms", [(named[s], seen["p50_ms"].median) for s, seen in taken.items()]),
        ("Accepted to minted", "s", list(flow.get("accepted_to_minted_s", {}).items())),
        ("CPU of a minted payment", "µs", list(flow.get("cpu_us", {}).items())),
        ("CPU of a request, API and database", "µs", [
            (kind, seen.median) for kind, seen in found.get("bad_input", {}).get("cpu_us", {}).items()
        ]),
    ]  # fmt: skip


def _say(name: str, seen: dict[str, Any], indent: str = "  ") -> None:
    if indent == "  ":
        print(f"· {name}", file=sys.stderr)
    for key, value in seen.items():
        if isinstance(value, dict) and any(isinstance(inner, dict | Figure) for inner in value.values()):
            print(f"{indent}{key}", file=sys.stderr)
            _say(name, value, indent + "  ")
        else:
            print(f"{indent}{key:<28} {value}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
