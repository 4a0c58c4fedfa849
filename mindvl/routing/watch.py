"""What `RoutingConsistency` (mindvl_callbacks) needs to watch a model of ours: a recorder, metrics and plots.

In a config of `mindvl fit` or `mindvl validate`:

    trainer:
      callbacks:
        - class_path: mindvl_callbacks.RoutingConsistency
          init_args:
            record: mindvl.routing.watch.record_model
            metrics: mindvl.routing.watch.headline_metrics
            plots: mindvl.routing.watch.headline_plots
            count_tokens: mindvl.routing.watch.count_tokens

It works on any LightningModule whose mixture of experts is `self.model` or itself. Logged are

    routing/all/srp                    -    SRP of all layers at 16 tokens
    routing/all/size_ratio             -    experts that its segment router keeps, over the router's own
    routing/all/load_balance_percent   %    SD of activation over all experts
    routing/picture/..., routing/text/...   the same over picture and over text tokens alone
    routing/lru/hit_rate_2k            -    hits of an LRU cache of 2 k experts in every layer, first loads free
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mindvl.routing.balance import load_balance
from mindvl.routing.matchers import find_moe_layers
from mindvl.routing.metrics import CacheHits, SegmentRouting
from mindvl.routing.published import SEGMENT_LENGTH
from mindvl.routing.recorder import RoutingRecorder
from mindvl.routing.sample import KindName, Routings
from mindvl.routing.segments import scores_from_counts

KINDS: tuple[KindName, ...] = ("text", "picture")


def model_of(module: nn.Module) -> nn.Module:
    """The model whose forward a step calls: `module.model` where there is one, the module itself otherwise."""
    inner = getattr(module, "model", None)
    return inner if isinstance(inner, nn.Module) else module


def record_model(module: nn.Module) -> RoutingRecorder:
    """A recorder of one batch. Raises ValueError when the model has no MoE layer of a known family."""
    return RoutingRecorder(model_of(module))


def count_tokens(recording: Routings) -> int:
    """Routed tokens."""
    return sum(len(ids) for ids in recording)


class HeadlineRouting(SegmentRouting):
    """SRP of all layers at 16 tokens with what explains it, of all tokens or of one kind.

    `compute` returns numbers for the log (`srp`, `size_ratio`, `load_balance_percent`) and tensors for plots:
    `srp_layers` (layers) and `activation` (layers, experts).
    """

    def __init__(self, *, num_layers: int, num_experts: int, kind: KindName | None = None):
        super().__init__(
            num_layers=num_layers,
            num_experts=num_experts,
            segment_length=SEGMENT_LENGTH,
            level="model",
            allow_dropped=True,
        )
        self.kind = kind

    def update(self, recording: Routings) -> None:  # type: ignore[override]
        """Counts a recording's tokens of the kind; a recording without any adds nothing."""
        ids = list(recording if self.kind is None else recording.select(kind=self.kind))
        if ids:
            super().update(ids)

    def compute(self) -> dict[str, Tensor]:
        counts = self.counts.cpu().numpy()[0]
        experts = scores_from_counts(counts, level="expert")
        found = super().compute()
        balance = torch.tensor(load_balance(experts.activation))
        layers = torch.from_numpy(scores_from_counts(counts).srp)
        numbers = {"srp": found["srp"], "size_ratio": found["size_ratio"], "load_balance_percent": balance}
        return numbers | {"srp_layers": layers, "activation": torch.from_numpy(experts.activation)}


class LruHits(CacheHits):
    """Hit rate of an LRU cache in every layer: `hit_rate_2k`, and `curve` (experts) of all sizes."""

    k: Tensor

    def __init__(self, *, num_layers: int, num_experts: int):
        super().__init__(num_layers=num_layers, num_experts=num_experts, policy="lru", allow_dropped=True)
        self.add_state("k", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, recording: Routings) -> None:  # type: ignore[override]
        super().update(list(recording))
        self.k = torch.tensor(recording.meta.k, device=self.k.device)

    def compute(self) -> dict[str, Tensor]:
        found = super().compute()
        curve = found["hits"].sum(0).double() / found["requests"].sum()
        size = min(2 * int(self.k), len(curve)) - 1
        return {"hit_rate_2k": curve[size], "curve": curve}


def headline_metrics(module: nn.Module) -> dict[str, Any]:
    """The metrics listed above, of the sizes of the module's model."""
    layers = find_moe_layers(model_of(module))
    parts = {layer.part for layer in layers}
    if len(parts) > 1:
        raise ValueError(f"the model has {' and '.join(sorted(parts))}: record one, and make metrics of its size")
    size: dict[str, Any] = {"num_layers": len(layers), "num_experts": layers[0].num_experts}
    kinds: dict[str, Any] = {kind: HeadlineRouting(kind=kind, **size) for kind in KINDS}
    return {"all": HeadlineRouting(**size), **kinds, "lru": LruHits(**size)}


def headline_plots(results: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of what `headline_metrics` come to: SRP by layer, the use of experts, and hits over the cache size."""
    from mindvl.routing.drawing import COLORS, DASHES, HEAT, MARKERS, legend, new_figure, tidy

    lines = new_figure(3.2)
    axes = lines.subplots()
    for number, (name, values) in enumerate(_per_layer(results)):
        style: dict[str, Any] = {"color": COLORS[number], "linestyle": DASHES[number], "marker": MARKERS[number]}
        axes.plot(range(len(values)), 100 * values, label=name, markersize=4, **style)
    axes.set(xlabel="MoE layer", ylabel=f"SRP at {SEGMENT_LENGTH} tokens, %", ylim=(0, 100))
    legend(axes)

    use = new_figure(3.2)
    axes = use.subplots()
    activation = 100 * results["all"]["activation"].numpy()
    shown = axes.imshow(activation, aspect="auto", cmap=HEAT, interpolation="nearest", vmin=0)
    bar = use.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label("tokens that use it, %", fontsize=8)
    axes.set(xlabel="expert", ylabel="MoE layer")
    tidy(axes, grid=False)

    hits = new_figure(3.2)
    axes = hits.subplots()
    curve = 100 * results["lru"]["curve"].cpu().numpy()
    axes.plot(np.arange(1, len(curve) + 1), curve, color=COLORS[0], linewidth=1.8)
    axes.set(xlabel="cache size, experts per layer", ylabel="LRU hits, %", ylim=(0, 101))
    tidy(axes)
    return {"srp_by_layer": lines, "use_of_experts": use, "lru_hits": hits}


def _per_layer(results: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("all", *KINDS):
        values = results[name]["srp_layers"].cpu().numpy()
        if np.isfinite(values).any():
            yield name, values
