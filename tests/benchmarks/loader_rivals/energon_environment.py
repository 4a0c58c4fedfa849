"""An environment for megatron-energon, made when it is missing, and the metadata that energon wants beside shards.

It gets the same torch, numpy, Pillow and tokenizers as this environment: the rivals must decode with the same code.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[3] / "build" / "energon-venv"
ENERGON = "megatron-energon==7.4.1"
SHARED = ("torch", "numpy", "pillow", "tokenizers", "webdataset", "jinja2")


def energon_python() -> str:
    """The interpreter that can import megatron.energon; its environment takes a minute and 1.2 GB when it is new."""
    complete = ENVIRONMENT / "complete.txt"
    # "2.13.0+cpu" and "2.13.0" are one version to pip, which finds the build that suits the machine.
    pins = [f"{name}=={version(name).split('+')[0]}" for name in SHARED]
    wanted = "\n".join([ENERGON, *pins]) + "\n"
    python = str(ENVIRONMENT / "bin" / "python")
    if not complete.exists() or complete.read_text() != wanted:
        print(f"    making {ENVIRONMENT} with {ENERGON}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
        constraints = ENVIRONMENT / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n")
        install = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(constraints))
        _run(*install, "torch")
        _run(*install, ENERGON, "tokenizers", "jinja2", "pillow")
        complete.write_text(wanted)
    return python


def prepare_shards(shards: Path) -> None:
    """Write energon's index and description beside the tars, all of them training data, samples left as they are."""
    if (shards / ".nv-meta" / "dataset.yaml").exists():
        return
    settings = "--non-interactive --force-overwrite --num-workers 1 --split-ratio 1,0,0 --sample-type CrudeWebdataset"
    _run(str(ENVIRONMENT / "bin" / "energon"), "prepare", *settings.split(), str(shards))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}")
