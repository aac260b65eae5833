"""A shop as the official Python SDK documents one: FastAPI, its payment middleware, and a facilitator of its own.

Run in a virtual environment of its own (requirements/side-by-side.txt): it wants other versions than payfirst. One
process on uvicorn, as documented; `threaded` moves verify and settle to threads, so that the event loop does not wait
for receipts.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn  # type: ignore[import-not-found]  # in its own environment only
from fastapi import FastAPI  # type: ignore[import-not-found]  # likewise
from x402 import x402Facilitator, x402FacilitatorSync, x402ResourceServer
from x402.http.middleware.fastapi import payment_middleware
from x402.mechanisms.evm.exact.register import register_exact_evm_facilitator, register_exact_evm_server
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer

# As many as clients: the loop's own pool has six on two cores.
THREADS = 64


class Threaded:
    """The synchronous facilitator behind the asynchronous interface."""

    def __init__(self, facilitator: x402FacilitatorSync) -> None:
        self._facilitator = facilitator
        self._threads = ThreadPoolExecutor(THREADS)

    async def verify(self, payload: Any, requirements: Any) -> Any:
        """As the SDK's, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._facilitator.verify, payload, requirements
        )

    async def settle(self, payload: Any, requirements: Any) -> Any:
        """As the SDK's, in a thread: it returns once the transaction is mined."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._facilitator.settle, payload, requirements
        )

    def get_supported(self) -> Any:
        """As the SDK's."""
        return self._facilitator.get_supported()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for name in ("variant", "rpc", "key", "network", "asset", "asset-name", "asset-version", "pay-to", "price", "path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--valid-s", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    signer = FacilitatorWeb3Signer(options.key, options.rpc)
    facilitator: Any = x402FacilitatorSync() if options.variant == "threaded" else x402Facilitator()
    register_exact_evm_facilitator(facilitator, signer, networks=options.network)
    server = x402ResourceServer(Threaded(facilitator) if options.variant == "threaded" else facilitator)
    register_exact_evm_server(server)
    price = {
        "amount": options.price,
        "asset": options.asset,
        "extra": {"name": options.asset_name, "version": options.asset_version},
    }
    offer: Any = {
        "scheme": "exact",
        "payTo": options.pay_to,
        "price": price,
        "network": options.network,
        "maxTimeoutSeconds": options.valid_s,
    }
    app: Any = FastAPI()
    routes: Any = {f"POST {options.path}": {"accepts": offer}}
    guard = payment_middleware(routes, server)

    async def paid(request: Any, call_next: Any) -> Any:
        return await guard(request, call_next)

    async def sell() -> dict[str, str]:
        return {"sold": "one"}

    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    app.middleware("http")(paid)
    app.post(options.path)(sell)
    app.get("/ready")(ready)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
