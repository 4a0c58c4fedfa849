"""A mixture of experts small enough to train in minutes on two cores: 4 layers, 32 experts, 3.7 M parameters.

    settings = read_toy(Path("configs/routing_toy/baseline.yaml"))
    module = train_toy(settings, texts=folder, tokenizer=tokenizer, seed=0)

The language model is transformers' ERNIE 4.5 MoE: a plain softmax top-k router and a config that knows shared experts
and dense layers. So all toys differ in numbers of one config, never in code.

The load-balancing loss is that of Switch, Mixtral and OLMoE, layer by layer. With `router_aux_loss_coef` transformers
pools the layers first: an expert number that is busy in one layer and idle in the next then counts as even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mindvl.routing.texts import read_documents
from mindvl.yaml_file import read_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 2048


@dataclass(frozen=True)
class ToySettings:
    """All that a toy is made of. Raises ValueError for numbers that fit no mixture."""

    name: str
    num_experts: int = 32
    k: int = 4
    """Routed experts per token."""
    expert_size: int = 64
    """Hidden units of one expert."""
    shared_experts: int = 0
    """Experts beside the routed ones that every token uses."""
    dense: str = "none"
    """Layers without experts: "none", the "first", or "half": every other one from the first on."""
    balance: float = 0.01
    """Weight of the load-balancing loss."""
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    steps: int = 400
    rows: int = 16
    """Samples of an optimizer step."""
    length_tokens: int = 256
    peak_rate: float = 3e-3

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.num_experts:
            raise ValueError(f"{self.name}: k is {self.k}, a layer has {self.num_experts} experts")
        if self.dense not in ("none", "first", "half"):
            raise ValueError(f"{self.name}: dense is {self.dense!r}; known are none, first, half")
        if self.dense != "none" and self.layers < 2:
            raise ValueError(f"{self.name}: {self.layers} layers leave none for experts beside a dense one")
        if self.steps < 1 or self.balance < 0:
            raise ValueError(f"{self.name}: {self.steps} steps and balance {self.balance}; at least 1 and 0 are needed")


def read_toy(path: Path, *, steps: int | None = None) -> ToySettings:
    """A config file; its name is the toy's. Raises ValueError for keys and values that no toy has."""
    given = read_yaml(path)
    known = {field.name: field for field in fields(ToySettings) if field.name != "name"}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
        kind = type(known[key].default)
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise ValueError(f"{path}: {key} is {value!r}, not {kind.__name__}")
    return ToySettings(path.stem, **dict(given) | ({} if steps is None else {"steps": steps}))


def build_toy(settings: ToySettings, *, vocabulary: int, end_token_id: int) -> PreTrainedModel:
    """The model of transformers, freshly initialised. A dense layer has as many units as a token's experts."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "ernie4_5_moe",
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=(settings.k + settings.shared_experts) * settings.expert_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=2 * settings.length_tokens,
        moe_num_experts=settings.num_experts,
        moe_k=settings.k,
        moe_intermediate_size=settings.expert_size,
        moe_num_shared_experts=settings.shared_experts,
        moe_layer_start_index=1 if settings.dense == "first" else 0,
        moe_layer_interval=2 if settings.dense == "half" else 1,
        router_aux_loss_coef=0.0,  # the loss is taken layer by layer, see above
        output_router_logits=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_token_id,
        pad_token_id=end_token_id,
    )
    config.name_or_path = f"toy/{settings.name}"
    return AutoModelForCausalLM.from_config(config)


class ToyMoE(L.LightningModule):
    """Next-token prediction with the load-balancing loss; AdamW, linear warm-up, cosine to a tenth."""

    def __init__(self, settings: ToySettings, *, vocabulary: int, end_token_id: int):
        super().__init__()
        self.settings = settings
        self.model = build_toy(settings, vocabulary=vocabulary, end_token_id=end_token_id)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        output = self.model(input_ids=batch, labels=batch, use_cache=False)
        unevenness = torch.stack([self._unevenness(logits) for logits in output.router_logits]).mean()
        self.log("train/loss", output.loss)
        return output.loss + self.settings.balance * unevenness

    def _unevenness(self, logits: Tensor) -> Tensor:
        """E x sum over experts of (share of tokens that chose it) x (mean probability); k when all are used alike."""
        probabilities = logits.float().softmax(dim=-1)
        chosen = probabilities.topk(self.settings.k, dim=-1).indices
        uses = torch.zeros_like(probabilities).scatter_(-1, chosen, 1.0)
        return self.settings.num_experts * (uses.mean(dim=0) * probabilities.mean(dim=0)).sum()

    def configure_optimizers(self) -> dict[str, Any]:
        decayed = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.peak_rate, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warmup = max(1, self.settings.steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, self.settings.steps - warmup))
        return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


class Windows(Dataset):
    """Windows of token streams: row n is the same in every run with the same seed; domains take turns."""

    def __init__(self, streams: list[np.ndarray], *, length: int, rows: int, seed: int):
        self.streams, self.length, self.rows, self.seed = streams, length, rows, seed

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, number: int) -> Tensor:
        stream = self.streams[number % len(self.streams)]
        start = int(np.random.default_rng((self.seed, number)).integers(0, len(stream) - self.length + 1))
        return torch.from_numpy(stream[start : start + self.length])


def train_toy(
    settings: ToySettings,
    *,
    streams: Mapping[str, np.ndarray],
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    say: Callable[[str], None] = lambda words: None,
) -> ToyMoE:
    """Train on token streams of domains. Raises ValueError for one that is shorter than a sample."""
    for name, stream in streams.items():
        if len(stream) < settings.length_tokens:
            raise ValueError(f"domain {name} has {len(stream)} tokens, less than a sample of {settings.length_tokens}")
    torch.manual_seed(seed)
    module = ToyMoE(settings, vocabulary=len(tokenizer), end_token_id=int(tokenizer.eos_token_id))
    rows = settings.steps * settings.rows
    data = Windows(list(streams.values()), length=settings.length_tokens, rows=rows, seed=seed)
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=settings.steps,
        gradient_clip_val=1.0,
        callbacks=[_Progress(settings.steps, say)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=settings.rows, num_workers=0))
    return module.eval()


class _Progress(L.Callback):
    def __init__(self, steps: int, say: Callable[[str], None]):
        self.every, self.say = max(1, steps // 5), say

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.say(f"  step {trainer.global_step}: loss {float(outputs['loss']):.3f}")


def train_tokenizer(files: list[Path]) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens, trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(read_documents(files), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def token_stream(file: Path, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All documents of a file end to end, (tokens) int64, an end token after each."""
    ids: list[int] = []
    for text in read_documents([file]):
        ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids.append(int(tokenizer.eos_token_id))
    return np.array(ids, np.int64)


def settings_record(settings: ToySettings) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return asdict(settings)
