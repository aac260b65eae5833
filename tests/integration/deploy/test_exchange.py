"""Releases are exchanged while buyers come: forward with nobody turned away, and back with payments in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from payfirst.store import migrate

from .previous import previous
from .site import THIS, Running, Site, crowd, offer, open_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FIRST = migrate.revisions()[0]
LEFT = {"payments_pending", "payments_sent", "mints_pending", "mints_sent"}


async def test_upgraded_while_serving(empty_database_url: str, tmp_path: Path) -> None:
    """The previous release goes on with the new tables; process by process it gives way; every order is minted."""
    old = previous(tmp_path / "previous")
    async with open_site(tmp_path, empty_database_url, offered=False) as site:
        await site.run(old, "db", "upgrade")
        assert migrate.status(empty_database_url).current == FIRST
        await offer(site.rig)
        workers = [site.start(old, "work"), site.start(old, "work")]
        apis = [site.start(old, "serve", port=port) for port in site.ports]
        for port in site.ports:
            await site.ready(port)
        async with crowd(site) as buyers:
            await buyers.more(10)
            upgraded = await site.run(THIS, "db", "upgrade")
            assert f"{FIRST} → {migrate.revisions()[-1]}" in upgraded
            await buyers.more(20)  # taken, settled and minted by the previous release on the new tables
            for worker in workers:
                await worker.stop()
                await site.works(site.start(THIS, "work"))
                await buyers.more(10)
            for api, port in zip(apis, site.ports, strict=True):
                await api.stop()
                site.start(THIS, "serve", port=port)
                await site.ready(port)
                await buyers.more(10)
        await buyers.minted()
        assert not buyers.refused
        await site.rig.check_invariants()
        await site.run(THIS, "audit", "--since", "1h")
        demand_no_failures(site.running)
        print(f"\nupgraded while serving: {len(buyers.accepted)} orders taken, none refused, each minted")


@pytest.mark.parametrize("in_flight", [False, True], ids=["drained", "with payments in flight"])
async def test_rolled_back(database_url: str, tmp_path: Path, *, in_flight: bool) -> None:
    """Drain, downgrade, audit, start: what was accepted before is minted after, by the previous release."""
    old = previous(tmp_path / "previous")
    async with open_site(tmp_path, database_url) as site:
        worker, api = site.start(THIS, "work"), site.start(THIS, "serve")
        await site.ready(site.ports[0])
        async with crowd(site) as buyers:
            await buyers.more(10)
            if in_flight:
                await until_sent(site)
                worker.process.kill()
                await buyers.more(10)
            # A worker that is dead finishes nothing: the drain says so, and the previous release goes on with it.
            drained = await site.run(THIS, "drain", "--wait", "--timeout", "3", code=1 if in_flight else 0)
            assert ("Left: " in drained) is in_flight
            await api.stop()
            if not in_flight:
                await worker.stop()
            counts = await site.rig.counts()
            left = {name: counts[name] for name in sorted(LEFT & counts.keys())}
            assert bool(left) is in_flight
            await site.run(THIS, "audit", "--since", "1h", "--repair")
            await site.run(THIS, "db", "downgrade", FIRST, "--yes")
            site.start(old, "work")
            site.start(old, "serve")
            await site.ready(site.ports[0])
            await buyers.more(10)
        await buyers.minted()
        await site.rig.check_invariants()
        await site.run(THIS, "db", "upgrade")  # and forward again: only this release can audit
        await site.run(THIS, "audit", "--since", "1h")
        demand_no_failures(site.running)
        taken, refused = len(buyers.accepted), len(buyers.refused)
        print(
            f"\nrolled back over {left or 'nothing'}: {taken} orders taken, each minted; told to come again: {refused}"
        )


async def until_sent(site: Site) -> None:
    """Return once a payment is on its way on chain."""

    async def sent() -> bool:
        return bool((await site.rig.counts()).get("payments_sent"))

    await site.rig.until(sent)


def demand_no_failures(running: list[Running]) -> None:
    """No process has logged that something of it fell."""
    for process in running:
        for line in process.said.splitlines():
            assert " error " not in line, f"{process.name}: {line}"
