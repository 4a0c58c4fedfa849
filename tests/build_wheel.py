"""Builds the wheel from a copy of the sources: `python tests/build_wheel.py FOLDER` leaves FOLDER/mindvl-*.whl.

A copy, so that the checkout gets no build/ and lends the wheel no leftovers.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def build(folder: Path) -> int:
    """Exit code of pip; its complaints go to stderr."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / file, source)
        for package in ("mindvl", "callbacks"):
            shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
        if _setuptools_version() >= 77:
            command.append("--no-build-isolation")  # else pip fetches the setuptools that pyproject.toml asks for
        return subprocess.run([*command, "--wheel-dir", str(folder), "."], cwd=source, stdout=sys.stderr).returncode


def _setuptools_version() -> int:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


if __name__ == "__main__":
    raise SystemExit(build(Path(sys.argv[1]).resolve()))
