"""The local chain: anvil as chain 84532, with Multicall3 and the development stablecoin where Base Sepolia has them.

Official x402 clients know that chain and that asset by default. All keys here are throw-away: anyone can derive
them, and they must never hold anything anywhere else.

What anvil says of finality: with SLOTS_IN_AN_EPOCH = 1, `safe` is the head's parent and `finalized` the block before it
(one and two epochs back), so both move with every block.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, Self

from eth_account import Account

from payfirst.chain.abi import Artifact, artifact, deployment, encode_call
from payfirst.chain.blocks import Receipt
from payfirst.chain.contracts import MULTICALL3
from payfirst.chain.rpc import Call, RpcClient, RpcUnavailable
from payfirst.errors import OperatorError
from payfirst.local.node import anvil_binary
from payfirst.units import (
    Address,
    AtomicAmount,
    TxHash,
    Wei,
    checksum_address,
    hex_text,
    keccak,
)

HOST: Final = "127.0.0.1"
CHAIN_ID: Final = 84_532  # Base Sepolia
USDC: Final = Address(bytes.fromhex("036cbd53842c5426634e7929541ec2318f3dcf7e"))  # on Base Sepolia
USDC_OWNER_SLOT: Final = 0  # of DevStablecoin

SLOTS_IN_AN_EPOCH: Final = 1
BLOCK_GAS: Final = 1_000_000_000
# anvil copies its whole state for each block it can still be asked about: memory grows with accounts times this.
STATES_KEPT: Final = 128

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
RECEIPT_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.02
PORT_ATTEMPTS: Final = 5
FUND_CHUNK: Final = 400  # accounts in one mintMany: about 11 M gas, 13 KB
ERROR_TEXT_CHARS_MAX: Final = 2_000

_DEPLOYER_GAS: Final = Wei(10_000 * 10**18)


def dev_key(role: str) -> bytes:
    """The local chain's private key of `role`: 32 bytes that anyone can derive."""
    return keccak(f"payfirst local chain: {role}".encode())


def dev_address(role: str) -> Address:
    """The account of `dev_key(role)`."""
    return _address(dev_key(role))


DEV_OWNER_KEY: Final = dev_key("owner")  # owns the stablecoin, deploys


class LocalChain:
    """One anvil process. An async context manager; `start` and `stop` do the same for what lives longer.

    It ends with this process, however that ends (on Linux). With `block_time_s` None there is no mining on its
    own: every method that sends also mines, and `mine` does the rest. anvil keeps a copy of the whole state for
    each of the newest `states_kept` blocks, which comes to gigabytes after 100,000 payments, and every transaction with
    its trace, 3.5 kB a payment and mint; with `blocks_kept` those of the newest blocks only.

    anvil also puts all storage into a new trie for each block, unless the chain begins at the head of another one of
    the same id, `fork_url`: then a block costs nearly the same however much the chain holds, and has no state root.
    anvil asks that other chain for each slot of an account that is there, or that was set in place: so the stablecoin
    is deployed by a transaction, and `usdc` says where.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        block_time_s: float | None = 1.0,
        block_gas: int = BLOCK_GAS,
        states_kept: int = STATES_KEPT,
        blocks_kept: int | None = None,
        fork_url: str | None = None,
    ) -> None:
        self.chain_id = CHAIN_ID
        self.multicall3 = MULTICALL3
        self.usdc = USDC
        self._fixed_port = port
        self._port = port or 0
        self._block_time_s = block_time_s
        self._block_gas = block_gas
        self._states_kept = states_kept
        self._blocks_kept = blocks_kept
        self._fork_url = fork_url
        self._mines_itself = block_time_s is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._rpc: RpcClient | None = None
        self._sending: dict[Address, asyncio.Lock] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The JSON-RPC endpoint: `http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self._port}"

    @property
    def rpc(self) -> RpcClient:
        """A client of this chain, open while the chain runs."""
        if self._rpc is None:
            raise RuntimeError("the local chain is not started")
        return self._rpc

    @property
    def pid(self) -> int | None:
        """The process id of anvil while it runs."""
        return None if self._process is None else self._process.pid

    # ---- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start anvil and set the contracts in place. Raises OperatorError with anvil's own words."""
        if self._process is not None:
            raise RuntimeError("the local chain is started already")
        binary = anvil_binary()
        attempts = 1 if self._fixed_port is not None else PORT_ATTEMPTS
        try:
            for attempt in range(1, attempts + 1):
                if self._fixed_port is None:
                    self._port = _free_port()
                elif not _is_free(self._fixed_port):
                    # Asked before anvil is: what listens there may be another anvil, which would answer for ours.
                    raise OperatorError(_does_not_start(self._port, "Address already in use"))
                self._spawn(binary)
                self._rpc = RpcClient([self.url])
                await self._rpc.__aenter__()
                if await self._answers():
                    break
                said = self._said()
                await self.stop()
                # Someone else can take a free port before anvil does.
                if "Address already in use" not in said or attempt == attempts:
                    raise OperatorError(_does_not_start(self._port, said))
            await self._set_up()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End anvil; the chain is gone with it. Does nothing when it does not run."""
        rpc, self._rpc = self._rpc, None
        if rpc is not None:
            await rpc.__aexit__()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)
        if self._output is not None:
            self._output.close()
            self._output = None

    def _spawn(self, binary: Path) -> None:
        mining = ["--no-mining"] if self._block_time_s is None else ["--block-time", f"{self._block_time_s:g}"]
        keeping = [] if self._blocks_kept is None else ["--transaction-block-keeper", str(self._blocks_kept)]
        forking = [] if self._fork_url is None else ["--fork-url", self._fork_url, "--no-storage-caching"]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(  # noqa: S603 - anvil as found, arguments of our own
            [
                str(binary), "--quiet", "--host", HOST, "--port", str(self._port), "--chain-id", str(self.chain_id),
                *mining, "--order", "fifo", "--gas-limit", str(self._block_gas), "--accounts", "0",
                "--slots-in-an-epoch", str(SLOTS_IN_AN_EPOCH), "--prune-history", str(self._states_kept), "--no-cors",
                *keeping, *forking,
            ],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is payfirst's to handle
            preexec_fn=_dies_with(os.getpid()),
        )  # fmt: skip

    async def _answers(self) -> bool:
        """Whether anvil came up; False when it died. Raises OperatorError when it does neither in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            with contextlib.suppress(RpcUnavailable):
                # Another program may answer on this port: then anvil is about to die of it.
                if await self.rpc.chain_id() == self.chain_id and await self._is_ours():
                    return True
            await asyncio.sleep(POLL_S)
        raise OperatorError(f"anvil does not answer on {self.url} after {START_TIMEOUT_S:.0f} s: {self._said()}")

    async def _is_ours(self) -> bool:
        # A second bind fails at once, so a process that lives on after an answer is the one that gave it.
        await asyncio.sleep(POLL_S)
        return self._process is not None and self._process.poll() is None

    def _said(self) -> str:
        if self._output is None:
            return ""
        self._output.seek(0)
        return self._output.read().decode("utf-8", "replace").strip()[-ERROR_TEXT_CHARS_MAX:]

    async def _set_up(self) -> None:
        owner = _address(DEV_OWNER_KEY)
        await self.set_code(self.multicall3, artifact("Multicall3").runtime)
        await self.fund_gas([owner], _DEPLOYER_GAS)
        if self._fork_url is None:
            await self.set_code(self.usdc, artifact("DevStablecoin").runtime)
        else:
            self.usdc = await self.deploy("DevStablecoin")
        await self._do("anvil_setStorageAt", hex_text(self.usdc), _word(USDC_OWNER_SLOT), _word(int.from_bytes(owner)))
        # A call at anvil's genesis block sees timestamp 1: nobody should ever look there.
        await self.mine(1)

    # ---- transactions ------------------------------------------------------------------------------

    async def deploy(self, contract: str | Artifact, *args: object, key: bytes | None = None) -> Address:
        """Deploy a shipped contract by name, or any artifact; addresses among `args` are 20 bytes."""
        compiled = artifact(contract) if isinstance(contract, str) else contract
        receipt = await self._send(None, deployment(compiled, *args), key)
        if not receipt.succeeded:
            raise OperatorError(f"the local chain refused to deploy {compiled.name}: its constructor reverted.")
        return await self._created(receipt)

    async def send(self, to: Address, data: bytes, key: bytes | None = None, *, gas: int | None = None) -> Receipt:
        """Sign with `key` (the owner's by default), send, and return the receipt once it is mined.

        Without `gas` the node estimates it, so a call that reverts raises RpcRefused with the revert data;
        with `gas` it is mined all the same and the receipt says so. Give `gas` where inner failures are
        tolerated (aggregate3, tryAggregate): an estimate settles for the least gas that does not revert the whole.
        """
        return await self._send(to, data, key, gas=gas)

    async def submit(
        self, to: Address | None, data: bytes, key: bytes | None = None, *, gas: int | None = None
    ) -> TxHash:
        """Sign and broadcast without waiting or mining; `to` None creates a contract. Raises as `send` does."""
        signer = Account.from_key(key or DEV_OWNER_KEY)
        sender = Address(bytes.fromhex(signer.address[2:]))
        # One at a time for each sender, so that two calls at once take two account nonces.
        async with self._sending.setdefault(sender, asyncio.Lock()):
            head = await self.rpc.head()
            fields: dict[str, object] = {
                "type": 2,
                "chainId": self.chain_id,
                "nonce": await self.rpc.account_nonce(sender, "pending"),
                "value": 0,
                "data": data,
                "gas": gas or await self._estimate(sender, to, data),
                "maxFeePerGas": 4 * head.base_fee + 10**9,
                "maxPriorityFeePerGas": 10**6,
            }
            if to is not None:
                fields["to"] = checksum_address(to)
            return await self.rpc.broadcast(bytes(signer.sign_transaction(fields).raw_transaction))

    async def receipt(self, tx_hash: TxHash) -> Receipt:
        """Wait for a transaction to be mined. Raises TimeoutError after RECEIPT_TIMEOUT_S."""
        async with asyncio.timeout(RECEIPT_TIMEOUT_S):
            while True:
                (found,) = await self.rpc.receipts([tx_hash])
                if found is not None:
                    return found
                await asyncio.sleep(POLL_S)

    async def call(self, to: Address, data: bytes) -> bytes:
        """`eth_call` at the head. Raises RpcRefused with the revert data when it reverts."""
        return await self.rpc.eth_call(to=to, data=data)

    async def _send(self, to: Address | None, data: bytes, key: bytes | None, *, gas: int | None = None) -> Receipt:
        tx_hash = await self.submit(to, data, key, gas=gas)
        if not self._mines_itself:
            await self.mine(1)
        return await self.receipt(tx_hash)

    async def _estimate(self, sender: Address, to: Address | None, data: bytes) -> int:
        fields = {"from": hex_text(sender), "data": hex_text(data)}
        if to is not None:
            fields["to"] = hex_text(to)
        gas = int(await self.rpc.call("eth_estimateGas", fields, "pending", result=str), 16)
        return gas * 6 // 5

    async def _created(self, receipt: Receipt) -> Address:
        wire = await self.rpc.call("eth_getTransactionReceipt", hex_text(receipt.tx_hash), result=dict[str, object])
        return Address(bytes.fromhex(str(wire["contractAddress"])[2:]))

    # ---- money -------------------------------------------------------------------------------------

    async def fund_gas(self, addresses: Sequence[Address], wei: Wei) -> None:
        """Set the native balance of each address, without a transaction."""
        calls = [Call("anvil_setBalance", (hex_text(address), hex(wei))) for address in addresses]
        await self.rpc.batch(calls, result=object)

    async def fund_usdc(self, addresses: Sequence[Address], amount: AtomicAmount) -> None:
        """Give each address `amount` more of the stablecoin; returns when all of it is mined."""
        hashes = [
            await self.submit(
                self.usdc,
                encode_call("mintMany(address[],uint256)", list(addresses[start : start + FUND_CHUNK]), amount),
                DEV_OWNER_KEY,
            )
            for start in range(0, len(addresses), FUND_CHUNK)
        ]
        if not self._mines_itself:
            await self.mine(1)
        for tx_hash in hashes:
            if not (await self.receipt(tx_hash)).succeeded:
                raise OperatorError("the local chain refused to fund accounts: is one of them blacklisted or zero?")

    # ---- the chain itself --------------------------------------------------------------------------

    async def mine(self, blocks: int = 1) -> None:
        """Mine `blocks` now. Each is at least a second of chain time later than the one before it."""
        await self._do("anvil_mine", hex(blocks))

    async def set_automine(self, on: bool) -> None:
        """Mine a block for each transaction at once; off: no mining at all until `set_interval` or `mine`."""
        await self._do("evm_setAutomine", on)
        if not on:
            await self._do("evm_setIntervalMining", 0)
        self._mines_itself = on

    async def set_interval(self, seconds: int) -> None:
        """A block every so many whole seconds; 0 stops mining."""
        await self._do("evm_setIntervalMining", seconds)
        self._mines_itself = seconds > 0

    async def set_code(self, address: Address, code: bytes) -> None:
        """Make `code` the runtime code of `address`; empty makes it an ordinary account again."""
        await self._do("anvil_setCode", hex_text(address), hex_text(code))

    async def _do(self, method: str, *params: object) -> None:
        await self.rpc.call(method, *params, result=object)


def _address(key: bytes) -> Address:
    return Address(bytes.fromhex(Account.from_key(key).address[2:]))


def _word(number: int) -> str:
    return hex_text(number.to_bytes(32))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that lingers is no listener
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes anvil: ask the kernel for SIGTERM when its parent is gone."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: little is safe between fork and exec
    set_parent_death_signal = 1

    def ask() -> None:
        prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it went in between
            os._exit(1)

    return ask


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


def _does_not_start(port: int, said: str) -> str:
    hint = " Choose another port, or stop what listens there." if "Address already in use" in said else ""
    return f"anvil, the local chain, does not start on port {port}: {said or 'it says nothing'}.{hint}"
