"""What a run measures: the sections by name, with their sizes for a whole run and for `--quick`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import accept, bad_input, end_to_end, gas, metrics, skeleton
from benchmarks.stage import Shape


@dataclass(frozen=True, slots=True)
class Asked:
    """`quick`: each section once and small. `rate` (a second) and `seconds` of what is offered; 0: the usual."""

    quick: bool = False
    rate: float = 0.0
    seconds: float = 0.0

    @property
    def repeats(self) -> int:
        """How often one thing is measured."""
        return 1 if self.quick else 3


async def _accept(asked: Asked) -> dict[str, Any]:
    if asked.quick:
        connections: tuple[int, ...] = (1, 64)
        counts: tuple[int, ...] = (200, 10_000)
    else:  # more of them, for the picture
        connections, counts = (1, 8, 64, 256), (2_000, 8_000, 20_000, 20_000)
    found = await accept.section(apis=1, connections=connections, counts=counts, repeats=asked.repeats)
    many = 20_000 if asked.quick else 40_000
    return found | await accept.section(apis=2, connections=(1_000,), counts=(many,), repeats=asked.repeats)


async def _end_to_end(asked: Asked) -> dict[str, Any]:
    rate, seconds = (1_000.0, 8.0) if asked.quick else (3_000.0, 60.0)
    return await end_to_end.section(Shape(signers=2), rate=asked.rate or rate, seconds=asked.seconds or seconds)


async def _skeleton(asked: Asked) -> dict[str, Any]:
    counts = (500, 6_000, 10_000) if asked.quick else (2_000, 20_000, 40_000)
    return await skeleton.section(
        counts=counts, repeats=asked.repeats, rate=asked.rate or 3_000.0, seconds=asked.seconds or 20.0
    )


async def _low_load(asked: Asked) -> dict[str, Any]:
    return await end_to_end.low_load(seconds=asked.seconds or 60.0)


async def _gas(asked: Asked) -> dict[str, Any]:
    return await gas.section(gas.SIZES[-1:] if asked.quick else gas.SIZES)


async def _metrics(asked: Asked) -> dict[str, Any]:
    return await metrics.section(count=3_000, turns=3 if asked.quick else 9)


async def _bad_input(asked: Asked) -> dict[str, Any]:
    good_per_s = asked.rate or 1_000.0
    crowd = bad_input.Crowd(good_per_s=good_per_s, bad_per_s=3 * good_per_s, seconds=asked.seconds or 5)
    return await bad_input.section(
        count=2_000, cost_repeats=asked.repeats, repeats=1 if asked.quick else 4, crowd=crowd
    )


async def _long(asked: Asked) -> dict[str, Any]:
    return await end_to_end.section(Shape(signers=2), rate=asked.rate or 1_000.0, seconds=asked.seconds or 300.0)


async def _launch(asked: Asked) -> dict[str, Any]:
    """A shop that has sold a little, was analyzed while it was quiet, and sells at once; beside a new one."""
    return {
        f"after_{sold}_sold": await end_to_end.section(
            Shape(sold=sold), rate=asked.rate or 1_000.0, seconds=asked.seconds or 15.0
        )
        for sold in (0, 300, 3_000)
    }


async def _scaling(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for apis in (1, 2, 3):
        found |= await accept.section(apis=apis, connections=(256,), counts=(10_000,), repeats=asked.repeats)
    for workers, signers in ((1, 1), (1, 2), (2, 1), (2, 2)):
        shape = Shape(workers=workers, signers=signers)
        found[f"{workers}_workers_{signers}_signers_each"] = await end_to_end.section(
            shape, rate=asked.rate or 3_000.0, seconds=asked.seconds or 10.0
        )
    return found


Section = Callable[[Asked], Awaitable[dict[str, Any]]]

# In the order in which they run. The last three run only when they are asked for.
SECTIONS: dict[str, Section] = {
    "accept": _accept,
    "end_to_end": _end_to_end,
    "skeleton": _skeleton,
    "low_load": _low_load,
    "gas": _gas,
    "metrics": _metrics,
    "bad_input": _bad_input,
    "launch": _launch,
    "scaling": _scaling,
    "long": _long,
}
QUICK = ("accept", "end_to_end", "gas")
WHOLE = tuple(name for name in SECTIONS if name not in ("launch", "scaling", "long"))
