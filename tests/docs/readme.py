"""READMEs in two languages, taken apart: what must be the same in both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"

_FENCE = re.compile(r"^( *)```([a-z]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)
_TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
_SAME = re.compile(r"`[^`]+`|\d+")
_LINK = re.compile(r"\]\(([^)]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    number: int  # from 1, over the whole document
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Readme:
    """One document."""

    path: Path
    blocks: tuple[Block, ...]
    headings: tuple[str, ...]  # their levels
    tables: tuple[tuple[tuple[str, ...], ...], ...]  # the code spans of each cell, row by row
    links: tuple[str, ...]

    @property
    def name(self) -> str:
        """How a failed test calls it."""
        return self.path.name

    @property
    def commands(self) -> list[str]:
        """Each line of its shell blocks."""
        return [line.strip() for block in self.blocks if block.language == "sh" for line in block.text.splitlines()]


def read(path: Path) -> Readme:
    """Take a document apart."""
    text = path.read_text(encoding="utf-8")
    blocks = tuple(
        Block(n, text.count("\n", 0, found.start()) + 1, found[2], re.sub(rf"^{found[1]}", "", found[3], flags=re.M))
        for n, found in enumerate(_FENCE.finditer(text), start=1)
    )
    prose = _FENCE.sub("", text)
    return Readme(
        path=path,
        blocks=blocks,
        headings=tuple(_HEADING.findall(prose)),
        tables=tuple(tuple(_cells(row) for row in table.splitlines()) for table in _TABLE.findall(prose)),
        links=tuple(link for link in _LINK.findall(prose) if not link.startswith(("README", "OPERATIONS"))),
    )


def _cells(row: str) -> tuple[str, ...]:
    """What of each cell is the same in every language: its code, and the numbers in it."""
    cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    return tuple(" ".join(_SAME.findall(cell)) for cell in cells)


def differences(one: Readme, other: Readme) -> list[str]:
    """Where the two are not the same document, a sentence each that says where to look."""
    found = []
    if one.headings != other.headings:
        found.append(f"headings: {' '.join(one.headings)} in {one.name}, {' '.join(other.headings)} in {other.name}")
    if len(one.blocks) != len(other.blocks):
        found.append(f"{one.name} has {len(one.blocks)} code blocks, {other.name} has {len(other.blocks)}")
    for mine, theirs in zip(one.blocks, other.blocks, strict=False):
        # A drawing (no language) is translated; what is typed or parsed is not.
        if (mine.language, mine.text) != (theirs.language, theirs.text) and (mine.language or theirs.language):
            found.append(
                f"code block {mine.number}: {one.name} line {mine.line} ({mine.language})\n{mine.text}"
                f"is not {other.name} line {theirs.line} ({theirs.language})\n{theirs.text}"
            )
    if len(one.tables) != len(other.tables):
        found.append(f"{one.name} has {len(one.tables)} tables, {other.name} has {len(other.tables)}")
    for number, (mine_, theirs_) in enumerate(zip(one.tables, other.tables, strict=False), start=1):
        for row in range(max(len(mine_), len(theirs_))):
            here, there = (t[row] if row < len(t) else "no such row" for t in (mine_, theirs_))
            if here != there:
                found.append(f"table {number}, row {row + 1}: {here} in {one.name}, {there} in {other.name}")
    if one.links != other.links:
        only = sorted(set(one.links) ^ set(other.links)) or "their order"
        found.append(f"links: {only} in one of {one.name} and {other.name} only")
    return found
