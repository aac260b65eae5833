"""A release on a database that a newer one has upgraded: it runs and says so; on an older one it refuses, as ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from commands import run
from deploy.site import THIS, open_site

from payfirst.cli import settings
from payfirst.store import migrate

NEWER = "9999"


@pytest.fixture
def newer_url(database_url: str) -> str:
    """A database as a newer release leaves it: a revision that nobody here knows, and a column more."""

    async def upgraded() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("ALTER TABLE payment_queue ADD COLUMN of_a_newer_release text")
        await connection.execute("UPDATE payfirst_version SET version_num = $1", NEWER)
        await connection.close()

    asyncio.run(upgraded())
    return database_url


def test_status_tells_newer_from_older(newer_url: str, empty_database_url: str) -> None:
    """Nothing is to do on a newer one; everything on an empty one."""
    newer, empty = migrate.status(newer_url), migrate.status(empty_database_url)
    assert (newer.current, newer.is_newer, newer.is_current, newer.pending) == (NEWER, True, False, ())
    assert (empty.current, empty.is_newer, empty.pending) == (None, False, migrate.revisions())


def test_an_older_one_is_refused(empty_database_url: str) -> None:
    """One revision short is short."""
    migrate.upgrade(empty_database_url, migrate.revisions()[-2])
    assert not migrate.status(empty_database_url).is_newer
    with pytest.raises(settings.SchemaOutOfDate, match="payfirst db upgrade"):
        settings.demand_current_schema(empty_database_url)


def test_commands_run_on_a_newer_one_and_say_so_apart(newer_url: str, tmp_path: Path) -> None:
    """What is read by programs stays clean; what only the newer release can do is refused in a sentence."""
    listed = run("payments", "list", "--json", cwd=tmp_path, DATABASE_URL=newer_url)
    assert listed.returncode == 0, listed.stderr
    assert NEWER in listed.stderr
    assert NEWER not in listed.stdout
    upgraded = run("db", "upgrade", cwd=tmp_path, DATABASE_URL=newer_url)
    assert (upgraded.returncode, "nothing to do" in upgraded.stdout) == (0, True), upgraded.stderr
    for words in (("db", "downgrade", "-1", "--yes"), ("db", "roles")):
        refused = run(*words, cwd=tmp_path, DATABASE_URL=newer_url)
        assert (refused.returncode, "release" in refused.stderr) == (2, True), refused.stderr
        assert "Traceback" not in refused.stderr
    assert migrate.status(newer_url).current == NEWER


def test_going_back_asks_with_the_name_that_it_goes_to(database_url: str, tmp_path: Path) -> None:
    """Who asks for two steps sees where they lead; what is none is refused before, and nothing to do is not asked."""
    to = migrate.revisions()[-3]
    asked = run("db", "downgrade", "-2", cwd=tmp_path, typed="n\n", DATABASE_URL=database_url)
    assert (asked.returncode, f"back to {to}?" in asked.stdout) == (1, True), asked.stderr
    assert migrate.status(database_url).is_current
    refused = run("db", "downgrade", "-99", cwd=tmp_path, typed="y\n", DATABASE_URL=database_url)
    assert (refused.returncode, "goes back too far" in refused.stderr) == (2, True), refused.stderr
    gone = run("db", "downgrade", "-2", cwd=tmp_path, typed="y\n", DATABASE_URL=database_url)
    assert (gone.returncode, f"→ {to}" in gone.stdout) == (0, True), gone.stderr
    idle = run("db", "downgrade", to, cwd=tmp_path, DATABASE_URL=database_url)
    assert (idle.returncode, "?" in idle.stdout) == (0, False), idle.stderr


@pytest.mark.slow
async def test_api_and_worker_run_on_a_newer_one(newer_url: str, tmp_path: Path) -> None:
    """They start, say so in the log, and sell."""
    async with open_site(tmp_path, newer_url) as site:
        processes = [site.start(THIS, "serve"), site.start(THIS, "work")]
        await site.ready(site.ports[0])
        (buyer,) = await site.rig.buyers(1)
        await site.rig.pay(buyer, 2)
        await site.rig.until_counts(payments_completed=1, mints_completed=2)
        await site.rig.check_invariants()
        for running in processes:
            assert f"The database is at {NEWER}, which a newer release made" in running.said
            await running.stop()
