"""Local routing consistency and cache hits as torchmetrics: fed batch by batch, exact over ranks and splits.

    metric = SegmentRouting(num_layers=16, num_experts=64, segment_length=16)
    for ids in trace:                       # (samples, tokens, layers, k)
        metric.update(ids)
    metric.compute()["srp"]                 # (layers)

All state is int64 and additive, so any split of the samples over batches or ranks gives the same integers, and it
stays the same size however long the corpus is. A sample must arrive whole: windows and caches end with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mindvl.routing.cache import check_policy, count_places, hit_curve, pinned_places
from mindvl.routing.inputs import RouterIds, read_routing
from mindvl.routing.segments import scores_from_counts
from mindvl.routing.windows import window_histograms


class SegmentRouting(Metric):
    """SRP, size ratio and activation (see `mindvl.routing.segments`) of all samples seen.

    State: `counts` (domains, layers, experts, m + 1), 8 bytes each: 139 kB for 16 layers of 64 experts at m = 16.

    Args:
        segment_length: m in tokens.
        level: "expert", "layer" or "model".
        domains: labels that samples may have, in the order of the results' leading axis; None for no such axis.
        allow_dropped: take -1 for a slot that ran no expert.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(
        self,
        *,
        num_layers: int,
        num_experts: int,
        segment_length: int,
        level: str = "layer",
        domains: Sequence[Hashable] | None = None,
        allow_dropped: bool = False,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.num_layers, self.num_experts = num_layers, num_experts
        self.segment_length, self.level, self.allow_dropped = segment_length, level, allow_dropped
        self.domains = None if domains is None else tuple(domains)
        rows = 1 if self.domains is None else len(self.domains)
        empty = torch.zeros(rows, num_layers, num_experts, segment_length + 1, dtype=torch.int64)
        scores_from_counts(empty.numpy(), level=level)  # says at once when the level is unknown
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, ids: RouterIds, domains: Sequence[Hashable] | None = None) -> None:
        """Counts whole samples, (samples, tokens, layers, k) or a list of (tokens, layers, k).

        Raises:
            ValueError: for another number of layers, or labels that are missing, unknown or not wanted.
        """
        if (domains is None) != (self.domains is None):
            raise ValueError(f"this metric has domains {self.domains}; the samples came with labels {domains}")
        histogram = window_histograms(
            _of_layers(ids, self.num_experts, self.num_layers),
            num_experts=self.num_experts,
            segment_lengths=(self.segment_length,),
            domains=domains,
            allow_dropped=self.allow_dropped,
        )[self.segment_length]
        rows = [0]
        if self.domains is not None and histogram.domains is not None:
            unknown = [name for name in histogram.domains if name not in self.domains]
            if unknown:
                raise ValueError(f"unknown domain {unknown[0]!r}; this metric has {', '.join(map(str, self.domains))}")
            rows = [self.domains.index(name) for name in histogram.domains]
        self.counts[rows] += torch.from_numpy(histogram.counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """`srp`, `size_ratio` and `activation` in float64; NaN where no sample was as long as a window."""
        counts = self.counts.cpu().numpy()
        scores = scores_from_counts(counts if self.domains is not None else counts[0], level=self.level)
        found = {"srp": scores.srp, "size_ratio": scores.size_ratio, "activation": scores.activation}
        return {name: torch.from_numpy(values).to(self.counts.device) for name, values in found.items()}


class CacheHits(Metric):
    """Hits of all cache sizes under one policy (see `mindvl.routing.cache`) of all samples seen.

    State: `places`, as many integers as there are experts in all layers, and `requests`.

    Args:
        policy: of `mindvl.routing.cache.POLICIES`; "pinned" goes by the uses of all samples seen.
        variant: of SCH.
        lookahead: of SCH, in tokens.
        pooled: one cache for all layers.
        cold_misses: "free" or "counted".
        allow_dropped: take -1 for a slot that ran no expert.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    places: Tensor
    requests: Tensor

    def __init__(
        self,
        *,
        num_layers: int,
        num_experts: int,
        policy: str,
        variant: str = "atomic",
        lookahead: int | None = None,
        pooled: bool = False,
        cold_misses: str = "free",
        allow_dropped: bool = False,
        **settings: Any,
    ):
        super().__init__(**settings)
        check_policy(policy, variant, lookahead, cold_misses)
        self.num_layers, self.num_experts, self.pooled = num_layers, num_experts, pooled
        self.rule: dict[str, Any] = {
            "policy": policy,
            "variant": variant,
            "lookahead": lookahead,
            "cold_misses": cold_misses,
            "allow_dropped": allow_dropped,
        }
        caches, experts = (1, num_layers * num_experts) if pooled else (num_layers, num_experts)
        self.add_state("places", torch.zeros(caches, experts, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("requests", torch.zeros(caches, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ids: RouterIds) -> None:
        """Replays whole samples. Raises ValueError for another number of layers or ids that no router could give."""
        samples = _of_layers(ids, self.num_experts, self.num_layers)
        places, requests = count_places(samples, num_experts=self.num_experts, pooled=self.pooled, **self.rule)
        self.places += torch.from_numpy(places[0]).to(self.places.device)
        self.requests += torch.from_numpy(requests[0]).to(self.requests.device)

    def compute(self) -> dict[str, Tensor]:
        """`hits` and `requests` as in `cache_hits`, and `hit_rate` in float64."""
        places, requests = self.places.cpu().numpy()[None], self.requests.cpu().numpy()[None]
        if self.rule["policy"] == "pinned":
            places = pinned_places(places)
        curve = hit_curve(places, requests, pooled=self.pooled)
        found = {"hits": curve.hits, "requests": curve.requests, "hit_rate": curve.hit_rate}
        return {name: torch.from_numpy(values).to(self.places.device) for name, values in found.items()}


def _of_layers(ids: RouterIds, num_experts: int, num_layers: int) -> RouterIds:
    """The samples, an iterator's as a list. Raises ValueError for another number of layers."""
    routing = read_routing(ids, num_experts=num_experts)
    if routing.layers != num_layers:
        raise ValueError(f"the ids have {routing.layers} layers, this metric was made for {num_layers}")
    return routing.samples
