"""A token that refuses to mint is held: nothing more is accepted for it until it mints again."""

from __future__ import annotations

from payfirst.chain.abi import encode_call
from payfirst.chain.token_check import MINTER_ROLE
from payfirst.local.chain import dev_address, dev_key
from payfirst.units import Wei, checksum_address

from .rig import Rig


async def change_role(rig: Rig, call: str) -> None:
    """Grant or revoke the mint signer's role, as the token's admin."""
    data = encode_call(f"{call}(bytes32,address)", MINTER_ROLE, dev_address("mint"))
    assert (await rig.chain.send(rig.token, data, dev_key("seller"))).succeeded


async def test_a_signer_that_lost_its_role_holds_the_token_until_it_has_it_again(rig: Rig) -> None:
    """What was paid is tried again and minted; in between buyers are told to come back."""
    (buyer,) = await rig.buyers(1)
    await rig.chain.fund_gas([dev_address("seller")], Wei(10**18))
    await change_role(rig, "revokeRole")

    async def is_refused() -> bool:
        offer = await rig.client.post(f"/api/mint/{checksum_address(rig.token)}", json={"quantity": 1})
        return offer.status_code == 503

    async with rig.working():
        await rig.pay(buyer, 2)
        await rig.until(is_refused)
        reason = await rig.pool.fetchval("SELECT held_reason FROM tokens")
        assert reason.startswith("AccessControlUnauthorizedAccount")
        assert await rig.counts() == {"payments_completed": 1, "mints_pending": 2}
        await change_role(rig, "grantRole")
        await rig.until_counts(mints_completed=2)
        assert await rig.pool.fetchval("SELECT held_reason FROM tokens") is None
    await rig.check_invariants()


async def test_a_hold_that_another_worker_set_ends_when_this_one_mints(rig: Rig) -> None:
    """The table is asked, not what a worker remembers of it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
        await rig.pay(buyer)
        await rig.pool.execute("UPDATE tokens SET held_reason = 'another worker found it so'")
        await rig.until_counts(mints_completed=2)
        assert await rig.pool.fetchval("SELECT held_reason FROM tokens") is None
    await rig.check_invariants()
