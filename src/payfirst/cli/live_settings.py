"""`payfirst settings`: what a running system takes up within seconds, without a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from payfirst import config as configuration
from payfirst.cli import output
from payfirst.cli import settings as shared
from payfirst.cli.output import ActorOption
from payfirst.cli.settings import ConfigOption
from payfirst.config import live
from payfirst.config.settings import SETTINGS, display
from payfirst.store import audit_log, database, processes, settings
from payfirst.store.database import Connection
from payfirst.store.processes import Listed
from payfirst.store.settings import StoredSetting
from payfirst.units import utc_text

T = TypeVar("T")

app = typer.Typer()
console = Console(highlight=False, soft_wrap=True)

SettingArgument = Annotated[str, typer.Argument(help="Such as settle.batch_max.")]


@app.command("list")
def list_settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False, config: ConfigOption = None
) -> None:
    """Every live setting: its value, where that comes from, and which processes have taken it up."""
    loaded = configuration.load(config, role="tool")

    async def read(connection: Connection) -> tuple[list[StoredSetting], list[Listed]]:
        stored = await settings.read_all(connection)
        return stored, await processes.read_all(connection, loaded.network.network.caip2)

    stored, known = with_database(loaded, "read the settings", read)
    rows = _rows(loaded, stored, [process for process in known if process.lives])
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("setting", "value", "source", "taken up by", "meaning")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("setting", "value", "source", "takenUpBy", "meaning")))
    output.show(table)
    for row in rows:
        for refusal in row["refusedBy"] if isinstance(row["refusedBy"], list) else []:
            console.print(f"⚠️ {row['setting']}: {refusal}", markup=False)


@app.command("set")
def set_setting(
    setting: SettingArgument,
    value: Annotated[str, typer.Argument(help="The new value, as it would stand in a variable.")],
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Set a value in the running system. It goes before file and environment until it is unset."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)

    async def act(connection: Connection) -> None:
        await change(connection, loaded, setting, value, action="settings.set", actor=who)

    with_database(loaded, "set a setting", act)
    console.print(f"{setting} is {value}: API and workers take it up within seconds", markup=False)


@app.command()
def unset(setting: SettingArgument, actor: ActorOption = None, config: ConfigOption = None) -> None:
    """Let file and environment say again."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)
    live.demand_live(setting)

    async def act(connection: Connection) -> bool:
        return await take_back(connection, setting, action="settings.unset", actor=who)

    if with_database(loaded, "unset a setting", act):
        console.print(f"{setting} is as file and environment say: {shown(loaded, setting)} here", markup=False)
    else:
        console.print(f"{setting} was not set", markup=False)


async def change(
    connection: Connection, config: configuration.Config, setting: str, text: str, *, action: str, actor: str
) -> None:
    """Set a setting in the caller's transaction, beside its line in the audit log. Raises OperatorError."""
    rows = await settings.lock(connection)
    value = live.parse(config, rows, setting, text)
    await settings.put(connection, setting, value, by=actor)
    before = display(setting, rows[setting]) if setting in rows else None
    await audit_log.record(
        connection, actor=actor, action=action, subject=setting, details={"before": before, "after": value}
    )


async def take_back(connection: Connection, setting: str, *, action: str, actor: str) -> bool:
    """Unset a setting in the caller's transaction, beside its line in the audit log; False where it was not set."""
    before = await settings.remove(connection, setting)
    if before is None:
        return False
    await audit_log.record(
        connection, actor=actor, action=action, subject=setting, details={"before": before, "after": None}
    )
    return True


def with_database(loaded: configuration.Config, doing: str, act: Callable[[Connection], Awaitable[T]]) -> T:
    """What `act` returns, in one transaction."""

    async def run(url: str) -> T:
        pool = await database.connect(url, name="tool", size=1)
        async with pool, database.transaction(pool, doing) as connection:
            return await act(connection)

    with shared.database(loaded) as url:
        shared.demand_current_schema(url)
        return asyncio.run(run(url))


def shown(config: configuration.Config, setting: str) -> str:
    """A setting's value for people."""
    section, _, key = setting.partition(".")
    return display(setting, getattr(getattr(config, section), key))


def has_taken_up(process: Listed, setting: str, rows: Mapping[str, object]) -> bool:
    """Whether a process goes by what the table holds of `setting`, or by its own where that is nothing."""
    taken = process.settings.get("taken", {})
    return taken.get(setting) == rows[setting] if setting in rows else setting not in taken


def name_of(process: Listed) -> str:
    """A process for people."""
    return f"{process.role} {process.pid} on {process.host}"


def _rows(
    loaded: configuration.Config, stored: Sequence[StoredSetting], living: Sequence[Listed]
) -> list[dict[str, object]]:
    rows = {row.setting: row for row in stored}
    values = {row.setting: row.value for row in stored}
    overlaid = live.overlay(loaded, values)
    listed: list[dict[str, object]] = []
    for setting in (*live.LIVE, *(s for s in rows if s not in live.LIVE)):
        known = setting in live.LIVE
        source = overlaid.config.sources.get(setting, "default")
        if setting in rows:
            source = f"{live.SOURCE}: {rows[setting].updated_by} {utc_text(rows[setting].updated_at)}"
        up = [process for process in living if has_taken_up(process, setting, values)]
        refused = [
            f"{name_of(process)} refuses it: expected {process.settings['refused'][setting]}"
            for process in living
            if setting in process.settings.get("refused", {})
        ]
        if setting in overlaid.refused:
            refused.append(f"it does not fit the configuration here: expected {overlaid.refused[setting]}")
        listed.append(
            {
                "setting": setting,
                "value": display(setting, values[setting]) if setting in rows else shown(loaded, setting),
                "source": source,
                "takenUpBy": f"{len(up)} of {len(living)}",
                "notYet": [name_of(process) for process in living if process not in up],
                "refusedBy": refused,
                "meaning": SETTINGS[setting].description if known else "unknown to this release",
            }
        )
    return listed
