"""The shipped systemd units: systemd itself reads them, and each gives its process no more than it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from payfirst.api.server import BACKLOG
from payfirst.cli.processes import STOP_TIMEOUT_S
from payfirst.cli.serve import FILES_BESIDE_CONNECTIONS
from payfirst.config import KEY_VARIABLES, Config
from payfirst.local.children import STOP_S

from .units import UNITS, Unit, read

SERVICES = [read(path) for path in sorted(UNITS.glob("*.service"))]
# What `systemd-analyze security` says of a service at most, times ten; 100 is a service without any protection.
EXPOSURE_MAX_TENTHS = 20
INSTALLED = "/opt/payfirst/current/bin/payfirst"


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    """Debian's program, which needs no running systemd."""
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "no systemd-analyze (apt package systemd)"
        if os.environ.get("PAYFIRST_TEST_REQUIRE_SYSTEMD") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def verified(program: str, folder: Path, *, change: tuple[str, str] = ("", "")) -> str:
    """What `systemd-analyze verify` complains of; the program that a unit starts has to be there for it."""
    for path in UNITS.iterdir():
        text = path.read_text(encoding="utf-8").replace(INSTALLED, sys.executable).replace(*change)
        (folder / path.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [program, "verify", "--man=no", *(str(folder / path.name) for path in UNITS.iterdir())],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_systemd_has_nothing_to_complain_of(systemd_analyze: str, tmp_path: Path) -> None:
    """Every unit, with what each names."""
    assert verified(systemd_analyze, tmp_path) == ""


def test_a_slip_would_be_found(systemd_analyze: str, tmp_path: Path) -> None:
    """So that the silence above means something."""
    said = verified(systemd_analyze, tmp_path, change=("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in said


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_each_is_hardened(unit: Unit, systemd_analyze: str, tmp_path: Path) -> None:
    """By systemd's own measure."""
    shutil.copy(UNITS / unit.name, tmp_path)
    done = subprocess.run(
        [systemd_analyze, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX_TENTHS}", unit.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert unit.one("NoNewPrivileges") == "yes"
    assert unit.one("ProtectSystem") == "strict"


def test_only_workers_have_what_opens_a_key() -> None:
    """No credential, variable, state or account of theirs is in another unit."""
    for unit in SERVICES:
        text = "\n".join("=".join(line) for line in unit.lines)
        works = unit.one("ExecStart") == f"{INSTALLED} work"
        assert ("passphrase" in unit.credentials()) is works, unit.name
        assert bool(unit.all("StateDirectory")) is works, unit.name
        assert ("PAYFIRST_SIGNERS__PASSPHRASE_FILE" in text) is works, unit.name
        assert not any(name in text for name in KEY_VARIABLES), unit.name
        assert (unit.one("DynamicUser") == "yes") if not works else (unit.one("User") == "payfirst"), unit.name


def test_limits_and_times_fit_the_processes() -> None:
    """As many open files as the API asks for at its defaults; stopped by force only after it stops by itself."""
    wanted = BACKLOG + Config().server.waiters_max + FILES_BESIDE_CONNECTIONS
    for unit in SERVICES:
        if unit.all("TimeoutStopSec"):
            assert int(unit.one("TimeoutStopSec")) > max(STOP_TIMEOUT_S, STOP_S), unit.name
        if unit.one("ExecStart").endswith(" serve"):
            assert int(unit.one("LimitNOFILE")) >= wanted
