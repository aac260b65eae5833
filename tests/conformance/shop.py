"""A seller over real HTTP: `payfirst serve` and `payfirst work` as processes, on a real PostgreSQL and chain."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from flow.rig import PAY_TO, Rig
from postgres import free_port

from payfirst.local import children
from payfirst.units import checksum_address


@dataclass
class Api:
    """`payfirst serve` on one port, which a test may stop and start again."""

    rig: Rig
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and return once a payment could be taken."""
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.rig.database_url,
            "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
            "PAYFIRST_NETWORK__RPC_URLS": "http://127.0.0.1:1",  # unreachable: there is no RPC in the API
            "PAYFIRST_SERVER__PORT": str(self.port),
        }
        self.process = await children.start(children.api(env=environment), output=asyncio.subprocess.DEVNULL)
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{self.url}/ready")).status_code == 200
                return False

            await self.rig.until(ready)

    async def stop(self) -> None:
        """End it as an operator would."""
        if self.process is not None:
            await children.stop(self.process)
            self.process = None


@dataclass(frozen=True)
class Shop:
    """What a buyer meets, and what a test looks behind."""

    rig: Rig
    api: Api

    @property
    def url(self) -> str:
        """The API's address."""
        return self.api.url

    @property
    def token(self) -> str:
        """The token on offer, at 0.01 a unit."""
        return checksum_address(self.rig.token)

    @property
    def mint_url(self) -> str:
        """The route that sells it."""
        return f"{self.url}/api/mint/{self.token}"


@contextlib.asynccontextmanager
async def serving(rig: Rig) -> AsyncIterator[Shop]:
    """API and worker as processes of their own, until the block ends."""
    api = Api(rig, free_port())
    async with rig.worker_process():
        try:
            await api.start()
            yield Shop(rig, api)
        finally:
            await api.stop()
