"""deploy/Dockerfile and deploy/compose.yaml: no image is built here, so what they install is installed without one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import environment
from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.config import VARIABLES

from .units import ROOT

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
INSTALL_TIMEOUT_S = 240


def instructions(word: str) -> list[str]:
    """What follows each of one instruction."""
    return re.findall(rf"^{word} (.+)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_install_commands_work(tmp_path: Path) -> None:
    """Each RUN line in its order, in a folder that holds what git holds; at its end a payfirst that runs."""
    source, places = tmp_path / "src", {}
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for place in ("/opt/build", "/opt/payfirst", "/wheels", "/tmp/wheels", "/tmp/runtime.txt"):  # noqa: S108 - renamed
        places[place] = str(tmp_path / place.strip("/").replace("/", "-"))
    shutil.copy(source / "requirements" / "runtime.txt", places["/tmp/runtime.txt"])  # noqa: S108
    places["/tmp/wheels"] = places["/wheels"]  # noqa: S108 - COPY --from=build
    ran = 0
    for line in instructions("RUN"):
        if line.startswith("useradd "):
            continue  # the image's own account
        command = re.sub("|".join(sorted(places, key=len, reverse=True)), lambda found: places[found[0]], line)
        done = subprocess.run(
            ["sh", "-euc", command], cwd=source, env=environment(), capture_output=True, text=True,
            timeout=INSTALL_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"RUN {line}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
        ran += 1
    assert ran == 6
    entry = Path(places["/opt/payfirst"]) / "bin" / json.loads(instructions("ENTRYPOINT")[0])[0]
    assert subprocess.run([entry, "version"], env=environment(), check=False).returncode == 0


def test_what_it_copies_and_sets_exists() -> None:
    """Sources, settings, and an account that is not root."""
    for line in instructions("COPY"):
        for name in line.split()[:-1]:
            assert name.startswith("--from=") or name == "/wheels" or (ROOT / name).exists(), name
    for variable in re.findall(r"PAYFIRST_[A-Z_]+", DOCKERFILE):
        assert variable in VARIABLES or variable == "PAYFIRST_CONFIG", variable
    assert instructions("USER") == ["payfirst"]


def test_compose_gives_each_service_what_it_needs_and_the_api_no_key() -> None:
    """The commands exist, the settings exist, and only the worker mounts what opens a key."""
    services = {name: s for name, s in COMPOSE["services"].items() if "build" in s}
    assert set(services) == {"upgrade", "api", "worker"}
    for name, service in services.items():
        assert CliRunner().invoke(app, [*service["command"], "--help"]).exit_code == 0, name
        for variable in service["environment"]:
            assert variable in VARIABLES or variable == "DATABASE_URL", variable
        has_keys = "passphrase" in str(service["volumes"]) or "signers" in str(service["volumes"])
        assert has_keys is (name == "worker"), name
        assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert COMPOSE["services"]["api"]["ports"] == ["127.0.0.1:4021:4021"]
