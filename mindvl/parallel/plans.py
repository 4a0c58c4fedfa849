"""Tensor and expert parallelism of a language model, by the plans that transformers keep with its models.

A plan names modules and styles. Of two ranks with tensor 2, in Qwen3 each holds half of the heads and of the channels:

    self_attn.{q,k,v}_proj, mlp.{gate,up}_proj   colwise: half of the outputs
    self_attn.o_proj, mlp.down_proj              rowwise: half of the inputs; the halves of the result are added up
    embed_tokens, lm_head                        half of the vocabulary
    norms, routers                               whole on both

DeepSeek-V3's plan has no lines for its latent attention: there feed-forward layers, shared experts and vocabulary are
cut, and attention is whole on every rank.

Experts are dealt out whole: rank 1 of 4 holds experts 2 and 3 of 8. A token travels to the ranks of its experts and
back (two uneven all-to-alls a layer), and ranks that read the same pack send disjoint slices of it. So experts are
never cut by tensor parallelism, also with one rank per expert group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from mindvl.parallel.mesh import Meshes


def apply_plans(language_model: nn.Module, meshes: Meshes) -> list[nn.Module]:
    """Cut a transformers language model over the tensor and expert dimensions; parameters may be on meta.

    Returns the modules of experts that now lie on the expert mesh. Raises ValueError where sizes do not divide, and
    where a model has no plan for what is asked.
    """
    sizes = meshes.sizes
    plan = dict(language_model.tp_plan or {})
    experts = [module for name, module in language_model.named_modules() if _is_experts(language_model, name)]
    _check(language_model, plan, experts, meshes)
    dealt = experts if sizes.expert > 1 or sizes.tensor > 1 else []
    if dealt:
        plan = {name: style for name, style in plan.items() if not re.search(r"\.experts(\.|$)", name)}
    if sizes.tensor > 1:
        _apply(language_model, plan, meshes)
        language_model.tie_weights()  # cut one by one, the tied ones have become two
    for module in dealt:
        _deal(module, meshes)
    return dealt


def _is_experts(language_model: nn.Module, name: str) -> bool:
    return (language_model.ep_plan or {}).get(_pattern(name)) == "ep_dispatch_experts"


def _pattern(name: str) -> str:
    """model.layers.3.mlp -> model.layers.*.mlp"""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _check(language_model: nn.Module, plan: Mapping[str, str], experts: list[nn.Module], meshes: Meshes) -> None:
    config, sizes = language_model.config.get_text_config(), meshes.sizes
    heads = config.num_attention_heads
    cuts_attention = any(name.endswith(".k_proj") for name in plan)
    sizes.check_model(
        heads=heads,
        key_value_heads=(getattr(config, "num_key_value_heads", None) or heads) if cuts_attention else None,
        experts=experts[0].num_experts if experts else None,
    )
    if sizes.tensor > 1 and not plan:
        raise ValueError(f"strategy.tensor is {sizes.tensor}, but transformers has no plan for {config.model_type}")


def _apply(language_model: nn.Module, plan: Mapping[str, str], meshes: Meshes) -> None:
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    mesh = meshes.dense["tensor"]
    for name, module in language_model.named_modules():
        for parameter in list(module._parameters):
            style = plan.get(_pattern(f"{name}.{parameter}")) or plan.get(_pattern(name))
            if style is not None:
                ALL_PARALLEL_STYLES[style].shard_param(module, parameter, mesh)
        style = plan.get(_pattern(name))
        if style is not None:
            ALL_PARALLEL_STYLES[style].install_forward(module, mesh)


def _deal(experts: nn.Module, meshes: Meshes) -> None:
    from torch.distributed.tensor import Shard
    from transformers.distributed.expert_parallel import EpDispatchExpertsParallel, MoEParamShard

    mesh = meshes.expert["expert"]
    for parameter in ("gate_up_proj", "down_proj"):
        MoEParamShard(Shard(0), shards_expert_dim=True).shard_param(experts, parameter, mesh)
    experts._is_expert_parallel = False  # every row that arrives is for an expert of this rank: nothing to mask
    EpDispatchExpertsParallel().install_forward(
        experts, mesh, tp_mesh=meshes.dense["tensor"], ep_implementation="all_to_all"
    )
