"""The mean of a run's own weights at several steps, for models of any size: no rank ever holds more than its share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.distributed.tensor import DTensor

from .averaging_folder import average_checkpoints
from .averaging_mean import Shares, shares_of
from .averaging_opening import RECORD, open_checkpoint
from .averaging_snapshots import (
    copy_into,
    dtypes_of,
    found_steps,
    local_tensors,
    mean_in_memory,
    rank_file,
    steps_of,
    write_running_mean,
    write_snapshot,
)
from .averaging_target import new_folder


class CheckpointAveraging(L.Callback):
    """Keeps the weights of chosen steps on disk and writes their mean when the fit ends.

    Works under any strategy that leaves parameters whole (one device, DDP) or keeps them as DTensors (FSDP 2 and
    tensor parallelism of ModelParallelStrategy): every rank writes, reads and averages its own shards.

    Written beside `out`, which is replaced if a resumed run wrote it before; nothing is logged to the logger:

    | path | when | what |
    |---|---|---|
    | `<out>.snapshots/step-<n>/rank-<r>.safetensors` | with `last`, at each chosen step | weights, the last k steps |
    | `<out>.snapshots/mean-<n>/rank-<r>.safetensors` | without `last`, at each chosen step | mean so far, fp32 |
    | `<out>/model*.safetensors` | end of fit, parameters whole | the mean in the model's dtypes |
    | `<out>/*.distcp`, `.metadata` | end of fit, parameters sharded | the same, for torch.distributed.checkpoint |
    | `<out>/averaging.json` | end of fit | steps, sources, checksums |

    A resumed run goes on with the snapshots on disk; steps that are run again count once. Integer buffers such as
    batch norm's counter are those of the newest step. The folder must be seen by all ranks.

    Args:
        out: folder of the mean.
        every_n_steps: optimizer steps between snapshots.
        at_steps: or the optimizer steps themselves.
        last: mean of the last k snapshots; without it, of all, as a running mean that takes one fp32 copy on disk.
        from_checkpoints: or average the files that the trainer's ModelCheckpoint has kept, at the end.
        prefix: average only keys that begin with it, and take it off.
        load_at_end: put the mean into the module after the last step, for a callback that saves or tests it.

    Raises:
        ValueError: at the start of a fit when `out` holds another run's result or the strategy flattens parameters;
            at a snapshot when a weight is not finite, naming tensor and step.

    Example::

        CheckpointAveraging("runs/sft/mean", every_n_steps=500, last=5, prefix="model.")
    """

    def __init__(
        self,
        out: str | Path,
        *,
        every_n_steps: int | None = None,
        at_steps: Sequence[int] = (),
        last: int | None = None,
        from_checkpoints: bool = False,
        prefix: str = "",
        load_at_end: bool = False,
    ):
        if (every_n_steps is not None) + bool(at_steps) + from_checkpoints != 1:
            raise ValueError("give one of `every_n_steps`, `at_steps` and `from_checkpoints`")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}, it must be at least 1")
        if last is not None and last < 2:
            raise ValueError(f"last is {last}, an average needs at least 2")
        if from_checkpoints and (last is not None or load_at_end):
            raise ValueError("`last` and `load_at_end` go with snapshots, not with `from_checkpoints`")
        self.out, self.every_n_steps, self.at_steps = Path(out), every_n_steps, frozenset(at_steps)
        self.last, self.from_checkpoints = last, from_checkpoints
        self.prefix, self.load_at_end = prefix, load_at_end
        self.snapshots = self.out.with_name(f"{self.out.name}.snapshots")
        self.steps: list[int] = []
        self._seen_step = 0

    @property
    def state_key(self) -> str:
        return self._generate_state_key(out=str(self.out))  # several means of one run are told apart

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = list(state_dict["steps"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _refuse_flattened(pl_module)
        self._seen_step = trainer.global_step
        if self.out.exists() and not (trainer.global_step and self._is_ours()):
            raise ValueError(f"{self.out} exists and is no earlier result of this run; choose another folder")
        if self.from_checkpoints:
            return
        _on_rank_zero(trainer, lambda: self._rewind(trainer.global_step))
        self.steps = trainer.strategy.broadcast(self.steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step = step
        chosen = step % self.every_n_steps == 0 if self.every_n_steps is not None else step in self.at_steps
        if chosen and step not in self.steps:
            self._keep(trainer, pl_module, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count = len(self._checkpoint_paths(trainer)) if self.from_checkpoints else len(self.steps)
        if count < 2:
            rank_zero_warn(f"{self.out} is not written: {count} checkpoint was kept, an average needs at least 2")
            return
        if self.from_checkpoints:
            _on_rank_zero(trainer, lambda: self._average(self._checkpoint_paths(trainer), {}))
            return
        state = pl_module.state_dict()
        if any(isinstance(value, DTensor) for value in state.values()):
            self._finish_sharded(trainer, state)
            return
        _on_rank_zero(trainer, lambda: self._finish_whole())
        if self.load_at_end:
            _together(trainer, lambda: self._load_whole(state))

    @property
    def _word(self) -> str:
        return "mean" if self.last is None else "step"

    def _folder(self, step: int) -> Path:
        return self.snapshots / f"{self._word}-{step:08d}"

    def _is_ours(self) -> bool:
        return (self.out / RECORD).is_file() and any(self.snapshots.glob("*-*"))

    def _rewind(self, global_step: int) -> None:
        """Remove what a killed run kept after the checkpoint that this one starts from: those steps come again.

        A running mean cannot go back: one that holds more than the loaded state knows stays as it is.
        """
        found = found_steps(self.snapshots, self._word)
        late = [path for step, path in found.items() if step > global_step]
        if self.last is None:
            late = self._rewind_mean(found)
        for path in late:
            shutil.rmtree(path)

    def _rewind_mean(self, found: dict[int, Path]) -> list[Path]:
        for step in sorted(found):
            path = rank_file(found[step], 0)
            steps = steps_of(path) if path.is_file() else []
            if self.steps and steps[: len(self.steps)] == self.steps:
                self.steps = steps
                return [other for number, other in found.items() if number != step]
        if self.steps:
            raise ValueError(f"{self.snapshots} lacks the mean of steps {self.steps}, with which this run would go on")
        return list(found.values())

    def _keep(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        state = pl_module.state_dict()
        sharded = any(isinstance(value, DTensor) for value in state.values())
        folder, rank = self._folder(step), trainer.global_rank
        temporary = folder.with_name(f".{folder.name}")
        _on_rank_zero(trainer, lambda: temporary.mkdir(parents=True, exist_ok=True))

        def write() -> None:
            if rank and not sharded:
                return
            tensors, tied = local_tensors(state, self.prefix)
            path = rank_file(temporary, rank)
            try:
                if self.last is not None:
                    write_snapshot(path, tensors, tied)
                else:
                    before = open_checkpoint(rank_file(self._folder(self.steps[-1]), rank)) if self.steps else None
                    write_running_mean(path, tensors, tied, before=before, steps=[*self.steps, step])
            except ValueError as error:
                raise ValueError(f"step {step}, rank {rank}: {error}") from error

        _together(trainer, write)
        self.steps = [*self.steps, step]
        # The new one is complete before an old one goes.
        keep = {self._folder(number) for number in self.steps[-(self.last or 1) :]}

        def swap() -> None:
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            for path in found_steps(self.snapshots, self._word).values():
                if path not in keep:
                    shutil.rmtree(path)

        _on_rank_zero(trainer, swap)

    def _used(self) -> tuple[list[int], list[Path]]:
        """The steps that are in the mean, and the folders that it is made of."""
        steps = self.steps[-self.last :] if self.last is not None else self.steps
        folders = [self._folder(step) for step in (steps if self.last is not None else steps[-1:])]
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        if missing:
            raise ValueError(f"{missing[0]} is gone, it belongs to the mean of steps {steps}")
        return steps, folders

    def _finish_whole(self) -> None:
        steps, folders = self._used()
        paths = [rank_file(folder, 0) for folder in folders]
        dtypes = None if self.last is not None else dtypes_of(paths[0])
        self._average(paths, {"steps": steps, "method": "uniform mean"}, dtype=dtypes, minimum=1, prefix="")

    def _average(self, paths: list[Path], notes: dict[str, Any], **options: Any) -> None:
        options = {"prefix": self.prefix, **options}
        average_checkpoints(paths, self.out, overwrite=True, newest_integers=True, notes=notes, **options)

    def _load_whole(self, state: dict[str, Any]) -> None:
        result = open_checkpoint(self.out)
        tensors, _ = local_tensors(state, self.prefix)
        with torch.no_grad():
            for key, tensor in tensors.items():
                copy_into(tensor, result, key)

    def _finish_sharded(self, trainer: L.Trainer, state: dict[str, Any]) -> None:
        import torch.distributed.checkpoint as dcp

        steps, folders = self._used()
        checkpoints = [open_checkpoint(rank_file(folder, trainer.global_rank)) for folder in folders]
        local, tied = local_tensors(state, self.prefix)
        shares = shares_of(None, len(checkpoints)) if self.last is not None else Shares((1.0,), 1.0)
        means = mean_in_memory(checkpoints, shares, {key: tensor.dtype for key, tensor in local.items()})
        whole = {}
        for key, mean in means.items():
            like = state[self.prefix + key]
            whole[key] = mean
            if isinstance(like, DTensor):
                mean = mean.to(like.to_local().device)
                whole[key] = DTensor.from_local(
                    mean, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
                )
        whole |= {name: whole[owner] for name, owner in tied.items()}
        temporary = self.out.with_name(f".{self.out.name}.sharded")
        _on_rank_zero(trainer, lambda: shutil.rmtree(temporary, ignore_errors=True))
        dcp.save(whole, checkpoint_id=temporary)
        record = {"method": "uniform mean", "steps": steps, "prefix": self.prefix, "ranks": trainer.world_size}

        def place() -> None:
            open_checkpoint(temporary)
            (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            with new_folder(self.out) as folder:
                for path in temporary.iterdir():
                    path.rename(folder / path.name)
            temporary.rmdir()

        _on_rank_zero(trainer, place)
        if self.load_at_end:
            with torch.no_grad():
                for key, tensor in local.items():
                    tensor.copy_(means[key])

    def _checkpoint_paths(self, trainer: L.Trainer) -> list[Path]:
        saver = trainer.checkpoint_callback
        if saver is None:
            raise ValueError("`from_checkpoints` needs a ModelCheckpoint among the trainer's callbacks")
        return [Path(path) for path in getattr(saver, "best_k_models", {}) if Path(path).exists()]


def _refuse_flattened(module: torch.nn.Module) -> None:
    """FSDP 1 and DeepSpeed's third stage hide parameters in flat buffers whose parts have no names."""
    for child in module.modules():
        if type(child).__name__ == "FullyShardedDataParallel":
            raise ValueError("FSDP 1 flattens parameters; use ModelParallelStrategy with fully_shard")
    if any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
        raise ValueError("DeepSpeed's third stage empties parameters; average the checkpoints it saves instead")


def _on_rank_zero(trainer: L.Trainer, action: Callable[[], object]) -> None:
    _together(trainer, action if trainer.is_global_zero else lambda: None)


def _together(trainer: L.Trainer, action: Callable[[], object]) -> None:
    """Do something on every rank and wait for all; when it fails on one, all raise instead of waiting for ever."""
    error: Exception | None = None
    try:
        action()
    except Exception as caught:  # told to the others first
        error = caught
    if not trainer.strategy.reduce_boolean_decision(error is None, all=True):
        raise error if error is not None else RuntimeError("averaging failed on another rank, which says why")
