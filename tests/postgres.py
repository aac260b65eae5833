"""PostgreSQL clusters for the tests: throw-away, on a free port, dead when the tests are.

They have the settings of the embedded server, without fsync; connections from this machine are trusted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from payfirst.local.postgres_host import SETTINGS
from payfirst.store import migrate

DEBIAN_POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15
POLL_S = 0.02
MEMORY_BYTES_MIN = 4 << 30

TEST_SETTINGS = {
    **SETTINGS,
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "min_wal_size": "80MB",
    "max_wal_size": "1GB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}


@dataclass(frozen=True)
class Cluster:
    """A running server with the programs of its own version."""

    binaries: Path
    port: int

    def url(self, database: str) -> str:
        """`postgresql://payfirst@127.0.0.1:<port>/<database>`."""
        return f"postgresql://payfirst@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str) -> str:
        """Run `sql` in the maintenance database and return what psql prints."""
        return _psql(self.binaries, self.url("postgres"), sql)

    @contextlib.contextmanager
    def database(self, *, template: str = "template0") -> Iterator[str]:
        """The url of a fresh database, dropped at the end whoever is still connected."""
        name = f"test_{uuid.uuid4().hex}"
        # Copying files is cheap here, where nothing is synced to a disk; the log of a copied page is not.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @functools.cached_property
    def migrated_template(self) -> str:
        """The name of a database that holds payfirst's tables and no rows; made at the first use."""
        name = "payfirst_template"
        self.execute(f"DROP DATABASE IF EXISTS {name}")  # of a migration that failed in an earlier test
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        migrate.upgrade(self.url(name))
        return name


@contextlib.contextmanager
def cluster(binaries: Path, *, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A server of `binaries` in a temporary folder, in memory where there is room."""
    with temporary_folder(_memory()) as folder, server(binaries, folder, settings=settings) as running:
        yield running.cluster


@contextlib.contextmanager
def server(
    binaries: Path, folder: Path, *, initdb: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server of `binaries` with its data in `folder`, started; a fast shutdown at the end."""
    data = folder / "data"
    account = _account()
    data.mkdir(mode=0o700)
    if account is not None:
        os.chown(data, account.pw_uid, account.pw_gid)
    _as_server(
        [
            str(binaries / "initdb"), f"--pgdata={data}", "--username=payfirst", "--auth=trust",
            "--encoding=UTF8", "--locale=C", "--no-sync", *initdb,
        ]
    )  # fmt: skip
    running = Server(Cluster(binaries, free_port()), folder, {**TEST_SETTINGS, **(settings or {})})
    try:
        running.start()
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def standby(primary: Server, folder: Path) -> Iterator[Server]:
    """A streaming copy of a running server with its data in `folder`, started and at work; of the same settings."""
    data, account = folder / "data", _account()
    data.mkdir(mode=0o700)
    if account is not None:
        os.chown(data, account.pw_uid, account.pw_gid)
    _as_server(
        [
            str(primary.cluster.binaries / "pg_basebackup"), f"--pgdata={data}", "--write-recovery-conf",
            "--checkpoint=fast", "--wal-method=stream", "--no-sync", f"--dbname={primary.cluster.url('')}",
        ]
    )  # fmt: skip
    running = Server(Cluster(primary.cluster.binaries, free_port()), folder, primary.settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@dataclass
class Server:
    """A cluster that can be stopped, killed and started again, on the same port and data."""

    cluster: Cluster
    folder: Path
    settings: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers. Raises RuntimeError with the end of its log."""
        log = self.folder / "log"
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        program = [str(self.cluster.binaries / "postgres"), "-D", str(self.folder / "data")]
        account = _account()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *program, f"--port={self.cluster.port}", *settings],
                cwd="/", env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                process_group=0,  # Ctrl-C is for pytest
                user=account.pw_uid if account else None, group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )  # fmt: skip
        _wait_until_it_answers(self._process, self.cluster.binaries, self.cluster.port, log)

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """A fast shutdown, and force if that is not enough. Does nothing to a server that is down."""
        if self._process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and by force
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
                break
        self._process = None

    def kill(self) -> None:
        """kill -9 of the postmaster and every process of it, at once, as when the machine loses power."""
        if self._process is None:
            return
        postmaster = psutil.Process(self._process.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that other users may enter; pytest's own may not be, and PostgreSQL does not run as root."""
    folder = Path(tempfile.mkdtemp(prefix="payfirst-test-", dir=parent)).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _memory() -> Path | None:
    """A file system in memory with room for a cluster, where there is one: most tests copy a database."""
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of its own in it
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN else None


def _psql(binaries: Path, url: str, sql: str) -> str:
    result = subprocess.run(
        [str(binaries / "psql"), "--no-psqlrc", "-w", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url],
        capture_output=True, text=True, timeout=60, env=_environment(), check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise RuntimeError(f"psql failed: {result.stderr.strip()}")
    return result.stdout.strip()


def _account() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PGSSLMODE": "disable"}


def _as_server(command: list[str]) -> None:
    account = _account()
    result = subprocess.run(
        command, cwd="/", env=_environment(), capture_output=True, text=True, timeout=120, check=False,
        user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )  # fmt: skip
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {result.stderr.strip()}")


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel end the server when pytest is killed, where there is such a program."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "QUIT", "--"] if setpriv else []


def _wait_until_it_answers(process: subprocess.Popen[bytes], binaries: Path, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    ready = [str(binaries / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}", "--timeout=3"]
    while subprocess.run(ready, env=_environment(), check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the test's PostgreSQL does not start: {log.read_text()[-2000:]}")
        time.sleep(POLL_S)
