"""The families of mixtures of experts, how each chooses, and where the recorder sees it: a table for people.

The first twenty rows are the models of arXiv 2505.16056 (table 1; SRP and cache figures there belong to these ids).
`where` says what is hooked; `mindvl.routing.matchers` does it. Class names are those of transformers 5.23, or of the
model's own file on the hub (marked "hub") as it was when the paper measured it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One row."""

    name: str
    model: str
    """The published model that the numbers are of."""
    module: str
    """Class that is hooked."""
    where: str
    """What of it is read."""
    rule: str
    """How experts are chosen."""
    num_experts: int
    k: int
    shared: int
    """Shared experts, in widths of a routed one."""
    layers: str
    """Number of MoE layers and where they sit."""


_EXPERTS = "input ids"
_INSIDE = "topk inside"
_SOFTMAX = "softmax, top-k"
_SOFTMAX_RENORM = "softmax, top-k, renormalised"

FAMILIES: tuple[Family, ...] = (
    Family(
        "LLaMA-MoE v2", "llama-moe/LLaMA-MoE-v2-3_8B-2_8-sft", "MixtralSparseMoeBlock (hub)", _INSIDE,
        _SOFTMAX_RENORM, 8, 2, 0, "32, all",
    ),
    Family(
        "Yuan2-M32", "IEITYuan/Yuan2-M32-hf", "YuanMoeLayer (hub)", _INSIDE,
        "attention over experts, softmax, top-k, renormalised", 32, 2, 0, "24, all",
    ),
    Family(
        "PowerMoE (GraniteMoE)", "ibm-research/PowerMoE-3b", "GraniteMoeExperts", _EXPERTS,
        "top-k of logits, softmax over the chosen", 40, 8, 0, "32, all",
    ),
    Family("Qwen3-MoE", "Qwen/Qwen3-30B-A3B", "Qwen3MoeExperts", _EXPERTS, _SOFTMAX_RENORM, 128, 8, 0, "48, all"),
    Family(
        "Phi-3.5-MoE", "microsoft/Phi-3.5-MoE-instruct", "PhimoeExperts", _EXPERTS,
        "sparsemixer: best, then best of the rest; sampled in training", 16, 2, 0, "32, all",
    ),
    Family("OLMoE", "allenai/OLMoE-1B-7B-0125", "OlmoeExperts", _EXPERTS, _SOFTMAX, 64, 8, 0, "16, all"),
    Family(
        "GRIN-MoE", "microsoft/GRIN-MoE", "GRINMoESparseMoeBlock (hub)", "concat inside",
        "sparsemixer: best, then best of the rest; sampled in training", 16, 2, 0, "32, all",
    ),
    Family("Mixtral", "mistralai/Mixtral-8x7B-v0.1", "MixtralExperts", _EXPERTS, _SOFTMAX_RENORM, 8, 2, 0, "32, all"),
    Family(
        "MiniCPM-MoE", "openbmb/MiniCPM-MoE-8x2B", "MiniCPMMoE (hub)", _INSIDE, _SOFTMAX_RENORM, 8, 2, 0, "40, all"
    ),
    Family(
        "JetMoE", "jetmoe/jetmoe-8b", "JetMoeTopKGating", "output order",
        "top-k of logits, softmax over the chosen; its mixture of attention is left out", 8, 2, 0, "24, all",
    ),
    Family(
        "LLaMA-MoE v1", "llama-moe/LLaMA-MoE-v1-3_5B-4_16", "TopKBalancedNoisyGate (hub)", "output topK_indices",
        "top-k of logits (with noise in training), softmax over the chosen", 16, 4, 0, "32, all",
    ),
    Family(
        "XVERSE-MoE", "xverse/XVERSE-MoE-A4.2B", "XverseMoEMLP (hub)", _INSIDE, _SOFTMAX_RENORM, 64, 6, 2, "28, all"
    ),
    Family(
        "Jamba", "ai21labs/AI21-Jamba-Mini-1.6", "JambaExperts", _EXPERTS, _SOFTMAX, 16, 2, 0, "16, every 2nd of 32"
    ),
    Family(
        "DeepSeek-V2", "deepseek-ai/DeepSeek-V2-Lite", "DeepseekV2Experts", _EXPERTS,
        "softmax, best groups (when there are groups), top-k", 64, 6, 2, "26, after the first",
    ),
    Family(
        "DeepSeek-MoE", "deepseek-ai/deepseek-moe-16b-base", "MoEGate (hub)", "output ids",
        _SOFTMAX, 64, 6, 2, "27, after the first",
    ),
    Family("Qwen2-MoE", "Qwen/Qwen2-57B-A14B", "Qwen2MoeExperts", _EXPERTS, _SOFTMAX, 64, 8, 8, "28, all"),
    Family(
        "NLLB-MoE", "facebook/nllb-moe-54b", "NllbMoeTop2Router", "output mask and gates",
        "argmax, then argmax of the rest; full experts drop (-1). transformers 5.23 then runs experts 0 and 1 only",
        128, 2, 0, "6 + 6, every 4th of 24 (encoder) + 24 (decoder)",
    ),
    Family("Qwen1.5-MoE", "Qwen/Qwen1.5-MoE-A2.7B", "Qwen2MoeExperts", _EXPERTS, _SOFTMAX, 60, 4, 4, "24, all"),
    Family(
        "OpenMoE", "pingzhili/openmoe-8b-native-pt", "HFOpenMoeTop2Router (hub)", "output dispatch mask",
        "argmax, then argmax of the rest; full experts drop (-1)", 32, 2, 1, "4, every 6th of 24",
    ),
    Family(
        "Switch", "google/switch-base-128", "SwitchTransformersExperts", "input one-hot",
        "argmax; full experts drop (-1)", 128, 1, 0, "6 + 6, every 2nd of 12 (encoder) + 12 (decoder)",
    ),
    Family(
        "DeepSeek-V3", "deepseek-ai/DeepSeek-V3", "DeepseekV3Experts", _EXPERTS,
        "sigmoid + bias, best groups, top-k; weights without the bias", 256, 8, 1, "58, after the third",
    ),
    Family(
        "gpt-oss", "openai/gpt-oss-120b", "GptOssExperts", _EXPERTS,
        "top-k of logits, softmax over the chosen", 128, 4, 0, "36, all",
    ),
    Family(
        "Llama 4", "meta-llama/Llama-4-Maverick-17B-128E", "Llama4Router", "output scores",
        "top-k of logits, sigmoid", 128, 1, 1, "24, every 2nd of 48",
    ),
)  # fmt: skip


def matchers_table() -> str:
    """The families as a Markdown table."""
    head = ("family", "model", "hooked class", "read", "rule", "experts", "k", "shared", "MoE layers")
    rows = [head, ("---",) * len(head)]
    for family in FAMILIES:
        cells = (family.name, family.model, f"`{family.module}`", family.where, family.rule)
        rows.append((*cells, *(str(n) for n in (family.num_experts, family.k, family.shared)), family.layers))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
