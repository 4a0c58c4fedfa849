"""A real Trainer, quiet, and what a fit leaves behind."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader


class Record(L.Callback):
    """Loss of every optimizer step, and the gradients that the optimizer used last."""

    def __init__(self):
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer, pl_module):
        def after_step(*_):
            named = pl_module.model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

        trainer.optimizers[0].register_step_post_hook(after_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())


@pytest.fixture
def make_trainer(tmp_path):
    def make(*, max_steps: int = 1, callbacks: tuple = (), **settings) -> L.Trainer:
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "devices": 1,
                "max_steps": max_steps,
                "max_epochs": -1,
                "callbacks": list(callbacks),
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "default_root_dir": tmp_path,
                **settings,
            }
        )

    return make


@pytest.fixture
def fit_packs(make_trainer):
    """Fit a phase on packs in memory, one step over all of them unless told otherwise; returns the record."""

    def fit(phase, packs, *, accumulate: int | None = None, max_steps: int = 1, **settings) -> Record:
        record = Record()
        trainer = make_trainer(
            max_steps=max_steps,
            accumulate_grad_batches=accumulate or len(packs),
            callbacks=(record,),
            limit_val_batches=0,
            **settings,
        )
        trainer.fit(phase, DataLoader(list(packs), batch_size=None), val_dataloaders=[])
        return record

    return fit


@pytest.fixture
def with_weights(make_model):
    """A phase that starts from the large random weights of `make_model`."""
    from mindvl.model.parts import train_only

    def start(phase, *, seed: int = 0):
        phase.model = make_model(seed=seed).train()
        train_only(phase.model, phase.trains)
        return phase

    return start


_DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
}
_QWEN = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
MIXTURES = {"qwen3_moe": _QWEN, "deepseek_v3": _DEEPSEEK}


@pytest.fixture(scope="session")
def mixtures():
    """Fields of tiny language models with 8 experts, 2 per token, in two layers, by model type."""
    return MIXTURES


@pytest.fixture
def start_experts(make_model, make_spec, mixtures):
    """A phase with a mixture of experts, large random weights, no clipping, and settings of the balance."""
    from mindvl.model.parts import train_only
    from mindvl.phases import ExpertBalance, Multitask, Rates

    def start(kind=Multitask, family="deepseek_v3", *, seed=0, rates=None, experts=None, **settings):
        language = {**mixtures[family], **({"experts_implementation": experts} if experts else {})}
        rates = rates or Rates(clip_norm=0.0)
        phase = kind(make_spec(language=language), rates=rates, experts=ExpertBalance(**settings))
        phase.model = make_model(language=language, seed=seed).train()
        train_only(phase.model, phase.trains)
        return phase

    return start


@pytest.fixture(scope="session")
def heard():
    """Loss of a pack, and each layer's router, logits and choices, by hooks of the tests' own."""
    from mindvl.model.moe import routers_of

    def hear(model, batch):
        records = []
        hooks = [
            router.register_forward_hook(lambda module, _, output: records.append((module, output[0], output[2])))
            for router in routers_of(model).values()
        ]
        loss = model(packed=batch).loss
        for hook in hooks:
            hook.remove()
        return loss, records

    return hear


@pytest.fixture(scope="session")
def loads_of():
    """(layers, 8 experts) choices among some tokens, counted one expert at a time."""

    def count(records, tokens=slice(None)):
        return torch.stack(
            [torch.tensor([(chosen[tokens] == e).sum().item() for e in range(8)]) for _, _, chosen in records]
        )

    return count
