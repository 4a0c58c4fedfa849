"""`MindVLStrategy`: Lightning's strategy for models that no single device holds.

    trainer:
      strategy:
        class_path: mindvl.parallel.MindVLStrategy
        init_args: {shard: -1, expert: 8, recompute: selective}

What happens, in order: process groups for every dimension of the mesh (`mesh.py`); the phase builds its model without
memory, and hands it over; layers are cut over tensor and expert dimensions (`plans.py`), then everything over the data
dimensions (`sharding.py`), and only then memory is taken, for this rank's slices. Batches come from one read per group
of ranks (`sharing.py`); gradients are added up, never averaged (`gradients.py`); who fails is named (`failure.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.distributed import _init_dist_connection
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from mindvl.parallel.checkpoint.saves import Checkpoints, Saves
from mindvl.parallel.failure import FailureWatch
from mindvl.parallel.mesh import Meshes, MeshSizes, build_meshes
from mindvl.parallel.plans import apply_plans
from mindvl.parallel.precision import ShardedPrecision
from mindvl.parallel.recompute import Recompute, recompute
from mindvl.parallel.sharding import Units, shard
from mindvl.parallel.sharing import SharedBatches
from mindvl.parallel.vision_balance import VisionBalance

log = logging.getLogger(__name__)


class MindVLStrategy(ModelParallelStrategy):
    """Shards a MindVL over a mesh of ranks; works where torch has a process group for the device.

    Args:
        replicate: copies of the whole, such as one per group of nodes.
        shard: ranks that share out parameters and read different packs; -1 is what the other sizes leave.
        expert: ranks that share out the experts of a layer; must divide shard x context x tensor.
        context: ranks that share out the tokens of a pack.
        tensor: ranks that share out heads and channels of the language model.
        recompute: what is kept for the backward pass: "none" (everything), "selective" or "full" recomputation.
        prefetch: gather the next layer's parameters while one computes.
        vision_balance: when ranks whose packs hold many pictures send some to others; never when left out.
        checkpoints: whether training waits for them to be written, and whether they are verified before loading.
        timeout_s: the job ends when a rank has not answered for so long.
        process_group_backend: by default the one of the device, with gloo for tensors of the host.
    """

    def __init__(
        self,
        replicate: int = 1,
        shard: int = -1,
        expert: int = 1,
        context: int = 1,
        tensor: int = 1,
        *,
        recompute: Recompute = "none",
        prefetch: bool = True,
        vision_balance: VisionBalance | None = None,
        checkpoints: Checkpoints | None = None,
        timeout_s: float = 1800.0,
        process_group_backend: str | None = None,
    ):
        self.sizes = MeshSizes(replicate, shard, expert, context, tensor)
        self.recompute, self.prefetch, self.timeout_s = recompute, prefetch, timeout_s
        self.vision_balance = vision_balance
        if vision_balance is not None and context != 1:
            raise ValueError(
                f"strategy.vision_balance moves whole pictures between packs, but strategy.context is {context}, which "
                "shares out the patches of each pack: leave one of them out"
            )
        self.meshes: Meshes = None  # type: ignore[assignment]  # made with the process groups
        self.sharded: nn.Module | None = None
        """The model that `distribute` was given."""
        self._watch: FailureWatch | None = None
        self._checkpoints = checkpoints or Checkpoints()
        self._saves: Saves = None  # type: ignore[assignment]  # made with the process groups
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(seconds=timeout_s))

    # Processes.

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes, self._failed)

    def setup_environment(self) -> None:
        self._setup_distributed()
        self.sizes = self.sizes.over(self.world_size)
        if self.meshes is None:
            self.meshes = build_meshes(self.sizes, self.root_device.type)
        self._device_mesh = self.meshes.dense
        self._saves = Saves(
            self._checkpoints, self.global_rank, self.world_size, mesh=asdict(self.sizes), device=self.root_device
        )
        if self.world_size > 1:
            store = dist.distributed_c10d._get_default_store()
            store = store.clone() if hasattr(store, "clone") else store
            self._watch = FailureWatch(store, self.global_rank, self.world_size, timeout_s=self.timeout_s)

    def _setup_distributed(self) -> None:
        """As Lightning does it, but no device is bound to the group: then every backend can make the mesh's groups."""
        super(ModelParallelStrategy, self).setup_environment()
        self.set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        assert self.cluster_environment is not None
        _init_dist_connection(self.cluster_environment, self._process_group_backend, timeout=self._timeout)
        torch.manual_seed(self.broadcast(torch.initial_seed()))  # every rank draws the same fresh weights

    def barrier(self, name: str | None = None) -> None:
        """Wait for all ranks, on whatever device they exchange tensors."""
        if dist.is_initialized():
            arrived = torch.zeros((), device=self.root_device)
            dist.all_reduce(arrived)
            arrived.item()

    def _get_process_group_backend(self) -> str:
        """gloo beside the device's own, for what is exchanged between hosts: objects, asynchronous checkpoints."""
        if self._process_group_backend:
            return self._process_group_backend
        device = self.root_device.type
        backend = dist.Backend.default_device_backend_map.get(device, "gloo")
        return backend if device == "cpu" else f"cpu:gloo,{device}:{backend}"

    def _failed(self, error: BaseException) -> None:
        """Before any hook hears of it: tell the other ranks, and let nothing start what needs all of them."""
        if self._saves is not None:
            self._saves.abandon()
        if self.world_size == 1:
            return
        if self._lightning_module is not None:
            trainer = self._lightning_module.trainer
            trainer.save_checkpoint = _refuse_to_save  # type: ignore[method-assign]
            for callback in trainer.checkpoint_callbacks:
                callback.save_on_exception = False  # type: ignore[attr-defined]
        if self._watch is not None:
            self._watch.report(error)

    def _at(self, place: str) -> None:
        if self._watch is not None:
            self._watch.at(place)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self._at("in a forward pass")
        return super().training_step(*args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        self._at("in an optimizer step")
        return super().optimizer_step(*args, **kwargs)

    def teardown(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        super().teardown()

    # The model.

    @property
    def precision_plugin(self) -> ShardedPrecision:
        return self._precision_plugin or ShardedPrecision("32-true")  # type: ignore[return-value]

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = None if plugin is None else ShardedPrecision(str(plugin.precision))

    def distribute(self, model: nn.Module, language_model: nn.Module, units: Units) -> None:
        """Cut a model in place; a module's `configure_model` calls it once, with the model's parameters on meta or not.

        What trains must have been decided before. On meta, `model.to_empty(device=...)` comes next.
        """
        if self.sharded is model:
            return
        if self.precision_plugin.slice_dtype is not None:
            model.to(self.precision_plugin.slice_dtype)
        dealt = apply_plans(language_model, self.meshes)
        recompute((unit for chain in units.chains for unit in chain), self.recompute)
        shard(
            model,
            self.meshes,
            units,
            dealt=dealt,
            compute_dtype=self.precision_plugin.compute_dtype,
            prefetch=self.prefetch,
        )
        self.sharded = model

    def setup(self, trainer: L.Trainer) -> None:
        if self.sharded is None:
            raise TypeError(
                f"{type(self.lightning_module).__name__}.configure_model has not handed its model to "
                "MindVLStrategy.distribute; the phases of mindvl do"
            )
        if trainer.state.fn in (TrainerFn.TESTING, TrainerFn.PREDICTING) and self.world_size > 1:
            raise ValueError(
                "each rank would answer questions of its own with a model that all must run together: test and "
                "predict with trainer.strategy=auto or ddp, from the saved model"
            )
        super().setup(trainer)

    # Data.

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self.sizes.data, "rank": self.meshes.data_rank}

    def process_dataloader(self, dataloader: object) -> object:
        group = self.meshes.pack_group
        return dataloader if group is None else SharedBatches(dataloader, group, self.root_device)  # type: ignore[arg-type]

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        self._at("between two steps")
        self._saves.poll()
        return super().batch_to_device(batch, device, dataloader_idx)

    # Checkpoints.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # `save_checkpoint` takes it from the model

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        target = Path(self.broadcast(str(filepath)))
        background = self._checkpoints.asynchronous and self._whole.trainer.training
        self._saves.save(target, self._whole, self.optimizers, checkpoint, background=background)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        self._saves.remove(Path(filepath))

    def on_train_end(self) -> None:
        self._saves.settle()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        folder = Path(self.broadcast(str(checkpoint_path)))
        return self._saves.load(folder, self._whole, self.optimizers, weights_only=weights_only is not False)

    @property
    def _whole(self) -> L.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


class _Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks of a node where nobody else does, and hears of a failure before Lightning's hooks."""

    def __init__(self, environment: Any, processes: int, nodes: int, failed: Callable[[BaseException], None]):
        super().__init__(environment, processes, nodes)
        self._failed = failed

    def launch(self, function: Callable, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        try:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        except BaseException as error:
            self._failed(error)
            raise


def _refuse_to_save(filepath: Any, *args: Any, **kwargs: Any) -> None:
    log.warning("%s is not written: a rank has failed, and a checkpoint needs all of them", filepath)


StrategyRegistry.register("mindvl", MindVLStrategy, description=MindVLStrategy.__doc__ or "")
