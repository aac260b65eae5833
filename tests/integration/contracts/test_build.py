"""What ships is what the sources in contracts/ compile to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from payfirst.local.node import PROJECT_ROOT

BUILD_TIMEOUT_S = 110
FOLDERS = ("src/payfirst/chain/artifacts", "tests/integration/contracts/artifacts")


def contents(root: Path) -> dict[str, bytes]:
    """Every artifact below `root`, by its path."""
    return {
        f"{folder}/{file.name}": file.read_bytes() for folder in FOLDERS for file in sorted((root / folder).iterdir())
    }


def test_artifacts_are_what_the_sources_compile_to(tmp_path: Path) -> None:
    """A rebuild gives the same files, byte for byte: no more, no fewer."""
    if not (PROJECT_ROOT / "node_modules" / "solc").exists():
        pytest.skip("no compiler in node_modules: run `make setup`")
    node = shutil.which("node") or shutil.which("node", path=str(PROJECT_ROOT / ".venv" / "bin"))
    if node is None:
        pytest.skip("no node on PATH and none in .venv")
    result = subprocess.run(
        [node, "contracts/build.mjs", str(tmp_path)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rebuilt, shipped = contents(tmp_path), contents(PROJECT_ROOT)
    assert rebuilt.keys() == shipped.keys()
    assert [path for path in shipped if shipped[path] != rebuilt[path]] == []
