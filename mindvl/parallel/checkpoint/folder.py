"""Names of checkpoints: a directory is called what it is to be called only when it is whole.

    step-400.ckpt                        whole
    last.ckpt -> step-400.ckpt           a link, moved once its new target is whole
    .step-600.ckpt.mindvl-incomplete     being written; removed when a run meets it later
    .step-200.ckpt.mindvl-removed        being removed; so no half of a checkpoint is ever seen under its name
    .step-400.ckpt.mindvl-replaced       the one before, while another of its name takes its place

At every instant a process may be killed, and `newest` still finds a checkpoint if there was one.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from mindvl.parallel.checkpoint.manifest import MANIFEST, read_manifest

log = logging.getLogger(__name__)

LAST = "last"
"""How Lightning's ModelCheckpoint calls the checkpoint that a run goes on from: last.ckpt, or last-v1.ckpt."""

_OURS = re.compile(r"\.(?P<name>.+)\.mindvl-(?P<state>incomplete|removed|replaced)")


def is_whole(folder: Path) -> bool:
    """Whether a directory, or what a link points to, is a finished checkpoint."""
    return (folder / MANIFEST).is_file()


def is_last(path: Path) -> bool:
    """Whether a name is that of a pointer to the newest checkpoint."""
    return re.fullmatch(rf"{LAST}(-v\d+)?", path.stem) is not None


def behind_last(link: Path, step: int) -> Path:
    """The directory behind a pointer when the step has no checkpoint of another name: last.ckpt -> last-400.ckpt."""
    return link.with_name(f"{link.stem}-{step}{link.suffix}")


def staging_of(target: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return _hidden(target, "incomplete")


def stage(target: Path) -> None:
    """Make an empty directory to write a checkpoint into; what a killed run has left beside it goes."""
    for path in clear_leftovers(target.parent):
        log.warning("%s was never written to its end and is removed", path)
    staging_of(target).mkdir(parents=True)


def discard(target: Path) -> None:
    """Give up writing a checkpoint."""
    _delete(staging_of(target))


def publish(target: Path) -> None:
    """Give a finished checkpoint its name; what had it before is gone afterwards."""
    staging = staging_of(target)
    sync(staging)
    replaced = _hidden(target, "replaced")
    if os.path.lexists(target):
        _delete(replaced)
        target.rename(replaced)
    staging.rename(target)
    sync(target.parent)
    _delete(replaced)


def point(link: Path, target: Path) -> Path | None:
    """Let a link lead to a whole checkpoint beside it; returns the directory that only the link led to, if any."""
    before = led_to(link)
    if link.is_dir() and before is None:
        _delete(_hidden(link, "replaced"))
        link.rename(_hidden(link, "replaced"))
    fresh = _hidden(link, "incomplete")
    _delete(fresh)
    fresh.symlink_to(target.name)
    fresh.replace(link)
    sync(link.parent)
    _delete(_hidden(link, "replaced"))
    return before if before is not None and before != target and _only_behind(link, before) else None


def led_to(link: Path) -> Path | None:
    """Where a link leads, None for anything else."""
    return link.parent / link.readlink() if link.is_symlink() else None


def remove(path: Path) -> bool:
    """Remove a checkpoint, unless a pointer beside it leads there: then it stays, and False is returned."""
    if any(led_to(link) == path for link in path.parent.glob(f"{LAST}*")):
        return False
    before = led_to(path)
    if os.path.lexists(path):
        removed = _hidden(path, "removed")
        _delete(removed)
        path.rename(removed)
        _delete(removed)
    return remove(before) if before is not None and _only_behind(path, before) else True


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove what a killed run has left half written or half removed; returns the checkpoints that never were."""
    never = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _OURS.fullmatch(path.name)
        if match is None:
            continue
        target = path.with_name(match["name"])
        if match["state"] == "replaced" and not os.path.lexists(target):
            path.rename(target)  # killed between two renames: the old one is the newest
            continue
        if match["state"] == "incomplete" and not path.is_symlink():
            never.append(target)
        _delete(path)
    return never


def newest(folder: Path) -> Path | None:
    """What a run goes on from: `last.ckpt`, a file or a whole directory, or else the whole directory of the most steps.

    Half-written ones are passed over, with a warning.
    """
    last = folder / f"{LAST}.ckpt"
    if last.is_file() or is_whole(last):
        return last
    if os.path.lexists(last):
        log.warning("%s is no whole checkpoint and is passed over", last)
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    steps = {path: read_manifest(path).step for path in visible if path.suffix == ".ckpt" and is_whole(path)}
    return max(steps, key=lambda path: steps[path], default=None)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that a run had taken when it left a checkpoint, a directory or a single file."""
    if checkpoint.is_dir():
        return read_manifest(checkpoint).step
    import torch

    return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False)["global_step"]


def sync(folder: Path) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.mindvl-{state}")


def _only_behind(link: Path, target: Path) -> bool:
    return re.fullmatch(rf"{re.escape(link.stem)}-\d+{re.escape(link.suffix)}", target.name) is not None


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
