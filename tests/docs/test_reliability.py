"""RELIABILITY.md speaks of every fault, and of no test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
ROWS = {int(row[0]): row for row in re.findall(r"^\| (\d+) \| (.*) \| (.*) \| (.*) \|$", TEXT, re.MULTILINE)}
FAULTS = range(1, 38)
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_every_fault_has_one_row() -> None:
    """1 to 37, in order."""
    assert list(ROWS) == list(FAULTS)


@pytest.mark.parametrize("number", FAULTS)
def test_each_row_names_its_proof_or_says_plainly_that_there_is_none(number: int) -> None:
    """Tests of the fault's own number, or "not yet"."""
    _, _fault, promise, proof = ROWS[number]
    named = re.findall(r"`(test_\w+)`", proof)
    own = [name for name in named if f"_{number:02}_" in name]
    assert own or "not yet" in promise, f"fault {number} is not proved, and the row does not say so"


def test_every_test_that_is_named_exists() -> None:
    """By name, wherever it lies below tests."""
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named
    assert named <= DEFINED, named - DEFINED


def test_every_test_of_a_fault_is_named() -> None:
    """A proof that nobody finds is none."""
    assert {name for name in DEFINED if re.match(r"test_fault_\d\d_", name)} <= set(re.findall(r"test_\w+", TEXT))
