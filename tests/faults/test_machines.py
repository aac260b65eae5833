"""Several machines: two with an API, two with a worker, a database, a chain; any link cut, any machine stopped.

One of each goes on serving and takes over what the others held. How soon is printed, and bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import postgres
import pytest
from flow.rig import Buyer, Rig, open_rig

from payfirst.local import children
from payfirst.local.postgres_host import binaries
from payfirst.store import migrate
from payfirst.units import checksum_address

from .rig.machines import Machine, machines
from .rig.processes import kill
from .waiting import finds, idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

DATA, RPC = "data", "rpc"
API_PORT = 4021
# Longer than a lease, and than the limits after which a silent connection is given up.
CUT_S = 12.0
SERVES_WITHIN_S = 20.0
APIS, WORKERS = ("api1", "api2"), ("worker1", "worker2")


@dataclass
class Site:
    """The machines, and what runs on them."""

    rig: Rig
    hosts: dict[str, Machine]
    environments: dict[str, dict[str, str]]
    logs: Path
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    buyers: list[Buyer] = field(default_factory=list)

    async def start(self, name: str) -> None:
        """Run the machine's process."""
        env = self.environments[name]
        program = children.api(env=env) if name in APIS else children.worker(env=env)
        inside = children.Program(name, self.hosts[name].argv(program.argv), env)
        with (self.logs / name).open("ab") as output:
            self.processes[name] = await children.start(inside, output=output.fileno())

    async def serve(self, *, at: tuple[str, ...] = APIS, within_s: float = SERVES_WITHIN_S) -> float:
        """Seconds from now until a payment of a new buyer is minted; one API after the other is asked."""
        buyer = self.buyers.pop()
        headers, path = buyer.header(buyer.authorize()), f"/api/mint/{checksum_address(self.rig.token)}"
        began = time.monotonic()

        async def is_minted() -> bool:
            for name in at:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await self.clients[name].post(path, headers=headers, json={"quantity": 1})
                    if answer.status_code in (200, 202):
                        payment_id = uuid.UUID(answer.json()["paymentQueueId"])
                        question = "SELECT count(*) = 1 FROM mint_queue WHERE payment_id = $1 AND status = 'completed'"
                        return bool(await self.rig.pool.fetchval(question, payment_id))
                    assert answer.status_code == 503, answer.text
            return False

        await self.rig.until(is_minted, within_s=within_s)
        return time.monotonic() - began

    async def ends_well(self) -> None:
        """Everything that was taken has come to its end, and every invariant holds."""
        await self.rig.until(idle(self.rig), within_s=60)
        await self.rig.check_invariants(in_order=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """All of it up, and a payment minted."""
    named = {
        "api1": [DATA],
        "api2": [DATA],
        "worker1": [DATA, RPC],
        "worker2": [DATA, RPC],
        "db": [DATA],
        "chain": [RPC],
    }
    async with contextlib.AsyncExitStack() as stack:
        hosts = stack.enter_context(machines(**named))
        url, outer_url = await stack.enter_async_context(database_on(hosts["db"]))
        pool = await stack.enter_async_context(asyncpg.create_pool(outer_url, min_size=0, max_size=4))
        rig = await stack.enter_async_context(open_rig(outer_url, pool, block_time_s=1))
        port = int(rig.chain.url.rpartition(":")[2])
        inner = await stack.enter_async_context(hosts["chain"].leads_to(RPC, "127.0.0.1", port))
        worker = rig.worker_environment(f"http://{hosts['chain'].addresses[RPC]}:{inner}") | {"DATABASE_URL": url}
        api = {key: value for key, value in worker.items() if "SIGNERS" not in key}
        api |= {"PAYFIRST_SERVER__PORT": str(API_PORT), "PAYFIRST_SERVER__HOST": "127.0.0.1"}
        site = Site(rig, hosts, dict.fromkeys(APIS, api) | dict.fromkeys(WORKERS, worker), tmp_path)
        for name in APIS:
            outer = await stack.enter_async_context(hosts[name].reached(API_PORT))
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{outer}", timeout=2)
            site.clients[name] = await stack.enter_async_context(client)
        site.buyers = await rig.buyers(12)
        try:
            for name in (*APIS, *WORKERS):
                await site.start(name)
            for name in APIS:
                await site.serve(at=(name,), within_s=60)
            yield site
        finally:
            for process in site.processes.values():
                await kill(process)


@contextlib.asynccontextmanager
async def database_on(machine: Machine) -> AsyncIterator[tuple[str, str]]:
    """PostgreSQL on a machine: its URL for other machines, and one for the tests."""
    with contextlib.ExitStack() as inside:
        folder = inside.enter_context(postgres.temporary_folder())
        access = folder / "hba"
        access.write_text("host all all 127.0.0.1/32 trust\nhost all all 10.213.0.0/16 trust\n")
        access.chmod(0o644)
        settings = {"listen_addresses": "*", "hba_file": str(access)}
        server = postgres.server(binaries(), folder, settings=settings)
        running = machine.run(server.__enter__)
        try:
            cluster = running.cluster
            async with machine.reached(cluster.port) as port:
                # The migration connects from outside; psql runs inside.
                machine.run(lambda: cluster.execute("CREATE DATABASE payfirst TEMPLATE template0"))
                outer = f"postgresql://payfirst@127.0.0.1:{port}/payfirst"
                await asyncio.to_thread(migrate.upgrade, outer)
                yield f"postgresql://payfirst@{machine.addresses[DATA]}:{cluster.port}/payfirst", outer
        finally:
            machine.run(lambda: server.__exit__(None, None, None))


async def holder_of_signers(site: Site) -> str:
    """The worker that holds the settle signer."""
    await site.rig.until(finds(site.rig, "SELECT count(*) = 2 FROM signers WHERE lease_until > now()"))
    pid = await site.rig.pool.fetchval(
        "SELECT p.pid FROM signers s JOIN processes p ON p.id::text = s.lease_owner WHERE s.purpose = 'settle'"
    )
    return next(name for name in WORKERS if site.processes[name].pid == pid)


@pytest.mark.parametrize("way", ["drop", "unplug"])
@pytest.mark.parametrize("network", [DATA, RPC])
async def test_a_worker_machine_that_is_cut_off_is_replaced_by_the_other(site: Site, network: str, way: str) -> None:
    """From its database: its leases end, and the other settles. From its chain: likewise. Back again, it takes part."""
    cut = await holder_of_signers(site)
    getattr(site.hosts[cut], way)(network)
    taken_s = await site.serve()
    await asyncio.sleep(max(0.0, CUT_S - taken_s))
    site.hosts[cut].restore(network)
    other = next(name for name in WORKERS if name != cut)
    site.processes[other].send_signal(signal.SIGSTOP)
    back_s = await site.serve(within_s=2 * SERVES_WITHIN_S)
    site.processes[other].send_signal(signal.SIGCONT)
    print(f"{network} link of the working worker ({way}): the other serves after {taken_s:.1f} s; back: {back_s:.1f} s")
    await site.ends_well()


@pytest.mark.parametrize("way", ["drop", "unplug"])
async def test_an_api_machine_that_is_cut_off_promises_nothing_and_the_other_serves(site: Site, way: str) -> None:
    """Its buyers hear 503 or nothing; the other takes payments; back again, it does too."""
    getattr(site.hosts["api1"], way)(DATA)
    taken_s = await site.serve()
    await asyncio.sleep(max(0.0, CUT_S - taken_s))
    site.hosts["api1"].restore(DATA)
    back_s = await site.serve(at=("api1",))
    print(f"data link of an API ({way}): the other serves after {taken_s:.1f} s; back: {back_s:.1f} s")
    await site.ends_well()


@pytest.mark.parametrize("way", ["drop", "unplug"])
@pytest.mark.parametrize(("name", "network"), [("db", DATA), ("chain", RPC)])
async def test_everybody_is_cut_off_from_what_there_is_one_of(site: Site, name: str, network: str, way: str) -> None:
    """Nothing goes on meanwhile, nothing is lost, and all of it goes on afterwards without help."""
    getattr(site.hosts[name], way)(network)
    await asyncio.sleep(CUT_S)
    site.hosts[name].restore(network)
    back_s = await site.serve()
    print(f"the {name} machine cut off ({way}) for {CUT_S:.0f} s; serves after {back_s:.1f} s")
    await site.ends_well()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_one_of_each_machine_is_gone_and_the_others_serve(site: Site, number: signal.Signals) -> None:
    """An API and the working worker at once: what is left serves; they come back and take part."""
    gone = ("api1", await holder_of_signers(site))
    for name in gone:
        os.kill(site.processes[name].pid, number)
    taken_s = await site.serve()
    for name in gone:
        if number == signal.SIGKILL:
            await site.processes[name].wait()
            await site.start(name)
        else:
            site.processes[name].send_signal(signal.SIGCONT)
    back_s = await site.serve(at=("api1",))
    print(f"an API and a worker {number.name}: the others serve after {taken_s:.1f} s; back: {back_s:.1f} s")
    await site.ends_well()
