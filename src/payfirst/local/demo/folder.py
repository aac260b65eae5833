"""The demo's folder: visible, made fresh at each start, and never anybody else's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from payfirst.errors import OperatorError
from payfirst.local.postgres import EmbeddedPostgres

MARKER = ".payfirst-demo"
MARKER_TEXT = "Made by `payfirst demo`, which deletes everything in this folder each time it starts.\n"
POSTGRES = "postgres"
LOG = "log"


class NotOurFolder(OperatorError):
    """The folder was not made by the demo, so nothing in it is deleted."""


class DemoRunning(OperatorError):
    """Another demo uses the folder."""


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """`path`, empty but for its marker and an empty `log`, for this process alone until the block ends; then it stays.

    A PostgreSQL that a killed demo left behind in it is stopped first.
    Raises NotOurFolder for a folder that is not empty and has no marker, DemoRunning while another demo uses it.
    """
    folder = path.resolve()
    marker = folder / MARKER
    if folder.exists() and not marker.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NotOurFolder(f"{folder} was not made by payfirst demo, and is not deleted: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with marker.open("a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoRunning(f"another demo is running in {folder}: stop it first") from None
        held.truncate(0)
        held.write(MARKER_TEXT)
        held.flush()
        _stop_left_over(folder / POSTGRES)
        for entry in folder.iterdir():
            if entry.name != MARKER:  # the lock is on this very file
                _remove(entry)
        (folder / LOG).mkdir()
        yield folder


def _stop_left_over(postgres: Path) -> None:
    if _is_alive(postgres / "data" / "postmaster.pid"):
        server = EmbeddedPostgres(postgres)
        server.start()
        server.stop()


def _is_alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text().split("\n", 1)[0]), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
