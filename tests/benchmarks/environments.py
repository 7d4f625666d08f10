"""An environment for each contender, below ``.bench`` in the project's directory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

__all__ = ["ROOT", "Environment", "environments"]

ROOT = Path(__file__).resolve().parents[2] / ".bench"

_VERSIONS = (
    "import importlib.metadata as m, json, platform;"
    "print(json.dumps({'python': platform.python_version()}"
    " | {d.name.lower(): d.version for d in m.distributions()}))"
)


class Environment:
    """Where a contender's Python and commands are.

    Args:
        packages: what it was given; empty for the environment of this process.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages
        if packages:
            digest = sha256(f"{sys.version} {packages}".encode()).hexdigest()[:8]
            name = packages[0].partition("[")[0]
            self._directory = ROOT / f"{name}-{digest}"
        else:
            self._directory = Path(sys.prefix)

    @property
    def bin(self) -> Path:
        """The directory of its commands."""
        return self._directory / "bin"

    def install(self) -> None:
        """Install the packages, once."""
        done = self._directory / "installed"
        if not self._packages or done.exists():
            return
        self._run(sys.executable, "-m", "venv", str(self._directory))
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self._run(str(self.bin / "python"), *pip, *self._packages)
        done.touch()

    def versions(self) -> dict[str, str]:
        """Return the version of every package in it, and of its Python."""
        versions: dict[str, str] = json.loads(self._run(str(self.bin / "python"), "-c", _VERSIONS))
        return versions

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return done.stdout


def environments(wanted: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Environment]:
    """Return an installed environment for each set of packages."""
    found = {packages: Environment(packages) for packages in wanted}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Environment.install, found.values()))
    return found
