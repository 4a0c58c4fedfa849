"""An environment for mergekit, made when it is missing, with the torch and safetensors of this environment."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[3] / "build" / "mergekit-venv"
MERGEKIT = "mergekit==0.1.5"
SHARED = ("torch", "transformers", "safetensors", "numpy")


def mergekit_command() -> str:
    """The path of `mergekit-yaml`; its environment takes two minutes and 1.5 GB when it is new."""
    complete = ENVIRONMENT / "complete.txt"
    # "2.13.0+cpu" and "2.13.0" are one version to pip, which finds the build that suits the machine.
    pins = [f"{name}=={version(name).split('+')[0]}" for name in SHARED]
    wanted = "\n".join([MERGEKIT, *pins]) + "\n"
    if not complete.exists() or complete.read_text() != wanted:
        print(f"    making {ENVIRONMENT} with {MERGEKIT}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
        constraints = ENVIRONMENT / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n")
        python = str(ENVIRONMENT / "bin" / "python")
        _run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(constraints), MERGEKIT)
        complete.write_text(wanted)
    return str(ENVIRONMENT / "bin" / "mergekit-yaml")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}")
