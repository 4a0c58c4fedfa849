"""Our loader behind the rivals' protocol: what `mindvl fit` makes of the same shards.

    python -m tests.benchmarks.loader_rivals.ours CORPUS WORKERS TOKENS PATCHES PREFETCH

A phase and a trainer are made and joined to the data module, since they say what is cut, masked and planned; no model
is built and no step is taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from mindvl.batch import PackedBatch
from mindvl.data.module import PackedShards, Source
from mindvl.device import keep_freed_memory
from mindvl.phases import InstructionTuning, ModelSpec
from tests.benchmarks.loader_rivals.encode import MAX_PIXELS, MIN_PIXELS
from tests.benchmarks.loader_rivals.turns import serve_packs

MAX_STEPS = 50_000
LANGUAGE = {"model_type": "qwen3", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}


def main(corpus: str, workers: int, tokens: int, patches: int, prefetch: int) -> None:
    keep_freed_memory()  # as `mindvl fit` does
    data = PackedShards(
        {"corpus": Source(str(Path(corpus, "shards")))},
        sequence_length=tokens,
        patch_budget=patches,
        workers=workers,
        prefetch=prefetch,
    )
    spec = ModelSpec(
        tokenizer=str(Path(corpus, "tokenizer")), language=LANGUAGE, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS
    )
    phase = InstructionTuning(spec)
    assert phase.supervise == "answers", phase.supervise
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=MAX_STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(phase)
    trainer.state.fn = TrainerFn.FITTING
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    packs = (RivalView(pack, phase.config.image_token_id) for pack in data.train_dataloader())
    serve_packs(packs, queued=workers * (prefetch + 1))


class RivalView(dict):
    """Our pack under the rivals' names, which costs nothing; `labels` are made when somebody compares them."""

    def __init__(self, pack: PackedBatch, image_token: int):
        super().__init__(
            keys=pack.keys,
            input_ids=pack.input_ids,
            position_ids=pack.position_ids,
            cu_seqlens=pack.cu_seqlens,
            pixel_values=None if pack.vision is None else pack.vision.patches,
            image_token=image_token,
        )
        self._pack = pack

    def __missing__(self, name: str) -> torch.Tensor:
        if name != "labels":
            raise KeyError(name)
        labels = torch.full_like(self._pack.input_ids, -100)
        labels[self._pack.supervised_index + 1] = self._pack.targets
        return labels


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
