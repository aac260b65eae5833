"""The demo as a whole: what it prints is what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

KEYS = {
    "accepted",
    "rejected",
    "failed",
    "settled",
    "minted",
    "owed",
    "accept_ms_p50",
    "accept_ms_p99",
    "minted_s_p50",
    "minted_s_p99",
    "gas_per_payment",
    "transactions",
    "api_loop_stall_ms_max",
    "invariants_ok",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_adds_up_and_leaves_nothing_running(open_folder: Path) -> None:
    """200 purchases, 80 bad ones, 5,000 at once: every figure follows from what was sent."""
    mine = {n: v for n, v in os.environ.items() if not n.startswith("PAYFIRST_") and n != "DATABASE_URL"}
    mine["DEMO_RUN"] = str(uuid.uuid4())
    # The folder is another one, so the project's own anvil is named.
    mine["PAYFIRST_ANVIL"] = str(next(Path(__file__).parents[2].glob("node_modules/@foundry-rs/anvil-*/bin/anvil")))
    done = subprocess.run(
        [sys.executable, "-m", "payfirst", "demo", "--once", "--json"],
        cwd=open_folder,
        env=mine,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == KEYS
    assert figures["invariants_ok"] is True
    assert (figures["accepted"], figures["settled"], figures["failed"]) == (5_210, 5_200, 10)
    assert (figures["rejected"], figures["owed"]) == (60, 0)
    assert figures["minted"] > 5_200
    assert 40_000 < figures["gas_per_payment"] < 47_000
    for words in (
        "X402 payment queued:",
        "Sent payment tx:",
        "Batch complete:",
        "Checking ",
        " confirmed",
        "mint queue items after x402 payment confirmation",
    ):
        logs = "".join(p.read_text(encoding="utf-8") for p in (open_folder / "payfirst-demo" / "log").glob("*.log"))
        assert words in logs, words
    assert [p for p in psutil.process_iter() if belongs(p, mine["DEMO_RUN"], str(open_folder))] == []


def belongs(process: psutil.Process, run: str, folder: str) -> bool:
    """Whether a process that still runs was started by the demo: by what it inherited, or by the folder it serves."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("DEMO_RUN") == run or any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False
