"""Which Python set-up takes: the one that `python3` names, unless another build of that version is well faster."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from tools import fastest_python
from tools.fastest_python import ROUNDS, Build

OURS = Build("/ours", (3, 11))
OTHER = Build("/other", (3, 11))
SCRIPT = Path(fastest_python.__file__)


def chosen(seconds: dict[str, list[float]]) -> Build:
    """What is chosen where each measurement says what stands here, one after another."""
    said = {path: iter(each * ROUNDS) for path, each in seconds.items()}
    return fastest_python.choose(OURS, [OTHER], lambda build: next(said[build.path]))


def test_another_build_is_taken_when_it_is_well_faster() -> None:
    """A quarter less time: as a build with profile-guided optimization needs beside one without."""
    assert chosen({"/ours": [1.0], "/other": [0.75]}) == OTHER


def test_what_python3_names_is_kept_where_the_difference_is_small() -> None:
    """No surprise for a few percent."""
    assert chosen({"/ours": [1.0], "/other": [0.95]}) == OURS
    assert chosen({"/ours": [1.0], "/other": [1.5]}) == OURS


def test_a_machine_that_was_busy_for_a_moment_does_not_decide() -> None:
    """The best of each counts."""
    assert chosen({"/ours": [1.0, 3.0], "/other": [9.0, 0.7]}) == OTHER
    assert chosen({"/ours": [3.0, 1.0], "/other": [0.95, 0.95]}) == OURS


def test_a_build_that_does_not_run_is_not_taken() -> None:
    """It cannot say how fast it is."""
    assert fastest_python.measure(Build("/nowhere/python3", (3, 11))) == float("inf")
    assert chosen({"/ours": [1.0], "/other": [float("inf")]}) == OURS


def test_alone_it_need_not_be_measured() -> None:
    """Most machines have one Python."""
    assert fastest_python.choose(OURS, [], lambda _: 1 / 0) == OURS


def test_it_prints_a_python_that_can_make_an_environment() -> None:
    """As the Makefile asks it, with this very Python as python3."""
    here = os.path.dirname(sys.executable)  # noqa: PTH120 - it goes into a PATH
    path = _said({"PATH": f"{here}:{os.environ['PATH']}"}).strip()
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith(f"Python {sys.version_info[0]}.{sys.version_info[1]}.")


def test_too_old_a_python3_is_passed_over(tmp_path: Path) -> None:
    """A python3 that says it is 3.9 is not taken; nor is one that cannot make environments; and it says what to do."""
    for name, said in (("python3", "3\\t9\\t1\\t/old"), ("python3.12", "3\\t12\\t0\\t/bare")):
        fake = tmp_path / name
        fake.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n", encoding="utf-8")
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    assert "PYTHON=" in _said({"PATH": str(tmp_path)}, fails=True)
    (tmp_path / "python3.13").write_text("#!/bin/sh\nprintf '3\\t13\\t1\\t/good\\n'\n", encoding="utf-8")
    (tmp_path / "python3.13").chmod(0o755)
    assert _said({"PATH": str(tmp_path)}) == "/good\n"


def _said(environment: dict[str, str], *, fails: bool = False) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout
