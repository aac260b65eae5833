"""Which logs prove that a payment was made, and which only look as if they did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from payfirst.chain.blocks import Log, Receipt
from payfirst.chain.evidence import (
    AUTHORIZATION_USED,
    TOKENS_MINTED,
    TRANSFER,
    minted_units,
    paid_transfers,
)
from payfirst.units import Address, BlockHash, BlockNumber, TxHash, Wei, keccak

ASSET, OTHER = Address(b"\xaa" * 20), Address(b"\xab" * 20)
ALICE, BOB, SELLER = Address(b"\x01" * 20), Address(b"\x02" * 20), Address(b"\x03" * 20)
NONCE_1, NONCE_2 = b"\x11" * 32, b"\x22" * 32


def used(payer: Address, nonce: bytes, *, asset: Address = ASSET) -> tuple[Address, tuple[bytes, ...], bytes]:
    """AuthorizationUsed(payer, nonce)."""
    return asset, (AUTHORIZATION_USED, bytes(12) + payer, nonce), b""


def moved(
    sender: Address, to: Address, value: int, *, asset: Address = ASSET
) -> tuple[Address, tuple[bytes, ...], bytes]:
    """Transfer(sender, to, value)."""
    return asset, (TRANSFER, bytes(12) + sender, bytes(12) + to), value.to_bytes(32, "big")


def receipt(*logs: tuple[Address, tuple[bytes, ...], bytes]) -> Receipt:
    """A mined transaction with these logs."""
    return Receipt(
        tx_hash=TxHash(b"\x99" * 32),
        block_hash=BlockHash(b"\x98" * 32),
        block_number=BlockNumber(7),
        succeeded=True,
        gas_used=1,
        gas_price=Wei(1),
        logs=tuple(Log(address, topics, data, index=n) for n, (address, topics, data) in enumerate(logs)),
    )


def test_a_transfer_directly_after_its_authorization_pays() -> None:
    """The form in which the asset reports EIP-3009."""
    (paid,) = paid_transfers(receipt(used(ALICE, NONCE_1), moved(ALICE, SELLER, 5)), asset=ASSET)
    assert (paid.payer, paid.nonce, paid.pay_to, paid.value, paid.log_index) == (ALICE, NONCE_1, SELLER, 5, 1)


def test_a_plain_transfer_pays_for_nothing() -> None:
    """Money without an authorization names no order."""
    assert paid_transfers(receipt(moved(ALICE, SELLER, 5)), asset=ASSET) == []


def test_a_used_authorization_without_a_transfer_pays_for_nothing() -> None:
    """Used is not paid."""
    assert paid_transfers(receipt(used(ALICE, NONCE_1)), asset=ASSET) == []


def test_two_authorizations_of_equal_value_one_to_the_payer_itself_pay_once() -> None:
    """Each Transfer log counts once, and only directly after its own AuthorizationUsed."""
    logs = [used(ALICE, NONCE_1), moved(ALICE, ALICE, 5), used(ALICE, NONCE_2), moved(ALICE, SELLER, 5)]
    to_seller = [p for p in paid_transfers(receipt(*logs), asset=ASSET) if p.pay_to == SELLER]
    assert [(p.nonce, p.log_index) for p in to_seller] == [(NONCE_2, 3)]


def test_a_second_transfer_after_one_authorization_does_not_count() -> None:
    """The one after it belongs to nobody."""
    logs = [used(ALICE, NONCE_1), moved(ALICE, BOB, 5), moved(ALICE, SELLER, 5)]
    assert [p.pay_to for p in paid_transfers(receipt(*logs), asset=ASSET)] == [BOB]


def test_somebody_elses_transfer_after_an_authorization_does_not_count() -> None:
    """The payer of the log is the payer of the authorization."""
    assert paid_transfers(receipt(used(ALICE, NONCE_1), moved(BOB, SELLER, 5)), asset=ASSET) == []


def test_another_assets_logs_do_not_count() -> None:
    """Anyone can deploy a contract that emits the same events."""
    logs = [used(ALICE, NONCE_1, asset=OTHER), moved(ALICE, SELLER, 5, asset=OTHER)]
    assert paid_transfers(receipt(*logs), asset=ASSET) == []
    assert paid_transfers(receipt(used(ALICE, NONCE_1), moved(ALICE, SELLER, 5, asset=OTHER)), asset=ASSET) == []


def test_other_contracts_logs_between_the_two_do_no_harm() -> None:
    """Directly after means among the asset's own logs."""
    logs = [used(ALICE, NONCE_1), moved(ALICE, SELLER, 5, asset=OTHER), moved(ALICE, SELLER, 5)]
    assert len(paid_transfers(receipt(*logs), asset=ASSET)) == 1


_LOGS = st.lists(
    st.one_of(
        st.builds(used, st.sampled_from([ALICE, BOB]), st.sampled_from([NONCE_1, NONCE_2])),
        st.builds(moved, st.sampled_from([ALICE, BOB]), st.sampled_from([ALICE, SELLER]), st.just(5)),
        st.builds(moved, st.just(ALICE), st.just(SELLER), st.just(5), asset=st.just(OTHER)),
    ),
    max_size=12,
)


@given(_LOGS)
def test_no_order_of_logs_counts_a_transfer_twice(logs: list[tuple[Address, tuple[bytes, ...], bytes]]) -> None:
    """Each payment has a Transfer log of its own, and an AuthorizationUsed before it."""
    paid = paid_transfers(receipt(*logs), asset=ASSET)
    assert len({p.log_index for p in paid}) == len(paid)
    assert len(paid) <= min(
        sum(topics[0] == TRANSFER and address == ASSET for address, topics, _ in logs),
        sum(topics[0] == AUTHORIZATION_USED for _, topics, _ in logs),
    )


def test_minted_units_are_those_the_token_itself_names() -> None:
    """Other contracts may say what they like."""
    token, mint_id = Address(b"\xcc" * 20), keccak(b"unit")
    log = ((TOKENS_MINTED, bytes(12) + ALICE), (10**18).to_bytes(32, "big") + mint_id)
    found = minted_units(receipt((token, *log), (OTHER, *log)), tokens={token})
    assert [(u.token, u.recipient, u.mint_id) for u in found] == [(token, ALICE, mint_id)]
