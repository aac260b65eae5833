"""Backups: a database dumped while it works, and put back in its place later."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from payfirst.local.postgres_host import binaries


def _run(program: str, *words: str) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGSSLMODE": "disable"}
    subprocess.run([str(binaries() / program), *words], env=environment, check=True, capture_output=True, timeout=60)


async def dump(url: str, file: Path) -> None:
    """What the database holds at one moment; nobody has to stop for it."""
    await asyncio.to_thread(_run, "pg_dump", "--format=custom", f"--file={file}", url)


async def restore(url: str, file: Path) -> None:
    """Put the dump in the place of the database, whole and at once; whoever is connected is cut off."""
    server, _, name = url.rpartition("/")
    aside = f"{name}_restored"

    async def say(sql: str) -> None:
        await asyncio.to_thread(_run, "psql", "--no-psqlrc", "-w", "-q", "-c", sql, f"{server}/postgres")

    await say(f"CREATE DATABASE {aside} TEMPLATE template0")
    await asyncio.to_thread(_run, "pg_restore", "--exit-on-error", f"--dbname={server}/{aside}", str(file))
    await say(f"DROP DATABASE {name} WITH (FORCE)")
    await say(f"ALTER DATABASE {aside} RENAME TO {name}")
