"""Values that the paper printed, for a place beside one's own: 20 models and the ten toys of its ablation.

Source: arXiv 2505.16056 (ICLR 2026). None of these numbers was measured here. They hold for the paper's corpus (11
domains, 2,048 samples of 512 tokens each, teacher-forced), so a model that is recorded on other text lands in their
neighbourhood, not on them. Two of the models have an encoder and a decoder, which count as two.

    >>> [row.key for row in PUBLISHED if row.srp_percent > 54]
    ['llamamoe2', 'yuan', 'powermoe', 'qwen3']
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "arXiv 2505.16056"
SEGMENT_LENGTH = 16
"""Tokens of a segment, for SRP and for the look-ahead of SCH."""
CACHE_RATIO = 2
"""Cache size of the SCH below, over the experts that a token uses (rho)."""


@dataclass(frozen=True)
class PublishedModel:
    """A row of the paper's tables."""

    key: str
    model: str
    total_params: float
    active_params: float
    num_experts: int
    k: int
    shared: int
    """Shared experts, which every token uses."""
    srp_percent: float
    """SRP of all layers at 16 tokens."""
    load_balance_percent: float
    """Standard deviation of activation over all experts; 0 is even."""
    hit_rate_percent: tuple[float, float]
    """95 % interval of SCH, variant "reference": one cache for all layers, rho = 2, look-ahead 16."""


def _row(
    key: str, model: str, total: float, active: float, num_experts: int, k: int, shared: int, *values: float
) -> PublishedModel:
    srp, balance, low, high = values
    return PublishedModel(key, model, total * 1e9, active * 1e9, num_experts, k, shared, srp, balance, (low, high))


PUBLISHED: tuple[PublishedModel, ...] = (
    _row("llamamoe2", "llama-moe/LLaMA-MoE-v2-3_8B-2_8-sft", 8.03, 3.80, 8, 2, 0, 78.16, 29.04, 97.82, 98.03),
    _row("yuan", "IEITYuan/Yuan2-M32-hf", 39.94, 3.70, 32, 2, 0, 63.48, 13.86, 81.69, 82.33),
    _row("powermoe", "ibm-research/PowerMoE-3b", 3.30, 0.88, 40, 8, 0, 55.17, 12.90, 80.62, 81.24),
    _row("qwen3", "Qwen/Qwen3-30B-A3B", 30.53, 3.35, 128, 8, 0, 54.14, 3.19, 76.49, 77.46),
    _row("phi", "microsoft/Phi-3.5-MoE-instruct", 41.87, 6.64, 16, 2, 0, 51.98, 4.90, 74.57, 75.91),
    _row("olmoe", "allenai/OLMoE-1B-7B-0125", 6.92, 1.28, 64, 8, 0, 50.91, 6.79, 73.39, 74.71),
    _row("grin", "microsoft/GRIN-MoE", 41.87, 6.64, 16, 2, 0, 50.39, 3.89, 72.75, 74.09),
    _row("mixtral", "mistralai/Mixtral-8x7B-v0.1", 46.70, 12.88, 8, 2, 0, 49.36, 2.70, 73.92, 74.42),
    _row("minicpm", "openbmb/MiniCPM-MoE-8x2B", 13.87, 4.32, 8, 2, 0, 48.85, 2.59, 73.29, 73.67),
    _row("jetmoe", "jetmoe/jetmoe-8b", 8.52, 2.33, 8, 2, 0, 47.45, 1.12, 70.60, 71.00),
    _row("llamamoe", "llama-moe/LLaMA-MoE-v1-3_5B-4_16", 6.74, 3.50, 16, 4, 0, 45.29, 2.66, 66.07, 66.44),
    _row("xverse", "xverse/XVERSE-MoE-A4.2B", 25.78, 4.23, 64, 6, 2, 38.58, 2.71, 58.38, 59.14),
    _row("jamba", "ai21labs/AI21-Jamba-Mini-1.6", 51.57, 12.11, 16, 2, 0, 38.08, 3.05, 57.51, 58.24),
    _row("deepseek2", "deepseek-ai/DeepSeek-V2-Lite", 15.71, 2.66, 64, 6, 2, 37.92, 2.34, 57.65, 58.49),
    _row("deepseek", "deepseek-ai/deepseek-moe-16b-base", 16.38, 2.83, 64, 6, 2, 36.94, 2.03, 56.24, 57.13),
    _row("qwen2", "Qwen/Qwen2-57B-A14B", 57.41, 14.25, 64, 8, 8, 36.74, 6.74, 54.75, 55.08),
    _row("nllb decoder", "facebook/nllb-moe-54b", 54.50, 3.75, 128, 2, 0, 31.35, 2.13, 42.26, 43.54),
    _row("qwen", "Qwen/Qwen1.5-MoE-A2.7B", 14.32, 2.69, 60, 4, 4, 30.71, 0.58, 45.79, 46.50),
    _row("openmoe", "pingzhili/openmoe-8b-native-pt", 11.86, 3.80, 32, 2, 1, 28.77, 2.56, 39.42, 40.68),
    _row("nllb encoder", "facebook/nllb-moe-54b", 54.50, 3.75, 128, 2, 0, 25.24, 1.75, 35.92, 36.96),
    _row("switch encoder", "google/switch-base-128", 7.42, 0.22, 128, 1, 0, 19.33, 0.58, 20.74, 21.86),
    _row("switch decoder", "google/switch-base-128", 7.42, 0.22, 128, 1, 0, 19.27, 0.66, 23.89, 25.16),
)
"""By SRP, the most consistent first."""

SRP_OVER_LENGTH: dict[str, dict[int, float]] = {
    "llamamoe": {4: 55.78, 16: 45.29, 64: 41.61, 256: 40.62},
    "olmoe": {4: 64.69, 16: 50.91, 64: 45.53, 256: 42.64},
    "jetmoe": {4: 60.22, 16: 47.45, 64: 42.78, 256: 41.09},
}
"""SRP in percent at other segment lengths, of three models."""


@dataclass(frozen=True)
class PublishedToy:
    """A toy of the ablation: 1.43 B parameters like OLMoE, 8 layers, 20 B tokens."""

    name: str
    """As the paper writes it."""
    srp_percent: float
    load_balance_percent: float
    lru_hit_rates: tuple[float, float, float] | None = None
    """At rho = 1, 2, 3; None where the paper's files do not print them."""


PUBLISHED_TOYS: dict[str, PublishedToy] = {
    "no_balance": PublishedToy("NoLB", 56.42, 13.21, (0.436, 0.672, 0.824)),
    "more_active": PublishedToy("ActMore", 55.69, 6.54),
    "dense_first": PublishedToy("DenseFst", 44.87, 4.25),
    "dense_half": PublishedToy("DenseHlf", 43.67, 3.71),
    "baseline": PublishedToy("Baseline", 43.56, 4.02, (0.294, 0.474, 0.614)),
    "fewer_experts": PublishedToy("FewerExp", 41.62, 3.63),
    "one_shared": PublishedToy("1ShrExp", 41.38, 3.43),
    "two_shared": PublishedToy("2ShrExp", 38.79, 3.06, (0.239, 0.397, 0.515)),
    "strong_balance": PublishedToy("OverLB", 36.42, 1.79, (0.202, 0.356, 0.489)),
    "fewer_active": PublishedToy("ActFewer", 27.13, 1.14),
}
"""By the names of `configs/routing_toy/*.yaml`, in the paper's order of SRP."""


def published_model(name: str, part: str = "model") -> PublishedModel | None:
    """The row of a hub id or of a folder that ends like one; `part` says which of two stacks. None for others."""
    wanted = name.rstrip("/").rpartition("/")[2].lower()
    for row in PUBLISHED:
        if row.model.rpartition("/")[2].lower() == wanted and (part == "model" or row.key.endswith(part)):
            return row
    return None
