"""`mindvl fit | validate | test | predict`: LightningCLI with the defaults of a MindVL run.

What a config leaves open is filled in here and nowhere else: loggers (CSV and W&B), a checkpoint every
`CHECKPOINT_STEPS` steps that a killed run continues from, throughput, a progress bar, and the precision that pays on
this device.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger
from mindvl_callbacks.packing_statistics import PackFacts, PackingStatistics
from mindvl_callbacks.token_throughput import TokenThroughput

from mindvl.cli.config_changes import SaveConfigOnceBegun, config_changes
from mindvl.cli.config_files import read_configs
from mindvl.cli.loggers import WandbRun, csv_logger, default_loggers
from mindvl.cli.main import LIGHTNING_VERBS
from mindvl.cli.parser import OneLineParser, spelled_out
from mindvl.cli.progress import progress_of_steps
from mindvl.cli.quiet import quiet_lightning, quiet_transformers
from mindvl.cli.weights import CHOICE, choose_weights
from mindvl.data.consumed import format_record, shares
from mindvl.data.module import PackedShards
from mindvl.data.run_record import write_record
from mindvl.device import best_precision, device_name, device_of, keep_freed_memory, matmul_peak
from mindvl.parallel.checkpoint.folder import is_whole, newest, step_of
from mindvl.parallel.npu_trainer import NPUAccelerator, require_npu, trainer_arguments
from mindvl.parallel.random_state import KeepRandomState
from mindvl.phases import Benchmarks, Phase
from mindvl.phases.saving import SaveModel

log = logging.getLogger("mindvl")

CHECKPOINT_STEPS = 200
"""Optimizer steps between checkpoints: what a killed run has to do again at most."""


class MindVLCLI(LightningCLI):
    """LightningCLI for phases and packed shards; `mindvl fit` resumes by itself from the run's folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(
            {
                "trainer.max_epochs": -1,
                "trainer.num_sanity_val_steps": 0,
                "trainer.log_every_n_steps": 10,
                "trainer.use_distributed_sampler": False,
                "trainer.enable_model_summary": False,
                "trainer.default_root_dir": "runs/fit",
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        read_configs(args or ())  # what is wrong with a whole file is said before a key of it is looked at
        super().parse_arguments(parser, args)

    def instantiate_trainer(self, **kwargs) -> L.Trainer:
        config = self.config_init[self.subcommand]["trainer"]
        import mindvl.parallel.strategy  # noqa: F401  # makes its name known to the trainer

        root = Path(config["default_root_dir"])
        filled = device_arguments(config)
        given = list(config["callbacks"] or [])
        if config["logger"] in (None, True):
            if self.subcommand == "fit":
                first_step = self._first_step(root)
                filled["logger"] = csv_logger(root, first_step=first_step)
                given.append(WandbRun(root, name=root.name, goes_on=first_step > 0))
            else:
                filled["logger"] = self._other_loggers(root, given)
        filled["callbacks"] = [
            *given,
            *_missing_callbacks(
                given,
                root,
                fitted=self.model if self.subcommand == "fit" else None,
                bar=config["enable_progress_bar"] is not False,
            ),
        ]
        return super().instantiate_trainer(**{**kwargs, **filled})

    def _first_step(self, root: Path) -> int:
        """Optimizer steps of the checkpoint that the fit goes on from."""
        given = self.config_init["fit"]["ckpt_path"]
        checkpoint = Path(given) if given else newest(root / "checkpoints")
        return step_of(checkpoint) if checkpoint is not None and checkpoint.exists() else 0

    def _other_loggers(self, root: Path, callbacks: Sequence[L.Callback]) -> list[Logger] | bool:
        """Scores of benchmarks are logged beside their results; other numbers are printed alone."""
        folders = [callback.folder_in(root) for callback in callbacks if isinstance(callback, Benchmarks)]
        if self.subcommand != "validate" or not folders:
            return False
        return default_loggers(folders[0], name=f"{root.name} benchmarks")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        config = self.config_init[self.subcommand]
        root = Path(config["trainer"]["default_root_dir"])
        if self.subcommand == "fit":
            self._go_on(config, root)
        else:
            config["ckpt_path"], whose = choose_weights(config["ckpt_path"], root, self.model.spec)
            if self.trainer.is_global_zero:
                print(whose, file=sys.stderr, flush=True)
        from mindvl.parallel import MindVLStrategy

        given = config["ckpt_path"]
        if given and is_whole(Path(given)) and not isinstance(self.trainer.strategy, MindVLStrategy):
            raise ValueError(
                f"{given} is a directory that strategy mindvl has written: go on from it with "
                "--trainer.strategy=mindvl, on any number of devices"
            )

    def _go_on(self, config: Namespace, root: Path) -> None:
        """From the run's newest checkpoint, unless the config names another."""
        last = newest(root / "checkpoints")
        if config["ckpt_path"] is not None or last is None:
            return
        config["ckpt_path"] = str(last)
        done, steps = step_of(last), self.trainer.max_steps
        if done >= steps > 0:
            print(f"nothing left to train: max_steps={steps} reached by {last}", flush=True)
        else:
            print(f"continuing from {last}", flush=True)
        saved = last.parents[1] / "csv" / "config.yaml"
        for change in config_changes(saved, self._parser("fit").dump(self.config["fit"], skip_none=False)):
            print(f"the config has changed since: {change}", file=sys.stderr, flush=True)

    def before_fit(self) -> None:
        quiet_transformers()
        device = self.trainer.strategy.root_device
        print(f"{device_name(device)}, precision {self.trainer.precision}", flush=True)

    def after_fit(self) -> None:
        for callback in self.trainer.callbacks:
            if isinstance(callback, SaveModel) and not callback.folder.exists():
                # Killed between its last checkpoint and its model: nothing was left to train, no hook has fired.
                callback.on_train_end(self.trainer, self.model)
        self._record_data()
        self._finish_wandb()
        self._say_where()

    def _say_where(self) -> None:
        """Where the run has left its model and the checkpoint that it can go on from."""
        trainer = self.trainer
        last = newest(Path(trainer.default_root_dir) / "checkpoints")
        kept = [last, *(callback.last_model_path or None for callback in trainer.checkpoint_callbacks)]
        checkpoint = next((f"checkpoint {path}" for path in kept if path), "no checkpoint")
        folders = [callback.folder for callback in trainer.callbacks if isinstance(callback, SaveModel)]
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        if trainer.global_step < trainer.max_steps:
            print(f"stopped at step {trainer.global_step} of {trainer.max_steps}, {checkpoint}", flush=True)
        else:
            print(", ".join([*(f"model in {folder}" for folder in folders), checkpoint]), flush=True)

    def before_validate(self) -> None:
        benchmarks = any(isinstance(callback, Benchmarks) for callback in self.trainer.callbacks)
        if isinstance(self.datamodule, PackedShards) and not self.datamodule.validation and not benchmarks:
            raise ValueError(
                "there is nothing to validate: data.validation names no source, and trainer.callbacks holds no "
                "mindvl.phases.Benchmarks"
            )

    def after_validate(self) -> None:
        self._finish_wandb()

    def _finish_wandb(self) -> None:
        if any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers):
            import wandb

            wandb.finish()  # a recipe's next stage is a run of its own

    def _record_data(self) -> None:
        """What the run has seen and what it could not use: into its folder, its loggers and, in short, the terminal."""
        data, skipped = self.datamodule, self.model.skipped.state_dict()
        record = data.state_dict() if isinstance(data, PackedShards) else {}  # ranks add up what they have skipped
        if not record or not self.trainer.is_global_zero:
            return
        root = Path(self.trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        write_record(root, record, skipped)
        token_shares = {f"data/{name}_token_ratio": share for name, share in shares(record["consumed"]).items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(token_shares, step=self.trainer.global_step)
        print(format_record(record["consumed"]), file=sys.stderr)
        for source, shard, reason, count in skipped["counts"]:
            print(f"left out {count} samples of {source}: {reason} ({shard})", file=sys.stderr, flush=True)


def device_arguments(trainer: Namespace) -> dict[str, Any]:
    """What a config leaves open of the device, its strategy and its precision.

    Lightning's own "auto" finds the devices it ships with; ours also an NPU that torch_npu sees.
    """
    given = trainer["accelerator"]
    device = device_of(given if isinstance(given, str) else given.name())
    if device != NPUAccelerator.name():
        return {"precision": best_precision(device)} if trainer["precision"] is None else {}
    require_npu()
    chosen = {name: trainer[name] for name in ("devices", "num_nodes", "strategy", "plugins")}
    return trainer_arguments(**chosen, precision=trainer["precision"] or best_precision(device))


def count_batch(batch) -> dict[str, int]:
    """What is counted per second."""
    return {
        "tokens": batch.num_tokens,
        "supervised_tokens": batch.num_supervised,
        "images": batch.num_images,
        "documents": len(batch.keys),
    }


def pack_facts(batch) -> PackFacts:
    """What is reported of a pack: its real documents, and what became of the rest of its tokens."""
    lengths = batch.doc_lengths[: len(batch.keys)]
    padding = sum(batch.doc_lengths) - sum(lengths) - batch.hole_tokens
    return PackFacts(
        lengths,
        batch.token_budget,
        num_images=batch.num_images,
        num_patches=batch.num_patches,
        patch_budget=batch.patch_budget,
        num_supervised=batch.num_supervised,
        wasted_tokens={"holes": batch.hole_tokens, "padding": padding},
    )


def pack_cost(phase: Phase) -> Callable[[Any], float]:
    """What a pack of the phase's model should cost, as the plan sees it."""

    def cost(batch) -> float:
        lengths = np.asarray(batch.doc_lengths[: len(batch.keys)])
        patches = np.zeros(0) if batch.vision is None else batch.vision.grid_thw.prod(dim=1).cpu().numpy()
        return float(phase.pack_cost.language(lengths).sum() + phase.pack_cost.vision(patches).sum())

    return cost


def flops_of(phase: Phase, batch) -> float:
    """Model FLOPs of a training step over a pack."""
    from mindvl.model.flops import training_flops

    return training_flops(phase.model, batch)


def peak_of(trainer: L.Trainer) -> float:
    """FLOP/s of matrix products in the run's precision on its device, measured now."""
    dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
    return matmul_peak(dtype, str(trainer.strategy.root_device))


def _missing_callbacks(given: Sequence[L.Callback], root: Path, *, fitted: Phase | None, bar: bool) -> list[L.Callback]:
    """Defaults of a run, less those that the config brings itself; `fitted` is the phase that a fit trains."""
    has_bar = any(isinstance(callback, ProgressBar) for callback in given)
    defaults: list[L.Callback] = []
    if fitted is not None:
        defaults += [
            ModelCheckpoint(
                root / "checkpoints", filename="step-{step}", save_last=True, every_n_train_steps=CHECKPOINT_STEPS
            ),
            TokenThroughput(count_batch, flops=flops_of, peak_flops=peak_of),
            PackingStatistics(pack_facts, cost=pack_cost(fitted)),
            SaveModel(root / "model"),
            KeepRandomState(),
        ]
    if bar and not has_bar:
        defaults.append(progress_of_steps())  # last: it shows what the others have just logged
    return [callback for callback in defaults if not any(isinstance(other, type(callback)) for other in given)]


def _description(verb: str) -> str:
    """What `mindvl VERB --help` opens with."""
    return LIGHTNING_VERBS[verb] + ("" if verb == "fit" else f". {CHOICE}")


def run_lightning(arguments: Sequence[str]) -> int:
    """Run one of LightningCLI's verbs."""
    quiet_lightning()
    keep_freed_memory()
    arguments = ["--config" if argument == "-c" else argument for argument in arguments]
    MindVLCLI(
        Phase,
        PackedShards,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfigOnceBegun,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_class=OneLineParser,
        parser_kwargs={verb: {"description": _description(verb)} for verb in LIGHTNING_VERBS},
        args=spelled_out(arguments),
    )
    return 0
