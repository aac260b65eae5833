"""Print the Python that `make setup` takes: of the version that `python3` is, the build that is fastest here.

A machine often has several, its distribution's and pyenv's for example. One that was compiled without profile-guided
optimization accepts an eighth to a sixth fewer payments (`benchmarks/README.md`). Nothing is set up yet when this
runs: standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

VERSION_MIN = (3, 11)
VERSIONS_TRIED = 4  # where `python3` is too old, or is none
# Another build than the one that `python3` names is taken if it needs at most this part of its time.
WORTH_IT = 0.92
ROUNDS = 6
ASK_S_MAX = 20.0

# Says its version, where it really is, and whether it can make a virtual environment with pip in it.
ASK = """
import importlib.util, os, sys
can = all(map(importlib.util.find_spec, ("venv", "ensurepip")))
print(*sys.version_info[:2], int(can), os.path.realpath(sys.executable), sep="\\t")
"""
# Says how many seconds some of what payfirst's own code is made of took, the least of many times.
MEASURE = """
import time
class Pair:
    __slots__ = ("one", "other")
    def __init__(self, one, other): self.one, self.other = one, other
    def sum(self, more=0): return self.one + self.other + more
async def inner(number): return number
async def outer(number): return await inner(number) + 1
def some():
    for number in range(300):
        Pair(number, 2).sum(more=number)
        said = {name.lower(): value.rstrip() for name, value in ((b"Host", b"here "), (b"X-Payment", b"e30="))}
        b"".join([b"%b: %b" % header for header in said.items()])
        try: outer(number).send(None)
        except StopIteration as ended: f"{ended.value:x}"
def once():
    began = time.perf_counter()
    some()
    return time.perf_counter() - began
print(min(once() for _ in range(50)))
"""


class Build(NamedTuple):
    """One Python that is installed here."""

    path: str
    version: tuple[int, int]


def main() -> None:
    """Print its path, or end with what to do."""
    ours = next(filter(None, map(ask, _names())), None)
    if ours is None:
        sys.exit(
            "No Python 3.11 or later with venv and ensurepip is on the PATH. Install one, or: make PYTHON=/path/to/it"
        )
    same = [ask(os.path.join(folder, "python3")) for folder in os.get_exec_path()]  # noqa: PTH118 - it may be no path
    others = {build for build in same if build is not None and build.version == ours.version}
    print(choose(ours, sorted(others - {ours}), measure).path)


def choose(ours: Build, others: Sequence[Build], measure: Callable[[Build], float]) -> Build:
    """`ours`, unless another is worth it. Measured by turns, as a machine's speed changes."""
    if not others:
        return ours
    seconds: dict[Build, list[float]] = {build: [] for build in (ours, *others)}
    for _ in range(ROUNDS):
        for build, measured in seconds.items():
            measured.append(measure(build))
    best = min(others, key=lambda build: min(seconds[build]))
    return best if min(seconds[best]) <= WORTH_IT * min(seconds[ours]) else ours


def ask(program: str) -> Build | None:
    """The build behind a name or a path, None where there is none that serves."""
    said = _run(program, ASK)
    if said is None:
        return None
    major, minor, can, path = said.rstrip("\n").split("\t")
    version = (int(major), int(minor))
    return Build(path, version) if int(can) and version >= VERSION_MIN else None


def measure(build: Build) -> float:
    """Seconds for some calls; infinite where it does not say."""
    said = _run(build.path, MEASURE)
    return float("inf") if said is None else float(said)


def _names() -> list[str]:
    return ["python3", *(f"python3.{VERSION_MIN[1] + newer}" for newer in range(VERSIONS_TRIED))]


def _run(program: str, code: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - Pythons that are found here, code of our own
            [program, "-I", "-c", code], capture_output=True, text=True, timeout=ASK_S_MAX, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    main()
