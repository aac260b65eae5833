"""`payfirst top`: one frame for a pipe, and the live view on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
from commands import environment

from .command import invoke
from .rows import payment


async def test_one_frame_is_printed_for_a_pipe(pool: asyncpg.Pool, database_url: str, tmp_path: Path) -> None:
    """What the database says now, without a terminal."""
    await payment(pool, "completed", accepted_s=12, processed_s=10, minted="sent")
    await payment(pool, "pending", accepted_s=3)
    await payment(pool, "failed", accepted_s=60, code="insufficient_funds")
    await pool.execute(
        "INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,"
        " item_count, state, gas_used, gas_price_wei)"
        " VALUES ('eip155:84532', $1, 0, 'settle', 1, $1, 100000, 3, 'confirmed', 90000, 1000000000)",
        "0x" + "ab" * 20,
    )
    shown = invoke("top", "--once", cwd=tmp_path, DATABASE_URL=database_url)
    assert shown.returncode == 0, shown.stderr
    for words in ("NO WORKER", "payments pending", "mints sent", "a sentence about insufficient_funds", "30,000"):
        assert words in shown.stdout, shown.stdout
    assert "\x1b[" not in shown.stdout


def test_the_live_view_ends_by_ctrl_c(database_url: str, tmp_path: Path) -> None:
    """It draws on a terminal until it is told to stop, and leaves the terminal as it was."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "payfirst", "top", "--interval", "0.2"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=database_url, TERM="xterm-256color", COLUMNS="100", LINES="50"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        drawn = _read_until(ours, b"Troubles", within_s=30)
        drawn += _read_until(ours, b"Troubles", within_s=10)  # another frame
        process.send_signal(signal.SIGINT)
        drawn += _read_until(ours, b"\x1b[?1049l", within_s=10)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[?1049h" in drawn
    assert b"Traceback" not in drawn


def _read_until(descriptor: int, words: bytes, *, within_s: float) -> bytes:
    """What the terminal was sent, up to and with `words`."""
    seen, until = b"", time.monotonic() + within_s
    while words not in seen:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        assert readable, seen
        seen += os.read(descriptor, 65_536)
    return seen
