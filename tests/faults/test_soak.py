"""Three short soaks with fixed seeds. `make soak` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow.rig import Rig

from .rig.chain import reorg
from .soak.acts import ACTS
from .soak.run import soak
from .soak.schedule import plan
from .waiting import idle

SEEDS = (1, 2, 3)
MINUTES = 1.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_fails_at_random_nothing_is_lost_or_doubled(seed: int, tmp_path: Path) -> None:
    """API, two workers, two signers a purpose, buyers good and bad: at the end every invariant holds."""
    outcome = await soak(seed=seed, minutes=MINUTES, say=print, logs=tmp_path)
    print(outcome.report())
    assert outcome.violations == []
    assert outcome.ledger.settled > 0
    figures = outcome.as_json()
    assert (figures["lost"], figures["doubled"], figures["seed"]) == (0, 0, seed)
    assert figures["refunded"] > 0


async def test_money_that_the_chain_no_longer_holds_is_counted(rig: Rig) -> None:
    """A reorg takes a payment and its mint while no worker looks: both are missing. Before it nothing is."""
    (buyer,) = await rig.buyers(1)
    await rig.chain.mine(4)
    async with rig.working():
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
        await rig.until(idle(rig))
    assert (await rig.examine()).missing == 0
    height = await rig.pool.fetchval("SELECT settled_block FROM payment_queue")
    await rig.chain.set_interval(0)
    await reorg(rig.chain, (await rig.chain.rpc.head()).number - height + 1)
    ledger = await rig.examine()
    assert ledger.missing == 2
    assert any("completed, and the chain holds no transfer" in each for each in ledger.violations)


def test_a_schedule_is_its_seed() -> None:
    """The same seed and length draw the same faults; another seed draws others."""
    first, again, other = (plan(seed, seconds=60, faults=list(ACTS)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_fault_is_drawn_before_any_is_drawn_again() -> None:
    """And all of them end before the run does."""
    planned = plan(7, seconds=600, faults=list(ACTS))
    assert {each.fault for each in planned[: len(ACTS)]} == set(ACTS)
    assert all(each.at_s + each.lasts_s < 600 for each in planned)
