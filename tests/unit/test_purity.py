"""Plans decide and do nothing else: no await, clock, environment, randomness or log."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "payfirst"
PLANS = sorted((SOURCE / "pipeline").glob("*_plan.py"))
CORE = [*sorted((SOURCE / "x402").glob("*.py")), SOURCE / "lifecycle.py", SOURCE / "errors.py", SOURCE / "units.py"]
CLIENT = [SOURCE / "client" / f"{name}.py" for name in ("answers", "limits", "order", "errors", "steps")]
IMPURE = {"asyncio", "os", "time", "random", "secrets", "logging", "socket", "subprocess", "structlog"}


def imported(tree: ast.AST) -> set[str]:
    """Every module that a file imports by name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", [*PLANS, *CORE, *CLIENT], ids=lambda path: path.stem)
def test_nothing_impure_is_used(path: Path) -> None:
    """Read from the file itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {name for name in imported(tree) if name.partition(".")[0] in IMPURE}
    assert not {name for name in imported(tree) if name.startswith("payfirst.ops")}
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef | ast.Await)]


def test_the_plans_are_found() -> None:
    """A renamed file does not slip out of the test above."""
    assert {p.stem for p in PLANS} == {
        "settle_plan", "confirm_plan", "refund_plan", "watch_plan", "reset_plan", "audit_plan"
    }  # fmt: skip
