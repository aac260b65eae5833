"""Where anvil is found, and what is said where it is not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from payfirst.errors import OperatorError
from payfirst.local import node


def program(path: Path) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def packaged(root: Path) -> Path:
    """Where npm puts the anvil of Linux on x86-64."""
    return root / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"


@pytest.fixture(autouse=True)
def _on_linux_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_named_anvil_comes_first(tmp_path: Path) -> None:
    """PAYFIRST_ANVIL wins over the package and PATH."""
    program(packaged(tmp_path))
    named = program(tmp_path / "mine")
    assert node.anvil_binary({"PAYFIRST_ANVIL": str(named)}, root=tmp_path) == named


def test_named_anvil_has_to_be_there(tmp_path: Path) -> None:
    """A wrong PAYFIRST_ANVIL is told, not passed over."""
    program(packaged(tmp_path))
    with pytest.raises(OperatorError, match="PAYFIRST_ANVIL"):
        node.anvil_binary({"PAYFIRST_ANVIL": str(tmp_path / "absent")}, root=tmp_path)


def test_packaged_anvil_comes_before_path(tmp_path: Path) -> None:
    """The pinned version is used where there is one."""
    expected = program(packaged(tmp_path))
    program(tmp_path / "bin" / "anvil")
    assert node.anvil_binary({"PATH": str(tmp_path / "bin")}, root=tmp_path) == expected


def test_anvil_on_path_will_do(tmp_path: Path) -> None:
    """Foundry's own installation serves where npm has no package."""
    expected = program(tmp_path / "bin" / "anvil")
    assert node.anvil_binary({"PATH": str(tmp_path / "bin")}, root=tmp_path) == expected


def test_without_anvil_the_operator_is_told_what_to_do(tmp_path: Path) -> None:
    """The sentence names the command and the variable."""
    with pytest.raises(OperatorError, match=r"make setup.*PAYFIRST_ANVIL"):
        node.anvil_binary({"PATH": str(tmp_path)}, root=tmp_path)


def test_outside_a_checkout_npm_is_not_started(tmp_path: Path) -> None:
    """Without package.json there is nothing to install."""
    with pytest.raises(OperatorError, match="source checkout"):
        node.npm_ci(root=tmp_path)


@pytest.mark.parametrize("arguments", [[], ["install"], ["run"]])
def test_other_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command line knows `ci` and `run NAME`."""
    assert node.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_folder_without_a_package_json_is_refused(tmp_path: Path) -> None:
    """`… ci FOLDER` names the folder that it was given."""
    with pytest.raises(OperatorError, match=str(tmp_path)):
        node.npm_ci_required(tmp_path)
