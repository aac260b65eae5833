"""PostgreSQL servers that a test may stop, kill and start again, and one whose disk is full when the test says so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import postgres
import pytest
from postgres import Server

from payfirst.local.postgres_host import binaries

REQUIRED = "PAYFIRST_TEST_REQUIRE_ROOT"
DISK_MIB = 96
# Segments of 1 MiB: a small disk holds the log, and a full one is noticed soon.
SMALL = {"min_wal_size": "2MB", "max_wal_size": "16MB", "shared_buffers": "16MB"}


@contextlib.contextmanager
def server_of_its_own() -> Iterator[Server]:
    """A server that nobody else uses."""
    with postgres.temporary_folder() as folder, postgres.server(binaries(), folder) as running:
        yield running


@dataclass
class SmallDisk:
    """A file system of DISK_MIB in memory with a database server on it."""

    server: Server
    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Until not a byte is left."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def clear(self) -> None:
        """Somebody has made room."""
        self._ballast.unlink(missing_ok=True)


def can_mount() -> bool:
    """Whether a disk of its own can be made here: Linux, and root."""
    return sys.platform.startswith("linux") and os.geteuid() == 0


@contextlib.contextmanager
def server_on_a_small_disk(
    *, mib: int = DISK_MIB, settings: Mapping[str, str] = MappingProxyType(SMALL)
) -> Iterator[SmallDisk]:
    """Needs root, to mount; skipped elsewhere with the reason, failed where REQUIRED is set to 1."""
    with postgres.temporary_folder() as folder:
        _mount(folder, mib)
        try:
            with postgres.server(binaries(), folder, initdb=["--wal-segsize=1"], settings=settings) as running:
                disk = SmallDisk(running, folder)
                try:
                    yield disk
                finally:
                    disk.clear()
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, mib: int) -> None:
    reason = None
    if not can_mount():
        reason = "a full disk is made of a tmpfs, and only root may mount one"
    else:
        options = f"size={mib}m,mode=0755"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "payfirst-test", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if mounted.returncode != 0:
            reason = f"no tmpfs can be mounted here: {mounted.stderr.strip()}"
    if reason is not None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(reason)
        pytest.skip(reason)
