"""`payfirst …` inside the tests' own process: what it prints and returns, without the start of an interpreter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.errors import PayfirstError

COLUMNS = "200"


def invoke(*words: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command to its end, in a folder and an environment, in a thread of its own because it runs an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_invoke, words, cwd, environ).result()


def _invoke(words: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    settings_of_ours = {name: None for name in os.environ if name.startswith("PAYFIRST_") or name == "DATABASE_URL"}
    before = Path.cwd()
    os.chdir(cwd)
    try:
        result = CliRunner().invoke(app, list(words), env={**settings_of_ours, "COLUMNS": COLUMNS, **environ})
    finally:
        os.chdir(before)
    if isinstance(result.exception, PayfirstError):  # as `main` does
        return subprocess.CompletedProcess(words, 2, result.stdout, f"payfirst: {result.exception}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)
