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

from benchmarks import charts, picture, reference, skeleton
from benchmarks.figures import Figure
from benchmarks.sections import QUICK, SECTIONS, WHOLE, Asked
from benchmarks.stage import LIMITS, SAFETY_RULES
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
    parser.add_argument("--rate", type=float, default=0.0, help="payments offered a second")
    parser.add_argument("--seconds", type=float, default=0.0, help="for how long")
    parser.add_argument("--only", choices=tuple(SECTIONS), help="one section")
    parser.add_argument(
        "--out", type=Path, default=Path("payfirst-bench"), help="folder for result.json and result.svg"
    )
    parser.add_argument("--growth", action="store_true", help="cost against the size of history")
    parser.add_argument("--side-by-side", action="store_true", help="beside the official Python SDK")
    asked, rest = parser.parse_known_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, module in OTHERS.items():
        if getattr(asked, name):
            kept = asked.out / f"{name}.json"
            code = int(importlib.import_module(module).main([*rest, "--json", str(kept)]) or 0)
            if asked.json:
                print(msgspec.json.encode(msgspec.json.decode(kept.read_bytes())).decode())
            return code
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        found = asyncio.run(_run(asked))
    except OperatorError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    (asked.out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    (asked.out / "result.svg").write_text(picture.svg(charts.of(found, _kept(asked.out))), encoding="utf-8")
    if asked.json:
        print(msgspec.json.encode(keys(found)).decode())
    return 0


async def _run(asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine(), "reference": reference.section(repeats=3), "took_s": {}}
    _say("reference", found["reference"])
    wanted = [asked.only] if asked.only else [*(QUICK if asked.quick else WHOLE), *(["long"] if asked.long else [])]
    sizes = Asked(quick=asked.quick, rate=asked.rate, seconds=asked.seconds)
    for name in wanted:
        started = time.monotonic()
        found[name] = await SECTIONS[name](sizes)
        _say(name, found[name])
        found["took_s"][name] = round(time.monotonic() - started, 1)
    _say("took_s", found["took_s"])
    if "skeleton" in found:
        found["skeleton"]["beside_goals"] = skeleton.beside_goals(keys(found | found["skeleton"]))
        _say("skeleton, beside the goals", found["skeleton"]["beside_goals"])
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
            "e2e_sustained_rps": flow["sustained_per_s"],
            "e2e_minted_s_p50": flow["accepted_to_minted_s"]["p50"],
            "e2e_failed": flow["failed"] + flow["refused"],
        }
    if "gas" in found:
        for key, kind in (("gas_settle", "settle"), ("gas_mint", "mint_to_holders")):
            by_size = found["gas"][kind]
            named[key] = by_size[max(by_size, key=int)]
    return named


def machine() -> dict[str, Any]:
    """On what it ran, and under which settings."""
    versions = {
        name: metadata.version(name) for name in ("payfirst", "httptools", "uvloop", "asyncpg", "coincurve", "msgspec")
    }
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


def _kept(folder: Path) -> list[dict[str, Any]]:
    """The results of --growth that are kept with the project, and this machine's last one."""
    paths = [*sorted((FOLDER / "results").glob("growth-*.json")), folder / "growth.json"]
    return [msgspec.json.decode(path.read_bytes()) for path in paths if path.exists()]


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
