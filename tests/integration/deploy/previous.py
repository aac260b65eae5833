"""The release before the newest tables, out of this repository's own history, in an environment of its own."""

from __future__ import annotations

import compileall
import io
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from payfirst.store import migrate

from .site import Release
from .units import ROOT

VERSIONS = "src/payfirst/store/migrations/versions"
INSTALL_TIMEOUT_S = 100


def previous(folder: Path) -> Release:
    """The last commit that knows the first revision only, in `folder`; skips the test where there is no history."""
    first = _git("log", "--diff-filter=A", "--reverse", "--format=%H", "--", f"{VERSIONS}/{_file_of_second_revision()}")
    commit = first.decode().split()[0] if first.strip() else None
    if commit is None or not _git("rev-parse", "--verify", "--quiet", f"{commit}^"):
        pytest.skip("this checkout has no history that reaches back to the release before the newest tables")
    # As zip: what keeps a tar's members in their folder came with a patch release of 3.11 only.
    packed = _git("archive", "--format=zip", f"{commit}^", "src", "requirements")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(folder)
    compileall.compile_dir(folder, quiet=1)  # once, not in each of its processes
    assert len(list((folder / VERSIONS).glob("0*.py"))) == 1
    python = _environment(folder / ".venv", folder / "requirements" / "runtime.txt")
    return Release((str(python), "-m", "payfirst"), {"PYTHONPATH": str(folder / "src")})


def _environment(folder: Path, requirements: Path) -> Path:
    """The Python of a new environment with what that release pinned: it need not be what this one runs on."""
    uv, python = Path(sysconfig.get_path("scripts")) / "uv", folder / "bin" / "python"
    steps = (
        ("venv", "--quiet", "--python", sys.executable, folder),
        ("pip", "install", "--quiet", "--compile-bytecode", "--python", python, "--require-hashes", "-r", requirements),
    )
    for step in steps:
        done = subprocess.run(
            [uv, *step],
            env={**os.environ, "UV_LINK_MODE": "copy"},
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        assert done.returncode == 0, f"uv {step[0]} for the previous release: {done.stderr}"
    return python


def _file_of_second_revision() -> str:
    (found,) = migrate.VERSIONS.glob(f"{migrate.revisions()[1]}_*.py")
    return found.name


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False).stdout
    except FileNotFoundError:
        return b""
