"""PostgreSQL servers that a test may stop, kill and start again, and one whose disk is full when the test says so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
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
class Pair:
    """A primary and its streaming standby, until one of them is gone."""

    primary: Server
    standby: Server

    def url(self, database: str) -> str:
        """Names both hosts, as an operator would, the primary first."""
        hosts = ",".join(f"127.0.0.1:{server.cluster.port}" for server in (self.primary, self.standby))
        return f"postgresql://payfirst@{hosts}/{database}?target_session_attrs=read-write"

    def be_synchronous(self) -> None:
        """From here on no commit of the primary returns before the standby has it on its disk."""
        self._set_on_primary("synchronous_standby_names", "*")

    def lose_the_stream(self) -> None:
        """From here on the standby receives nothing; nobody is told."""
        self.standby.cluster.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.cluster.execute("SELECT pg_reload_conf()")
        self._until(self.primary, "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_replication)")

    def fail_over(self) -> None:
        """kill -9 of the primary and all its processes; the standby takes its place."""
        self.primary.kill()
        self.standby.cluster.execute("SELECT pg_promote(true)")

    def wait_for_the_stream(self) -> None:
        """Return once the standby has all that the primary has."""
        self._until(self.primary, "SELECT bool_and(flush_lsn = pg_current_wal_flush_lsn()) FROM pg_stat_replication")

    def _set_on_primary(self, name: str, value: str) -> None:
        self.primary.cluster.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.primary.cluster.execute("SELECT pg_reload_conf()")
        self._until(self.primary, f"SELECT current_setting('{name}') = '{value}'")
        self._until(self.primary, "SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication")

    @staticmethod
    def _until(server: Server, question: str) -> None:
        deadline = time.monotonic() + postgres.START_TIMEOUT_S
        while server.cluster.execute(question) != "t":
            assert time.monotonic() < deadline, question
            time.sleep(postgres.POLL_S)


@contextlib.contextmanager
def primary_and_standby() -> Iterator[Pair]:
    """Two servers that nobody else uses, the second one streaming from the first."""
    with (
        postgres.temporary_folder() as folder,
        postgres.temporary_folder() as other,
        postgres.server(binaries(), folder) as primary,
        postgres.standby(primary, other) as standby,
    ):
        yield Pair(primary, standby)


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
