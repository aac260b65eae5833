"""`payfirst buy` with what cannot be meant: refused before anything is asked or signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from payfirst.cli.buy import KEY_VARIABLE
from payfirst.cli.main import app
from payfirst.errors import PayfirstError

TOKEN = "0x" + "11" * 20
KEY = "0x" + "11" * 32


def refused(*words: str, folder: Path, key: str | None = KEY) -> str:
    """The sentence; `main` shows it and ends with 2."""
    result = CliRunner().invoke(app, ["buy", *words, "--state-dir", str(folder)], env={KEY_VARIABLE: key})
    assert isinstance(result.exception, PayfirstError), result.output
    assert not list(folder.glob("*/*")), "something was kept"
    return str(result.exception)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "what is to be bought?"),
        (("0x1234",), "not an address"),
        (("ftp://127.0.0.1/api/mint/" + TOKEN,), "no http or https URL"),
        (("http://127.0.0.1/api/" + TOKEN,), "the URL of a mint route"),
        (("http://me:word@127.0.0.1/api/mint/" + TOKEN,), "a login in it"),
        ((TOKEN, "--server", "http://shop.example"), "is not https"),
        ((TOKEN, "--recipient", "0xAbCdEf" + "11" * 17), "wrong checksum"),
        ((TOKEN, "--network", "eip155:31337"), "name one with --asset"),
        ((TOKEN, "--network", "nowhere"), "not a network"),
        ((TOKEN, "--asset", "base:0x11:6"), "NETWORK/ADDRESS/DECIMALS"),
        ((TOKEN, "--max-total", "a lot"), "the cap cannot be read"),
        ((TOKEN, "--reference", "../../etc/passwd"), "a reference has 1 to 64"),
        ((TOKEN, "--resume"), "leave the token out"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """It says what to do."""
    assert sentence in refused(*words, folder=tmp_path)


@pytest.mark.parametrize("key", [None, "", "0x1234", "0x" + "00" * 32, "0x" + "ff" * 32])
def test_without_a_key_nothing_is_asked(key: str | None, tmp_path: Path) -> None:
    """No key and no terminal to ask at, or text that is none, which is not repeated."""
    said = refused(TOKEN, folder=tmp_path, key=key)
    assert "key" in said
    assert not key or key not in said


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """As for signers."""
    path = tmp_path / "buyer.key"
    path.write_text(KEY)
    path.chmod(0o644)
    assert "chmod 600" in refused(TOKEN, "--key-file", str(path), folder=tmp_path / "purchases")


def test_a_broken_file_is_named_and_kept(tmp_path: Path) -> None:
    """It may hold a payment: it is not thrown away."""
    folder = tmp_path / "unfinished"
    folder.mkdir()
    broken = folder / "ref.order-1.json"
    broken.write_text("{")
    result = CliRunner().invoke(app, ["buy", "--resume", "--state-dir", str(tmp_path)])
    assert isinstance(result.exception, PayfirstError)
    assert str(broken) in str(result.exception)
    assert "keep it" in str(result.exception)
    assert broken.exists()
