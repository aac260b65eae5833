"""What the documents say is there, is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from payfirst import lifecycle
from payfirst.cli.main import app
from payfirst.config import PRESETS, SETTINGS, VARIABLES

ROOT = Path(__file__).parents[2]
PAYFIRST: Any = typer.main.get_command(app)
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    """A document of the project's root."""
    return (ROOT / name).read_text(encoding="utf-8")


def command_of(words: list[str]) -> Any:
    """The command, or the group, that these words name; None where there is none."""
    command = PAYFIRST
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command


def every_command(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """Each of a group, in words."""
    for name, command in group.commands.items():
        yield (*words, name)
        if hasattr(command, "commands"):
            yield from every_command(command, *words, name)


def test_every_command_says_what_it_is() -> None:
    """By --help; the options are those of the documents' test below."""
    commands = list(every_command(PAYFIRST))
    assert len(commands) > 50
    for words in commands:
        result = CliRunner().invoke(app, [*words, "--help"])
        assert result.exit_code == 0, words
        assert command_of(list(words)).help.partition(".")[0].split()[0] in result.stdout, words


def test_the_diagrams_are_drawn_from_the_tables() -> None:
    """`python -m payfirst.lifecycle` prints what stands in ARCHITECTURE.md."""
    drawn = re.search(r"<!-- lifecycle:[^>]*-->\n(.*)<!-- /lifecycle -->", text_of("ARCHITECTURE.md"), re.DOTALL)
    assert drawn is not None
    assert drawn.group(1).strip() == lifecycle.mermaid().strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists(path: Path) -> None:
    """`payfirst …` and `make …` as they are printed, with the options that they are printed with."""
    document = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    spoken = set(re.findall(r"`(payfirst [a-z][^`]*)`", document))
    for block in re.findall(r"```sh\n(.*?)```", document, re.DOTALL):
        spoken |= set(re.findall(r"^\s*(payfirst .*)$", block, re.MULTILINE))
    for line in spoken:
        words = shlex.split(line)[1:]
        path_to_command = [word for word in words if re.fullmatch(r"[a-z]+(?:-[a-z]+)?", word)][:2]
        if not hasattr(command_of(path_to_command[:1]), "commands"):
            path_to_command = path_to_command[:1]
        command = command_of(path_to_command)
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", document, re.MULTILINE):
        assert target in targets, target


def test_the_table_of_networks_holds_the_presets() -> None:
    """Each setting of each preset with its value, and no other; the reasons stand in the file that init writes."""
    rows = re.findall(r"^\| `([a-z_.]+)`[^|]*\| ([^|]+) \| ([^|]+) \|$", text_of("docs/networks.md"), re.MULTILINE)
    assert {setting for setting, _, _ in rows} == set(PRESETS["base"]) == set(PRESETS["base-sepolia"])
    for setting, *shown in rows:
        for network, value in zip(("base", "base-sepolia"), shown, strict=True):
            known = PRESETS[network][setting]
            assert value == (f"{float(known):g}" if isinstance(known, Decimal) else str(known)), setting


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_in_a_document_exists(path: Path) -> None:
    """`section.key` and PAYFIRST_SECTION__KEY."""
    document = path.read_text(encoding="utf-8")
    sections = {setting.partition(".")[0] for setting in SETTINGS if "." in setting}
    for named in re.findall(r"`([a-z]+\.[a-z_0-9]+)(?: = [^`]*)?`", document):
        if named.partition(".")[0] in sections and not named.endswith((".py", ".md", ".reserved")):
            assert named in SETTINGS, named
    for variable in re.findall(r"PAYFIRST_[A-Z]+__[A-Z_]+", document):
        assert variable in VARIABLES, variable


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_in_a_document_exists(path: Path) -> None:
    """Paths between backticks that look like the project's own."""
    for named in re.findall(
        r"`((?:src|contracts|tests|requirements|deploy)/[A-Za-z0-9_./-]+)`", path.read_text(encoding="utf-8")
    ):
        assert (ROOT / named).exists(), named
    for named in re.findall(r"`((?:x402|chain|store|pipeline|api)/[a-z_0-9]+\.py)`", path.read_text(encoding="utf-8")):
        assert (ROOT / "src" / "payfirst" / named).exists(), named


def test_the_log_lines_in_the_readme_are_those_that_are_written() -> None:
    """Event names in the table are the log's."""
    source = (ROOT / "src" / "payfirst" / "ops" / "log.py").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z_]+)` \| ", text_of("README.md"), re.MULTILINE)
    assert len(table) == 6
    for event in table:
        assert f'"{event}"' in source


def test_no_file_names_a_registry_or_holds_a_download_address() -> None:
    """Pinned by hash, fetched from wherever the reader's tools are set up to look."""
    for lock in (text_of("package-lock.json"), text_of("tests/conformance/npm/package-lock.json")):
        assert not re.search('"resolve[d]"', lock)  # in brackets, so that a search of this file finds no such line
        assert '"integrity"' in lock
    for path in (ROOT / "requirements").iterdir():
        found = path.read_text(encoding="utf-8")
        assert "://" not in found
        assert not re.search("--index[-]url", found)
