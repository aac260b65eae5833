"""The local chain: it starts, has what it promises, and never outlives its user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from payfirst.chain.contracts import MULTICALL3, artifact, decode_result, encode_call
from payfirst.chain.rpc import RpcClient, RpcRefused, RpcUnavailable
from payfirst.errors import OperatorError
from payfirst.local.chain import (
    CHAIN_ID,
    USDC,
    LocalChain,
    dev_address,
    dev_key,
)
from payfirst.units import Address, AtomicAmount, Wei, checksum_address, hex_text, keccak

DEADLINE_S = 20.0
SOMEBODY = Address(keccak(b"somebody")[:20])

# Starts a chain, tells its process id and url, and waits to be killed.
USER = """
import asyncio
from payfirst.local.chain import LocalChain

async def main():
    async with LocalChain(block_time_s=None) as chain:
        print(chain.pid, chain.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def still() -> AsyncIterator[LocalChain]:
    """A chain that does not mine on its own."""
    async with LocalChain(block_time_s=None) as chain:
        yield chain


async def answers(url: str) -> bool:
    """Whether a node serves this url."""
    async with RpcClient([url], timeout_s=2.0) as rpc:
        try:
            await rpc.chain_id()
        except RpcUnavailable:
            return False
    return True


def lives(pid: int) -> bool:
    """Whether a process has this id; a zombie has ended, whoever has yet to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_dead(pid: int) -> None:
    """Return when no process has this id any more; fails after a deadline."""
    end = time.monotonic() + DEADLINE_S
    while lives(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def user_of_a_chain() -> Iterator[tuple[int, str]]:
    """Process id and url of an anvil that another process started; that process is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", USER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        pid, url = process.stdout.readline().split()
        yield int(pid), url
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_it_is_base_sepolia_with_its_contracts(still: LocalChain) -> None:
    """Chain id, USDC and Multicall3 are where official clients expect them."""
    assert await still.rpc.chain_id() == CHAIN_ID == 84_532
    assert checksum_address(still.usdc) == "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
    for address, name in ((USDC, "DevStablecoin"), (MULTICALL3, "Multicall3")):
        code = await still.rpc.call("eth_getCode", hex_text(address), "latest", result=str)
        assert bytes.fromhex(code[2:]) == artifact(name).runtime


async def test_head_is_never_the_genesis_block(still: LocalChain) -> None:
    """A call at the head sees the head's time, which it does not at anvil's genesis block."""
    head = await still.rpc.head()
    answer = await still.call(MULTICALL3, encode_call("getCurrentBlockTimestamp()"))
    assert decode_result(["uint256"], answer) == (head.time,)


async def test_one_that_begins_at_the_head_of_another_is_its_own(still: LocalChain) -> None:
    """It has a stablecoin of its own, which works; what happens on it does not happen on the other."""
    async with LocalChain(block_time_s=None, fork_url=still.url) as chain:
        assert chain.usdc != still.usdc
        assert (await chain.rpc.head()).number > (before := (await still.rpc.head()).number)
        await chain.fund_usdc([SOMEBODY], AtomicAmount(7))
        balance = encode_call("balanceOf(address)", SOMEBODY)
        assert decode_result(["uint256"], await chain.call(chain.usdc, balance)) == (7,)
        assert decode_result(["uint256"], await still.call(still.usdc, balance)) == (0,)
        time_there = decode_result(["uint256"], await chain.call(MULTICALL3, encode_call("getCurrentBlockTimestamp()")))
        assert time_there == ((await chain.rpc.head()).time,)
        assert (await still.rpc.head()).number == before


async def test_its_blocks_make_no_trie_of_all_there_is(still: LocalChain) -> None:
    """That is what makes a block cost the same however much the chain holds; the other has a root in each."""
    async with LocalChain(block_time_s=None, fork_url=still.url) as chain:
        roots = []
        for each in (still, chain):
            await each.mine(1)
            block = await each.rpc.call("eth_getBlockByNumber", "latest", False, result=dict[str, object])
            roots.append(int(str(block["stateRoot"]), 16))
        assert roots[0]
        assert not roots[1]


async def test_safe_and_finalized_follow_the_head(still: LocalChain) -> None:
    """Safe is one block behind, finalized two."""
    await still.mine(10)
    latest, safe, finalized = [(await still.rpc.head(tag)).number for tag in ("latest", "safe", "finalized")]
    assert (latest - safe, latest - finalized) == (1, 2)


async def test_blocks_come_by_themselves() -> None:
    """With a block time a transaction is mined without being asked for."""
    async with LocalChain(block_time_s=0.2) as chain:
        receipt = await chain.send(USDC, encode_call("mint(address,uint256)", SOMEBODY, 1))
        assert receipt.succeeded


async def test_without_mining_a_submitted_transaction_waits(still: LocalChain) -> None:
    """It is in the pool and in no block until one is mined."""
    tx_hash = await still.submit(USDC, encode_call("mint(address,uint256)", SOMEBODY, 1))
    assert await still.rpc.receipts([tx_hash]) == [None]
    assert await still.rpc.is_known(tx_hash)
    await still.mine()
    assert (await still.receipt(tx_hash)).succeeded


async def test_automine_can_be_switched(still: LocalChain) -> None:
    """On: a block for each transaction. Off: none."""
    await still.set_automine(True)
    tx_hash = await still.submit(USDC, encode_call("mint(address,uint256)", SOMEBODY, 1))
    assert (await still.receipt(tx_hash)).succeeded
    await still.set_automine(False)
    waiting = await still.submit(USDC, encode_call("mint(address,uint256)", SOMEBODY, 1))
    assert await still.rpc.receipts([waiting]) == [None]


async def test_interval_can_be_set(still: LocalChain) -> None:
    """From then on blocks come by themselves."""
    await still.set_interval(1)
    assert (await still.send(USDC, encode_call("mint(address,uint256)", SOMEBODY, 1))).succeeded


async def test_transactions_at_once_take_their_own_nonces(still: LocalChain) -> None:
    """Ten submissions of one sender at the same time are all mined."""
    data = encode_call("mint(address,uint256)", SOMEBODY, 1)
    hashes = await asyncio.gather(*(still.submit(USDC, data) for _ in range(10)))
    await still.mine()
    receipts = [await still.receipt(tx_hash) for tx_hash in hashes]
    assert len(set(hashes)) == 10
    assert all(receipt.succeeded for receipt in receipts)


async def test_deployment_gives_an_address_with_code(still: LocalChain) -> None:
    """A shipped contract by name, with its constructor's arguments, by a key that has gas."""
    key = dev_key("someone")
    await still.fund_gas([dev_address("someone")], Wei(10**18))
    owner = dev_address("owner")
    token = await still.deploy("MintToken", "Pass", "PASS", 1, 1, owner, owner, key=key)
    assert decode_result(["string"], await still.call(token, encode_call("name()"))) == ("Pass",)


async def test_refused_transaction_is_told_at_once(still: LocalChain) -> None:
    """What would revert is refused before it is sent, with the revert data."""
    with pytest.raises(RpcRefused) as caught:
        await still.send(USDC, encode_call("transfer(address,uint256)", SOMEBODY, 1))
    assert caught.value.data != b""


async def test_with_gas_given_it_is_mined_reverted(still: LocalChain) -> None:
    """For tests of what happens on chain."""
    receipt = await still.send(USDC, encode_call("transfer(address,uint256)", SOMEBODY, 1), gas=100_000)
    assert not receipt.succeeded


async def test_money_for_gas_and_payments(still: LocalChain) -> None:
    """Both kinds are given to many at once."""
    many = [Address(keccak(str(number).encode())[:20]) for number in range(3)]
    await still.fund_gas(many, Wei(5))
    await still.fund_usdc(many, AtomicAmount(7))
    assert await still.rpc.balance(many[2]) == 5
    assert decode_result(["uint256"], await still.call(USDC, encode_call("balanceOf(address)", many[2]))) == (7,)


async def test_roles_have_keys_of_their_own() -> None:
    """Keys follow from the role's name, and nothing else."""
    assert dev_key("buyer 1") == keccak(b"payfirst local chain: buyer 1")
    assert dev_address("buyer 1") != dev_address("buyer 2")


async def test_stop_ends_anvil() -> None:
    """After the block neither process nor endpoint is there."""
    async with LocalChain(block_time_s=None) as chain:
        pid, url = chain.pid, chain.url
        assert await answers(url)
    assert pid is not None
    assert not lives(pid)
    assert not await answers(url)


async def test_stop_twice_is_no_fault() -> None:
    """Whoever cleans up need not know who did before."""
    chain = LocalChain(block_time_s=None)
    await chain.start()
    await chain.stop()
    await chain.stop()
    assert chain.pid is None


async def test_stopped_chain_starts_afresh() -> None:
    """start after stop gives a new chain."""
    chain = LocalChain(block_time_s=None)
    await chain.start()
    await chain.mine(5)
    await chain.stop()
    await chain.start()
    try:
        assert (await chain.rpc.head()).number == 1
    finally:
        await chain.stop()


async def test_killed_user_takes_anvil_along() -> None:
    """kill -9 of the process that started it ends anvil too."""
    with user_of_a_chain() as (pid, url):
        assert await answers(url)
    await until_dead(pid)
    assert not await answers(url)


async def test_taken_port_is_told() -> None:
    """A port that was asked for and is taken gives anvil's own words and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"port {port}: .*Choose another port"):
            await LocalChain(port=port).start()


async def test_port_of_another_chain_is_not_mistaken_for_ours(still: LocalChain) -> None:
    """Another anvil that answers there is not the one that was started."""
    port = int(still.url.rpartition(":")[2])
    with pytest.raises(OperatorError, match="Choose another port"):
        await LocalChain(port=port).start()
    assert await still.rpc.chain_id() == CHAIN_ID


async def test_given_port_is_used() -> None:
    """The chain serves where it was told to."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with LocalChain(port=port, block_time_s=None) as chain:
        assert chain.url == f"http://127.0.0.1:{port}"


async def test_anvil_that_dies_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator reads what the program said."""
    program = tmp_path / "anvil"
    program.write_text("#!/bin/sh\necho 'this machine is too old' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PAYFIRST_ANVIL", str(program))
    chain = LocalChain()
    with pytest.raises(OperatorError, match="this machine is too old"):
        await chain.start()
    assert chain.pid is None


async def test_anvil_that_died_is_not_waited_for() -> None:
    """stop after anvil was killed by someone else comes to an end."""
    async with LocalChain(block_time_s=None) as chain:
        assert chain.pid is not None
        os.kill(chain.pid, signal.SIGKILL)
    assert chain.pid is None


async def test_unstarted_chain_has_no_client() -> None:
    """Use before start is a fault of the program."""
    with pytest.raises(RuntimeError, match="not started"):
        _ = LocalChain().rpc
