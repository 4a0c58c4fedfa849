"""Whose weights `mindvl validate`, `test` and `predict` judge.

    mindvl validate -c mine.yaml                        those of runs/mine/checkpoints/last.ckpt, if the run has left it
    mindvl validate -c mine.yaml --ckpt_path OTHER      those of another checkpoint
    mindvl validate -c mine.yaml --ckpt_path start      those that the run began with: `model.start_from`, or fresh ones

A loss of 5.6 may be that of an untrained model, so the choice is always said. `--ckpt_path null` chooses nothing: it is
what a config that `fit` has saved holds.
"""

from __future__ import annotations

from pathlib import Path

from mindvl.parallel.checkpoint.folder import newest
from mindvl.phases.model_spec import ModelSpec

START = "start"
CHOICE = (
    "Weights are those of --ckpt_path; without it those of the newest checkpoint under trainer.default_root_dir; where "
    f"there is none, or with --ckpt_path {START}, those that training would start from. Which, is said on stderr."
)


def choose_weights(given: str | None, root: Path, spec: ModelSpec) -> tuple[str | None, str]:
    """The checkpoint to load, if any, and a sentence that says whose weights there are then."""
    last = newest(root / "checkpoints")
    if given == START or (given is None and last is None):
        beside = f" (not of {last})" if last is not None else f" (no checkpoint under {root / 'checkpoints'})"
        return None, start_weights(spec) + beside
    if given is not None:
        return given, f"weights of {given}"
    instead = f", not of model.start_from {spec.start_from}" if spec.start_from is not None else ""
    return str(last), f"weights of {last}{instead} (--ckpt_path {START} takes those from before training)"


def start_weights(spec: ModelSpec) -> str:
    """What a model of the spec holds before training."""
    if spec.start_from is not None:
        return f"weights of model.start_from {spec.start_from}"
    origins = [f"model.{part.role} {part.pretrained}" for part in spec.parts() if part.weights()]
    if origins:
        return f"weights of {' and '.join(origins)}, all others fresh"
    return "fresh weights: nothing has been trained"
