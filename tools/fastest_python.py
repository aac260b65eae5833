"""Print the Python that a new environment is made of: among builds of the version that `python3` is, one that is well
faster, if there is one on the PATH.

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
VERSIONS_TRIED = 4  # from that one on, where no `python3` serves
# Another build than the first `python3` that serves is taken if it needs at most this part of its time.
WORTH_IT = 0.92
ROUNDS = 6
ASK_S_MAX = 20.0

# Says its version, where it is, and whether it can run what set-up needs. The packages are CPython's.
ASK = """
import importlib.util, sys
needed = ("venv", "ensurepip", "_ssl", "_ctypes", "zlib")
can = sys.implementation.name == "cpython" and all(map(importlib.util.find_spec, needed))
print(*sys.version_info[:2], int(can), sys.executable, sep="\t")
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
    names = ["python3", *(f"python3.{VERSION_MIN[1] + newer}" for newer in range(VERSIONS_TRIED))]
    # By name first: what `python3` is goes before what else there is.
    paths = [os.path.join(folder, name) for name in names for folder in os.get_exec_path()]  # noqa: PTH118
    found: dict[str, Build] = {}  # each once, however many links lead to it
    for build in filter(None, map(ask, paths)):
        found.setdefault(os.path.realpath(build.path), build)
    if not found:
        sys.exit(
            "No CPython from 3.11 on with venv and ensurepip is on the PATH: install one, or make PYTHON=ITS_PATH."
        )
    ours, *others = found.values()
    print(choose(ours, [build for build in others if build.version == ours.version], measure).path)


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
    """The build behind a path, None where there is none that serves."""
    try:
        major, minor, can, path = _run(program, ASK).rstrip("\n").split("\t")
        build = Build(path, (int(major), int(minor)))
    except ValueError:  # it is none, or says something else
        return None
    return build if int(can) and build.version >= VERSION_MIN else None


def measure(build: Build) -> float:
    """Seconds for some calls; infinite where it does not say."""
    try:
        return float(_run(build.path, MEASURE))
    except ValueError:
        return float("inf")


def _run(program: str, code: str) -> str:
    """What it prints; nothing where it does not run."""
    if not os.access(program, os.X_OK):
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - Pythons that are found here, code of our own
            [program, "-I", "-c", code], capture_output=True, text=True, errors="replace", timeout=ASK_S_MAX, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


if __name__ == "__main__":
    main()
