"""Debian's Prometheus, where it is installed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Prometheus:
    """Its two programs."""

    server: Path
    promtool: Path


@pytest.fixture(scope="session")
def prometheus() -> Prometheus:
    """Skipped where it is missing, unless PAYFIRST_TEST_REQUIRE_PROMETHEUS says that it may not be."""
    server, promtool = shutil.which("prometheus"), shutil.which("promtool")
    if server is None or promtool is None:
        reason = "no prometheus: apt-get install prometheus"
        if os.environ.get("PAYFIRST_TEST_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Prometheus(Path(server), Path(promtool))
