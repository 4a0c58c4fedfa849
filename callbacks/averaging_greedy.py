"""Greedy soup (model soups, arXiv 2203.05482, recipe 1): a checkpoint goes into the mean when the score does not fall.

    scores one by one   B 0.61   A 0.60   C 0.55
    B + A               0.64     kept
    B + A + C           0.62     C is left out; the result is the mean of B and A

A score of n checkpoints' soup is asked for 2n - 1 times. Score on data that the reported figures do not come from.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .averaging_folder import average_checkpoints, open_alike
from .averaging_target import check_target


def greedy_soup(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    score: Callable[[Path], float],
    lower_is_better: bool = False,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the greedy soup of checkpoints as `average_checkpoints` writes a mean; the record has every score.

    `score` is called with each path and with folders of trial means; `options` are those of `average_checkpoints`
    other than weights. When no mean is as good as the best checkpoint, the result is that checkpoint alone.

    Raises:
        ValueError: as `average_checkpoints` does, before anything is scored; and for a score that is not finite.
    """
    out = Path(out)
    shown = {name: options[name] for name in ("prefix",) if name in options}
    checkpoints = open_alike(paths, any_float=options.get("dtype") is not None, **shown)
    check_target(out, overwrite=overwrite, sources=tuple(file for each in checkpoints for file in each.files))
    sign = -1.0 if lower_is_better else 1.0
    scores = {str(path): _finite(score(Path(path)), path) for path in paths}
    order = sorted(scores, key=lambda path: -sign * scores[path])  # stable: of equal scores the first named leads
    soup, best = [order[0]], scores[order[0]]
    trials = [{"path": order[0], "score": best, "soup_score": best, "kept": True}]
    trial = out.with_name(f".{out.name}.trial-{os.getpid()}")
    for path in order[1:]:
        try:
            average_checkpoints([*soup, path], trial, overwrite=True, **options)
            reached = _finite(score(trial), f"the mean of {', '.join([*soup, path])}")
        finally:
            shutil.rmtree(trial, ignore_errors=True)
        kept = sign * reached >= sign * best
        if kept:
            soup, best = [*soup, path], reached
        trials.append({"path": path, "score": scores[path], "soup_score": reached, "kept": kept})
    greedy = {"method": "greedy soup", "score": best, "lower_is_better": lower_is_better, "trials": trials}
    return average_checkpoints(soup, out, overwrite=overwrite, minimum=1, notes={**(notes or {}), **greedy}, **options)


def command_score(template: str) -> Callable[[Path], float]:
    """A score from a program: the last line it prints, as in `python score.py {model} --split validation`.

    The template is split into words as a shell would, but no shell runs; `{model}` in any word becomes the folder,
    whatever characters that has. ValueError when the program fails or its last line is no number.
    """
    words = shlex.split(template)
    if not any("{model}" in word for word in words):
        raise ValueError(f"the score command {template!r} does not say where {{model}} goes")

    def score(model: Path) -> float:
        command = [word.replace("{model}", str(model)) for word in words]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise ValueError(f"the score command {command[0]} cannot run: {error}") from error
        last = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode:
            raise ValueError(f"the score command ended with {done.returncode} for {model}")
        try:
            return float(last)
        except ValueError:
            raise ValueError(f"the score command's last line for {model} is no number: {last!r}") from None

    return score


def _finite(value: float, what: object) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the score of {what} is {value}")
    return float(value)
