"""What the documents say is there, is there."""

from __future__ import annotations

import re
import shlex
from decimal import Decimal
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from payfirst import lifecycle
from payfirst.cli.main import app
from payfirst.config import PRESETS, SETTINGS, VARIABLES

ROOT = Path(__file__).parents[2]
GROUPS = {group.name for group in app.registered_groups}
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    """A document of the project's root."""
    return (ROOT / name).read_text(encoding="utf-8")


def options_of(path_to_command: list[str]) -> set[str]:
    """The options that a command takes."""
    command = typer.main.get_command(app)
    for word in path_to_command:
        command = command.commands[word]  # type: ignore[attr-defined]  # a group, or the test above has failed
    return {option for parameter in command.params for option in parameter.opts}


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
        if path_to_command[0] not in GROUPS:
            path_to_command = path_to_command[:1]
        result = CliRunner().invoke(app, [*path_to_command, "--help"])
        assert result.exit_code == 0, line
        known = options_of(path_to_command)
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
