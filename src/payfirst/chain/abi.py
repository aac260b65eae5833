"""Artifacts of the contracts, and the contract ABI in general, through eth-abi.

The artifacts are compiled from contracts/ (`make contracts`) and ship as package data. A selector is the first
four bytes of the keccak of the signature (Solidity's contract ABI specification).
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import eth_abi.abi
import eth_abi.exceptions
import msgspec

from payfirst.units import keccak


class UndecodableAnswer(ValueError):
    """A contract's answer does not have the form that its ABI promises."""


@dataclass(frozen=True, slots=True)
class AbiEntry:
    """One entry of an ABI: `kind` is function, constructor, event or error; `inputs` are types as in signatures."""

    kind: str
    name: str
    inputs: tuple[str, ...]

    @property
    def signature(self) -> str:
        """`name(type,type)`."""
        return f"{self.name}({','.join(self.inputs)})"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract. `bytecode` is its creation code, empty for code that is only ever set in place.

    In `runtime`, immutables are zero: only code without them may be set in place.
    """

    name: str
    abi: tuple[AbiEntry, ...]
    bytecode: bytes
    runtime: bytes


class _Parameter(msgspec.Struct):
    type: str
    components: list[_Parameter] = []


class _Entry(msgspec.Struct):
    type: str
    name: str = ""
    inputs: list[_Parameter] = []


class _Artifact(msgspec.Struct, rename="camel"):
    contract_name: str
    abi: list[_Entry]
    bytecode: str
    runtime_bytecode: str


@functools.cache
def artifact(name: str) -> Artifact:
    """A contract that ships: DevStablecoin, MintToken, Multicall3 or Preflight. Raises FileNotFoundError."""
    file = importlib.resources.files("payfirst.chain") / "artifacts" / f"{name}.json"
    return parse_artifact(file.read_bytes())


def parse_artifact(document: bytes) -> Artifact:
    """An artifact from the JSON that contracts/build.mjs writes. Raises ValueError on another form."""
    wire = msgspec.json.decode(document, type=_Artifact)
    return Artifact(
        name=wire.contract_name,
        abi=tuple(AbiEntry(entry.type, entry.name, tuple(map(_type_text, entry.inputs))) for entry in wire.abi),
        bytecode=bytes.fromhex(wire.bytecode[2:]),
        runtime=bytes.fromhex(wire.runtime_bytecode[2:]),
    )


def _type_text(wire: _Parameter) -> str:
    if not wire.type.startswith("tuple"):
        return wire.type
    return f"({','.join(_type_text(part) for part in wire.components)}){wire.type.removeprefix('tuple')}"


@functools.cache
def selector(signature: str) -> bytes:
    """The four bytes of `name(type,type)`; no spaces, no aliases."""
    return keccak(signature.encode())[:4]


def encode_call(signature: str, *args: object) -> bytes:
    """Calldata of `name(type,type)`. Raises eth_abi's EncodingError when the arguments do not fit."""
    return selector(signature) + encode_arguments(argument_types(signature), args)


def encode_arguments(types: Sequence[str], args: Sequence[object]) -> bytes:
    """ABI encoding of `args` as `types`; addresses are 20 bytes."""
    if len(types) != len(args):
        raise ValueError(f"expected {len(types)} arguments, got {len(args)}")
    return eth_abi.abi.encode(types, args)


def encode_constructor(name: str, *args: object) -> bytes:
    """Creation code of a shipped contract followed by its arguments: the data of a deployment."""
    return deployment(artifact(name), *args)


def deployment(compiled: Artifact, *args: object) -> bytes:
    """Creation code of `compiled` followed by its arguments. Raises ValueError when it has no creation code."""
    if not compiled.bytecode:
        raise ValueError(f"{compiled.name} is set in place, it is not deployed")
    constructor = next((entry for entry in compiled.abi if entry.kind == "constructor"), None)
    return compiled.bytecode + encode_arguments(constructor.inputs if constructor else (), args)


def decode_result(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """A view's answer as `types`; addresses come as lower-case text. Raises UndecodableAnswer.

    Any, because the types are known only at run time: the caller assigns to typed names.
    """
    try:
        return eth_abi.abi.decode(types, data)
    except (eth_abi.exceptions.DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise UndecodableAnswer(f"expected ({', '.join(types)}), got {len(data)} bytes: {error}") from error


def argument_types(signature: str) -> list[str]:
    """The types between the outer brackets of `name(type,type)`."""
    inside = signature[signature.index("(") + 1 : -1]
    types: list[str] = []
    depth, start = 0, 0
    for place, letter in enumerate(inside):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            types.append(inside[start:place])
            start = place + 1
    return [*types, inside[start:]] if inside else []
