"""`payfirst doctor`: whether everything is as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from payfirst import config as configuration
from payfirst.api.server import BACKLOG
from payfirst.chain import keystores
from payfirst.chain.signers import Signer
from payfirst.cli import output, settings
from payfirst.cli.examination import examine
from payfirst.cli.serve import FILES_BESIDE_CONNECTIONS
from payfirst.config import KEY_VARIABLES, Config, ConfigurationError
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.ops.doctor import Finding, Level, fault, lines, ok, to_json, warning, worst
from payfirst.ops.doctor_chain import LocalKey, judge_keys

DISK_FREE_BYTES_MIN = 1 << 30

console = Console(highlight=False, soft_wrap=True)


def doctor(config: Path | None, *, as_json: bool, show_settings: bool) -> None:
    """Print what was found; exit with 0 when all is well, 1 with warnings, 2 with faults."""
    # What the checks would log, the findings say.
    log.configure("console", "error", stream=io.StringIO())
    try:
        loaded = configuration.load(config, role="tool")
    except ConfigurationError as error:
        found = [fault("settings", str(f), "correct it; the rest cannot be looked at until then") for f in error.faults]
        _print(found, [], as_json=as_json, show_settings=False)
        raise typer.Exit(Level.FAULT) from None
    found = [*_keys(config, loaded), *_limits(loaded)]
    with contextlib.ExitStack() as stack:
        url: str | None = None
        try:
            url = stack.enter_context(settings.database(loaded))
        except OperatorError as error:
            found.append(fault("database", str(error), "correct what it names"))
        seen, loaded = asyncio.run(examine(loaded, url))
    found = [*seen, *found]
    _print(found, loaded.describe(), as_json=as_json, show_settings=show_settings)
    raise typer.Exit(worst(found))


def _print(found: list[Finding], rows: list[tuple[str, str, str]], *, as_json: bool, show_settings: bool) -> None:
    if as_json:
        typer.echo(json.dumps(to_json(found, settings=rows)))
        return
    for line in lines(found):
        console.print(line, markup=False)
    shown = [row for row in rows if show_settings or row[2] != "default"]
    if shown:
        table = Table("setting", Column("value", overflow="fold"), Column("source", overflow="fold"))
        for row in shown:
            table.add_row(*map(escape, row))
        output.show(table)
    counts = {level: sum(f.level is level for f in found) for level in Level}
    console.print(f"{counts[Level.FAULT]} faults, {counts[Level.WARNING]} warnings, {counts[Level.OK]} in order")


def _keys(path: Path | None, loaded: Config) -> list[Finding]:
    keys = [
        LocalKey(entry.purpose, entry.address, str(entry.path), stat.S_IMODE(entry.path.stat().st_mode))
        for entry in keystores.find(loaded.signers_dir)
    ]
    try:
        signers = configuration.load(path, role="worker").worker_signers()
    except ConfigurationError as error:
        wrong = [str(f) for f in error.faults if f.setting.startswith("signers.")]
        # An API's machine has no key at all, and that is right.
        has_some = bool(keys) or _mentions_keys(os.environ)
        return judge_keys(keys, can_work=wrong if has_some else [])
    for purpose, several in (("settle", signers.settle_keys), ("mint", signers.mint_keys)):
        where = f"signers.{purpose}_key"
        file = getattr(signers, f"{purpose}_key_file")
        mode = stat.S_IMODE(Path(file).stat().st_mode) if file else None
        keys += [LocalKey(purpose, Signer(key).address, file or where, mode) for key in several]
    return judge_keys(keys, can_work=[])


def _mentions_keys(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name) or environ.get(f"{name}_FILE") for name in KEY_VARIABLES)


def _limits(loaded: Config) -> list[Finding]:
    wanted = BACKLOG + loaded.server.waiters_max + FILES_BESIDE_CONNECTIONS
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = []
    if hard != resource.RLIM_INFINITY and hard < wanted:
        advice = "raise it (ulimit -Hn, LimitNOFILE=), or lower server.waiters_max"
        found.append(warning("limits", f"a process may open {hard} files, the API wants {wanted}", advice))
    else:
        found.append(ok("limits", f"enough open files ({wanted} are wanted)"))
    if not loaded.database.url and loaded.data_dir.exists():
        free = shutil.disk_usage(loaded.data_dir).free
        said = f"{free / 1e9:.1f} GB are free where {loaded.data_dir} is"
        if free < DISK_FREE_BYTES_MIN:
            found.append(warning("limits", said, "make room: a full disk stops the database, and so all payments"))
        else:
            found.append(ok("limits", said))
    return found
