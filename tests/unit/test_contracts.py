"""Calldata by hand against eth-abi, and answers taken apart."""

from __future__ import annotations

import eth_abi.abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payfirst.chain.abi import UndecodableAnswer, deployment, selector
from payfirst.chain.calldata import authorizations_in
from payfirst.chain.contracts import (
    AUTHORIZATION_USED_TOPIC,
    MULTICALL3,
    PREFLIGHT_ITEMS_MAX,
    TOKENS_MINTED_TOPIC,
    TRANSFER_TOPIC,
    PreflightRequest,
    artifact,
    decode_aggregate3,
    decode_preflight,
    decode_result,
    encode_aggregate3,
    encode_batch_mint,
    encode_call,
    encode_constructor,
    encode_has_minted,
    encode_mint,
    encode_preflight,
    encode_transfer_with_authorization,
    encode_try_aggregate,
    revert_reason,
)
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, MintId, UnixTime, checksum_address

addresses = st.binary(min_size=20, max_size=20).map(Address)
words = st.binary(min_size=32, max_size=32)
uints = st.integers(min_value=0, max_value=2**256 - 1)
calls = st.lists(st.tuples(addresses, st.binary(max_size=100)), max_size=6)
ALICE, BOB = Address(b"\xa1" * 20), Address(b"\xb0" * 20)


def error_string(text: str) -> bytes:
    """Revert data of `require(false, text)`."""
    return selector("Error(string)") + eth_abi.abi.encode(["string"], [text])


# ---- encoding


@given(addresses, addresses, uints, uints, uints, words, st.binary(min_size=65, max_size=65))
def test_transfer_is_what_eth_abi_says(
    payer: Address, pay_to: Address, value: int, after: int, before: int, nonce: bytes, signature: bytes
) -> None:
    """transferWithAuthorization by hand is the ABI's encoding for every argument."""
    by_hand = encode_transfer_with_authorization(
        payer=payer,
        pay_to=pay_to,
        value=AtomicAmount(value),
        valid_after=UnixTime(after),
        valid_before=UnixTime(before),
        nonce=AuthorizationNonce(nonce),
        signature=signature,
    )
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "uint8", "bytes32", "bytes32"]
    values = [payer, pay_to, value, after, before, nonce, signature[64], signature[:32], signature[32:64]]
    assert by_hand == selector(f"transferWithAuthorization({','.join(types)})") + eth_abi.abi.encode(types, values)


@given(calls, st.booleans())
def test_aggregate3_is_what_eth_abi_says(batch: list[tuple[Address, bytes]], allow: bool) -> None:
    """aggregate3 by hand is the ABI's encoding for calls of any length."""
    expected = eth_abi.abi.encode(["(address,bool,bytes)[]"], [[(target, allow, data) for target, data in batch]])
    assert encode_aggregate3(batch, allow_failure=allow) == selector("aggregate3((address,bool,bytes)[])") + expected


@given(calls)
def test_try_aggregate_is_what_eth_abi_says(batch: list[tuple[Address, bytes]]) -> None:
    """So is tryAggregate, with failures allowed."""
    expected = eth_abi.abi.encode(["bool", "(address,bytes)[]"], [False, batch])
    assert encode_try_aggregate(batch) == selector("tryAggregate(bool,(address,bytes)[])") + expected


@given(st.lists(st.tuples(addresses, words), max_size=6))
def test_batch_mint_is_what_eth_abi_says(pairs: list[tuple[Address, bytes]]) -> None:
    """batchMint by hand is the ABI's encoding."""
    recipients, units = [to for to, _ in pairs], [MintId(unit) for _, unit in pairs]
    expected = eth_abi.abi.encode(["address[]", "bytes32[]"], [recipients, units])
    assert encode_batch_mint(recipients, units) == selector("batchMint(address[],bytes32[])") + expected


def test_batch_mint_wants_pairs() -> None:
    """A recipient without an id never reaches the chain."""
    with pytest.raises(ValueError, match="2 recipients for 1 mint ids"):
        encode_batch_mint([ALICE, BOB], [MintId(bytes(32))])


@given(addresses, words)
def test_mint_and_has_minted_are_what_eth_abi_says(to: Address, unit: bytes) -> None:
    """The two short ones too."""
    assert encode_mint(to, MintId(unit)) == encode_call("mint(address,bytes32)", to, unit)
    assert encode_has_minted(MintId(unit)) == encode_call("hasMinted(bytes32)", unit)


def test_call_encodes_tuples_and_arrays() -> None:
    """Types are taken from the signature, nested brackets included."""
    data = encode_call("tryAggregate(bool,(address,bytes)[])", True, [(ALICE, b"x")])
    assert data[4:] == eth_abi.abi.encode(["bool", "(address,bytes)[]"], [True, [(ALICE, b"x")]])


def test_call_without_arguments_is_its_selector() -> None:
    """Four bytes and no more."""
    assert encode_call("pause()") == selector("pause()")


def test_call_wants_every_argument() -> None:
    """One too few is a fault of the program."""
    with pytest.raises(ValueError, match="expected 2 arguments, got 1"):
        encode_call("mint(address,bytes32)", ALICE)


def test_constructor_is_code_and_arguments() -> None:
    """A deployment's data begins with the shipped creation code."""
    data = encode_constructor("MintToken", "Pass", "PASS", 5, 10, ALICE, BOB)
    code = artifact("MintToken").bytecode
    types = ["string", "string", "uint256", "uint256", "address", "address"]
    assert data == code + eth_abi.abi.encode(types, ["Pass", "PASS", 5, 10, ALICE, BOB])


def test_code_set_in_place_is_not_deployed() -> None:
    """Multicall3 has no creation code here."""
    with pytest.raises(ValueError, match="set in place"):
        deployment(artifact("Multicall3"))


# ---- artifacts and facts


@pytest.mark.parametrize("name", ["DevStablecoin", "MintToken", "Multicall3"])
def test_shipped_contracts_fit_a_chain(name: str) -> None:
    """Runtime code is below EIP-170's limit."""
    assert 0 < len(artifact(name).runtime) <= 24_576


def test_unknown_contract_does_not_ship() -> None:
    """There is no artifact of a name that was never compiled."""
    with pytest.raises(FileNotFoundError):
        artifact("Nothing")


def test_every_function_is_there_that_calldata_names() -> None:
    """The selectors used by hand are functions of the ABIs that ship."""
    functions = {
        entry.signature
        for name in ("DevStablecoin", "MintToken", "Multicall3")
        for entry in artifact(name).abi
        if entry.kind == "function"
    }
    assert {
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
        "aggregate3((address,bool,bytes)[])",
        "tryAggregate(bool,(address,bytes)[])",
        "mint(address,bytes32)",
        "batchMint(address[],bytes32[])",
        "hasMinted(bytes32)",
    } <= functions


def test_topics_are_those_of_the_events() -> None:
    """Each topic is an event of a shipped ABI."""
    topics = {
        selector(entry.signature)
        for name in ("DevStablecoin", "MintToken")
        for entry in artifact(name).abi
        if entry.kind == "event"
    }
    assert {topic[:4] for topic in (TRANSFER_TOPIC, AUTHORIZATION_USED_TOPIC, TOKENS_MINTED_TOPIC)} <= topics


def test_multicall3_is_at_its_canonical_address() -> None:
    """The address in its checksummed form."""
    assert checksum_address(MULTICALL3) == "0xcA11bde05977b3631167028862bE2a173976CA11"


# ---- answers


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), max_size=6))
def test_aggregate3_answers_round_trip(results: list[tuple[bool, bytes]]) -> None:
    """What eth-abi encodes as results is read back."""
    assert decode_aggregate3(eth_abi.abi.encode(["(bool,bytes)[]"], [results])) == results


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_surprise(data: bytes) -> None:
    """A node that answers nonsense causes UndecodableAnswer or a value, nothing else."""
    for decode in (decode_aggregate3, decode_preflight, lambda raw: decode_result(["uint256", "string"], raw)):
        try:
            decode(data)
        except UndecodableAnswer:
            continue


def test_cut_off_answer_is_noticed() -> None:
    """A result that ends too early is not taken for a short one."""
    whole = eth_abi.abi.encode(["(bool,bytes)[]"], [[(True, b"x" * 40)]])
    with pytest.raises(UndecodableAnswer):
        decode_aggregate3(whole[:-32])


def test_result_is_decoded_by_its_types() -> None:
    """Addresses come as lower-case text, numbers as int."""
    data = eth_abi.abi.encode(["address", "uint256"], [ALICE, 7])
    assert decode_result(["address", "uint256"], data) == ("0x" + ALICE.hex(), 7)


# ---- pre-flight


def request(number: int = 0, *, value: int = 1, valid_before: int = 2) -> PreflightRequest:
    """An item to be tried."""
    return PreflightRequest(
        payer=ALICE,
        value=AtomicAmount(value),
        valid_after=UnixTime(1),
        valid_before=UnixTime(valid_before),
        nonce=AuthorizationNonce(number.to_bytes(32)),
        signature=b"\x11" * 32 + b"\x22" * 32 + b"\x1b",
    )


def test_preflight_is_code_and_arguments() -> None:
    """Creation code, then (address, address, uint256, uint256, bytes) with 86 bytes and the signature an item."""
    head = (ALICE, (1).to_bytes(16), (1).to_bytes(8), (2).to_bytes(8), bytes(32), (65).to_bytes(2))
    packed = b"".join((*head, b"\x11" * 32, b"\x22" * 32, b"\x1b"))
    assert len(packed) == 86 + 65
    expected = eth_abi.abi.encode(
        ["address", "address", "uint256", "uint256", "bytes"], [ALICE, BOB, 500_000, 1, packed]
    )
    assert (
        encode_preflight(ALICE, BOB, [request()], code_payer_gas=500_000) == artifact("Preflight").bytecode + expected
    )


def test_preflight_of_most_items_is_below_the_limit_of_init_code() -> None:
    """250 items fit EIP-3860's 49,152 bytes; one more is refused here."""
    items = [request(number) for number in range(PREFLIGHT_ITEMS_MAX)]
    assert len(encode_preflight(ALICE, BOB, items)) <= 49_152
    with pytest.raises(ValueError, match="one pre-flight takes 250"):
        encode_preflight(ALICE, BOB, [*items, request()])


def test_a_smart_wallets_signature_goes_into_the_transfer_that_takes_bytes() -> None:
    """FiatTokenV2.2's own: of any length, none too; 65 bytes stay r, s, v."""
    arguments = [ALICE, BOB, 5, 6, 7, b"\x08" * 32]
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]
    for signature in (b"", b"\x01" * 64, b"\x02" * 66, b"\x03" * 700):
        data = encode_transfer_with_authorization(
            payer=ALICE,
            pay_to=BOB,
            value=AtomicAmount(5),
            valid_after=UnixTime(6),
            valid_before=UnixTime(7),
            nonce=AuthorizationNonce(b"\x08" * 32),
            signature=signature,
        )
        expected = bytes.fromhex("cf092995") + eth_abi.abi.encode([*types, "bytes"], [*arguments, signature])
        assert data == expected
        found = authorizations_in(Address(b"\x0a" * 20), data, asset=Address(b"\x0a" * 20), multicall3=BOB)
        assert found == [(ALICE, b"\x08" * 32)]


def test_numbers_too_large_for_the_packed_form_stay_large() -> None:
    """A value nobody has and a time that never comes are sent as the largest that fit."""
    data = encode_preflight(ALICE, BOB, [request(value=2**200, valid_before=2**200)])
    item = data[len(artifact("Preflight").bytecode) + 6 * 32 :][:86]
    assert (item[20:36], item[44:52]) == (b"\xff" * 16, b"\xff" * 8)


def test_preflight_answer_is_taken_apart() -> None:
    """Header, items and reasons as contracts/Preflight.sol lays them out."""
    good = bytes([2, 0]) + (0).to_bytes(4) + (500).to_bytes(16) + (60_000).to_bytes(4)
    used = bytes([1, 1]) + (23).to_bytes(4) + (400).to_bytes(16) + (9_000).to_bytes(4)
    left_out = bytes([0, 255]) + bytes(24)
    data = (7).to_bytes(8) + (99).to_bytes(8) + (3).to_bytes(2) + b"\x01" + good + used + left_out + b"\x03abc"
    answer = decode_preflight(data)
    assert (answer.block_number, answer.block_time) == (7, 99)
    first, second, third = answer.items
    assert (first.ok, first.used, first.balance, first.gas_used, first.revert_data) == (True, False, 500, 60_000, b"")
    assert (second.ok, second.used, second.code_size, second.revert_data) == (False, True, 23, b"abc")
    assert (third.ok, third.revert_data) == (False, b"")


@pytest.mark.parametrize("cut", [0, 10, 18, 30])
def test_cut_off_preflight_answer_is_noticed(cut: int) -> None:
    """An answer that ends before its items do."""
    data = bytes(16) + (1).to_bytes(2) + b"\x00" + bytes(26)
    decode_preflight(data)
    with pytest.raises(UndecodableAnswer):
        decode_preflight(data[:cut])


# ---- reasons


def test_string_is_its_own_text() -> None:
    """A require's string is what a person reads."""
    reason = revert_reason(error_string("Pausable: paused"))
    assert (reason.name, reason.text, str(reason)) == ("Error", "Pausable: paused", "Pausable: paused")


def test_string_that_was_cut_off_keeps_its_beginning() -> None:
    """132 bytes hold 64 letters of it."""
    assert str(revert_reason(error_string("x" * 100)[:132])) == "x" * 64


def test_letters_that_do_strange_things_are_replaced() -> None:
    """A contract cannot write line ends or escapes into the log."""
    assert str(revert_reason(error_string("a\n\x1b[31mb"))) == "a··[31mb"


def test_long_string_is_cut() -> None:
    """Nor fill it."""
    assert len(str(revert_reason(error_string("x" * 5_000)))) == 200


@pytest.mark.parametrize(
    ("signature", "args", "text"),
    [
        ("MintToken__CapReached(uint256,uint256)", (3, 2), "MintToken__CapReached(3, 2)"),
        ("MintToken__MintIdUsed(bytes32)", (b"\x01" * 32,), f"MintToken__MintIdUsed(0x{'01' * 32})"),
        ("EnforcedPause()", (), "EnforcedPause()"),
        (
            "ERC20InsufficientBalance(address,uint256,uint256)",
            (ALICE, 1, 2),
            f"ERC20InsufficientBalance(0x{ALICE.hex()}, 1, 2)",
        ),
        (
            "AccessControlUnauthorizedAccount(address,bytes32)",
            (ALICE, bytes(32)),
            f"AccessControlUnauthorizedAccount(0x{ALICE.hex()}, 0x{'00' * 32})",
        ),
    ],
)
def test_custom_errors_have_names(signature: str, args: tuple[object, ...], text: str) -> None:
    """Errors of our contracts and of OpenZeppelin are told by name, with their arguments."""
    reason = revert_reason(encode_call(signature, *args))
    assert reason.name == signature.partition("(")[0]
    assert str(reason) == text


def test_custom_error_that_was_cut_off_keeps_its_name() -> None:
    """Arguments that cannot be read do not hide which error it was."""
    data = encode_call("ERC20InsufficientBalance(address,uint256,uint256)", ALICE, 1, 2)
    assert revert_reason(data[:40]).name == "ERC20InsufficientBalance"


def test_panic_is_explained() -> None:
    """Solidity's own faults have numbers."""
    assert str(revert_reason(encode_call("Panic(uint256)", 0x11))) == "panic 0x11: arithmetic overflow"


def test_unknown_error_shows_its_selector() -> None:
    """So that it can be looked up."""
    reason = revert_reason(bytes.fromhex("deadbeef") + bytes(32))
    assert (reason.name, str(reason)) == ("", "unknown error 0xdeadbeef")


def test_no_data_is_no_reason() -> None:
    """An out-of-gas or a bare revert says nothing."""
    assert str(revert_reason(b"")) == "no reason given"


@given(st.binary(max_size=200), st.sampled_from(["Error(string)", "Panic(uint256)", "MintToken__MintIdUsed(bytes32)"]))
def test_no_data_is_too_strange(data: bytes, signature: str) -> None:
    """Whatever a contract reverts with, there is a text of bounded length."""
    assert len(str(revert_reason(selector(signature) + data))) <= 260
    assert len(str(revert_reason(data))) <= 260
