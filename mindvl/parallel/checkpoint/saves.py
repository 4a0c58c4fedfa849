"""What a strategy does with checkpoints: save, in the foreground or the background, point, remove and load.

In the background, training goes on as soon as the state has been copied to the host's memory; one save is under way
at a time, and the next waits for it. With ModelCheckpoint(save_last=True, every_n_train_steps=200):

    step 400   step-400.ckpt begins to be written; step-200.ckpt is to go; last.ckpt is to lead to step-400.ckpt
    step 403   all ranks have written: it gets its name, last.ckpt is moved, and now step-200.ckpt goes

Lightning asks for `last.ckpt` right after another checkpoint of the same step; that is the same content, so it is a
link. An error of the background surfaces when the next batch comes, on every rank, since all have heard of it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from mindvl.parallel.checkpoint import folder as names
from mindvl.parallel.checkpoint.manifest import Manifest, find_damage, read_manifest
from mindvl.parallel.checkpoint.reading import CheckpointPlanner, CheckpointReader, find_misfit, read_metadata
from mindvl.parallel.checkpoint.staging import HostCopy
from mindvl.parallel.checkpoint.writing import CheckpointWriter

REST = "meta.pt"
"""What Lightning keeps beside weights and optimizer state; its own sharded directories call it so too."""
_ELSEWHERE = ("state_dict", "optimizer_states")
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class Checkpoints:
    """How checkpoints are written and read.

    Args:
        asynchronous: go on training while files are written; takes as much memory of the host as a rank's state.
        verify: compare every file's checksum before loading; each rank reads its share of the files.
    """

    asynchronous: bool = False
    verify: bool = True


@dataclass
class _Save:
    """The newest save: where, of which step, and how far it is."""

    target: Path
    step: int
    under_way: Future | None = None
    links: list[Path] = field(default_factory=list)
    """Pointers that wait for it."""


class Saves:
    """Checkpoints of one run, seen by one rank; all ranks call the same methods in the same order.

    Args:
        rank, world_size: of all ranks of the run.
        mesh: sizes by name, written into the manifests.
        device: where the state lies.
    """

    def __init__(
        self,
        settings: Checkpoints,
        rank: int,
        world_size: int,
        *,
        mesh: dict[str, int],
        device: torch.device | str = "cpu",
    ):
        self.settings, self.rank, self.world_size, self.mesh = settings, rank, world_size, mesh
        self._group: dist.ProcessGroup | None = None
        self._newest: _Save | None = None
        self._unwanted: list[Path] = []
        self._abandoned = False
        self._host = HostCopy(device)
        self._thread: ThreadPoolExecutor | None = None

    def save(
        self, target: Path, model: nn.Module, optimizers: list[Optimizer], rest: dict[str, Any], *, background: bool
    ) -> None:
        """Write a checkpoint, or, for `last.ckpt` after another of the same step, a link to it.

        `rest` is Lightning's checkpoint; without "optimizer_states" in it, weights alone are written. OSError on every
        rank when one cannot write; older checkpoints are untouched then.
        """
        step, links = rest.get("global_step", 0), []
        if names.is_last(target):
            newest = self._newest
            if newest is not None and (newest.step, newest.target.parent) == (step, target.parent):
                newest.links.append(target)
                return self._tidy()
            links, target = [target], names.behind_last(target, step)
        self.settle()
        state: dict[str, Any] = {}
        state["model"], state["optimizer"] = get_state_dict(
            model, optimizers if "optimizer_states" in rest else [], options=_OPTIONS
        )
        beside, error = {}, None
        if self.rank == 0:
            try:
                beside[REST] = _pickled({name: value for name, value in rest.items() if name not in _ELSEWHERE})
                names.stage(target)
            except Exception as caught:  # which all ranks must hear of
                error = caught
        self._agree(error, OSError, f"{target} cannot be written")
        manifest = Manifest(step, self.world_size, self.mesh, bool(state["optimizer"]), {})
        writer = CheckpointWriter(target, manifest, beside)
        self._newest = _Save(target, step, links=links)
        if background:
            self._newest.under_way = self._in_background(
                dcp.save, self._host.of(state), storage_writer=writer, process_group=self._own_group()
            )
            return
        try:
            dcp.save(state, storage_writer=writer, process_group=self._own_group())
        except CheckpointException as failed:
            raise self._failed(failed) from failed
        self._tidy()

    def poll(self) -> None:
        """Between two batches: finish a background save that is done, or raise its error. Waits for nothing."""
        if self._newest is not None and self._newest.under_way is not None and self._newest.under_way.done():
            self.settle()

    def settle(self) -> None:
        """Wait for the save under way, if any. OSError when it has failed."""
        save = self._newest
        if save is None or save.under_way is None:
            return
        try:
            save.under_way.result()
        except CheckpointException as error:
            raise self._failed(error) from error
        save.under_way = None
        self._tidy()

    def abandon(self) -> None:
        """A rank has failed: nothing is waited for, pointed to or removed any more."""
        self._abandoned, self._newest = True, None

    def remove(self, path: Path) -> None:
        """Remove a checkpoint as soon as nothing needs it."""
        if self.rank == 0:
            self._unwanted.append(path)
        self._tidy()

    def load(
        self, folder: Path, model: nn.Module, optimizers: list[Optimizer], *, weights_only: bool = True
    ) -> dict[str, Any]:
        """Fill model and optimizers from a checkpoint and return the rest.

        ValueError with the file or tensor, the same on every rank, when it is damaged or does not fit; nothing is
        changed then. `weights_only=False` lets what lies in meta.pt run code.
        """
        state: dict[str, Any] = {}
        state["model"], state["optimizer"] = get_state_dict(model, optimizers, options=_OPTIONS)
        error: Exception | None = None
        try:
            metadata = self._check(folder, state)
            rest = torch.load(folder / REST, map_location="cpu", weights_only=weights_only)
        except Exception as caught:  # which all ranks must hear of
            error = caught
        self._agree(error, ValueError, f"cannot go on from {folder}")
        reader, planner = CheckpointReader(folder, metadata), CheckpointPlanner()
        try:
            dcp.load(state, storage_reader=reader, planner=planner, process_group=self._own_group())
        except CheckpointException as failed:
            raise ValueError(f"cannot go on from {folder}: {_first(failed)}") from failed
        set_state_dict(
            model, optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_OPTIONS
        )
        _mend_last(rest)
        _mend_schedules(rest, optimizers)
        return rest

    def _check(self, folder: Path, state: dict[str, Any]) -> Any:
        """The checkpoint's metadata. ValueError when anything is wrong; this rank looks at its share of the files."""
        manifest = read_manifest(folder)
        damage = find_damage(folder, manifest, share=(self.rank, self.world_size), hashes=self.settings.verify)
        if damage is not None:
            raise ValueError(damage)
        if state["optimizer"] and not manifest.optimizer:
            raise ValueError("it holds weights alone")
        metadata = read_metadata(folder)
        misfit = find_misfit(state, metadata)
        if misfit is not None:
            raise ValueError(misfit)
        return metadata

    def _agree(self, error: Exception | None, kind: type[Exception], what: str) -> None:
        """Raises on every rank when one has an error: that of the first such rank."""
        errors: list[str | None] = [None if error is None else str(error)]
        if self.world_size > 1:
            errors = [None] * self.world_size
            dist.all_gather_object(errors, None if error is None else str(error), group=self._own_group())
        said = [message for message in errors if message is not None]
        if said:
            raise kind(f"{what}: {said[0]}") from error

    def _tidy(self) -> None:
        """On the first rank, with no save under way: move pointers, then remove what nothing needs."""
        save = self._newest
        if self._abandoned or self.rank != 0 or (save is not None and save.under_way is not None):
            return
        if save is not None:
            for link in save.links:
                behind = names.point(link, save.target)
                self._unwanted += [] if behind is None else [behind]
            save.links.clear()
        self._unwanted = [path for path in self._unwanted if not names.remove(path)]

    def _failed(self, error: CheckpointException) -> OSError:
        assert self._newest is not None
        target, self._newest = self._newest.target, None
        if self.rank == 0:
            names.discard(target)
        return OSError(f"{target} could not be written, older checkpoints are as they were: {_first(error)}")

    def _in_background(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self._thread.submit(function, *arguments, **named)

    def _own_group(self) -> dist.ProcessGroup:
        """Ranks talk about checkpoints over a group of their own: the background must not speak into training."""
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group


def _pickled(rest: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(rest, stream)
    return stream.getvalue()


def _mend_last(rest: dict[str, Any]) -> None:
    """A checkpoint is written before `last.ckpt` leads to it, and does not know of that; ModelCheckpoint must."""
    for state in rest.get("callbacks", {}).values():
        if isinstance(state, dict) and state.get("last_model_path") == "" and state.get("dirpath"):
            link = os.path.join(state["dirpath"], f"{names.LAST}.ckpt")  # noqa: PTH118  # as ModelCheckpoint spells it
            if os.path.lexists(link):
                state["last_model_path"] = link


def _mend_schedules(rest: dict[str, Any], optimizers: list[Optimizer]) -> None:
    """Schedules count by groups of parameters, which are others on other meshes; rates were saved by parameter."""
    for optimizer, state in zip(optimizers, rest.get("lr_schedulers", ()), strict=False):
        groups = optimizer.param_groups
        if len(state.get("base_lrs", groups)) != len(groups):
            state["base_lrs"], state["_last_lr"] = ([group[key] for group in groups] for key in ("initial_lr", "lr"))
            state["lr_lambdas"] = [None] * len(groups)


def _first(error: CheckpointException) -> str:
    rank, (cause, _) = min(error.failures.items())
    return f"rank {rank}: {type(cause).__name__}: {cause}"
