"""The event loop of the processes that run for long, API and workers."""

from __future__ import annotations

import asyncio
import importlib.util


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, which takes less CPU time (benchmarks/README.md); asyncio's own where there is no wheel of it."""
    if importlib.util.find_spec("uvloop"):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
