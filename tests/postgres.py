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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
def cluster(binaries: Path) -> Iterator[Cluster]:
    """A server of `binaries` in a temporary folder, in memory where there is room."""
    with temporary_folder(_memory()) as folder:
        data, log = folder / "data", folder / "log"
        account = _account()
        data.mkdir(mode=0o700)
        if account is not None:
            os.chown(data, account.pw_uid, account.pw_gid)
        _as_server(
            [
                str(binaries / "initdb"), f"--pgdata={data}", "--username=payfirst", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync",
            ]
        )  # fmt: skip
        port = free_port()
        settings = [f"--{name}={value}" for name, value in TEST_SETTINGS.items()]
        command = [str(binaries / "postgres"), "-D", str(data), f"--port={port}", *settings]
        with log.open("wb") as output, _process([*_dies_with_us(), *command], output.fileno()) as process:
            _wait_until_it_answers(process, binaries, port, log)
            yield Cluster(binaries, port)


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


@contextlib.contextmanager
def _process(command: list[str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` as PostgreSQL's account; a fast shutdown at the end, and force if that is not enough."""
    account = _account()
    process = subprocess.Popen(
        command, cwd="/", env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        process_group=0,  # Ctrl-C is for pytest
        user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )  # fmt: skip
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and by force
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
                break


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
