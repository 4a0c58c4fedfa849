"""Which module of a model shows the choice of experts, and how it is read.

Two facts place a hook. In transformers 5 nearly every family hands the ids to a module of stacked experts,
`experts(hidden_states, top_k_index, top_k_weights)`, so its inputs are what runs, whatever router came before. The
others are named here one by one. Older modelling files on the hub keep `nn.Linear` as the gate and make the top-k
inside the block; these blocks are watched from within (`mindvl.routing.choices.Watch`).

The first matcher whose class pattern fits a module wins; a matcher with reader None passes the module over. A model
that none fits is described by one of your own:

    def read(gate, args, kwargs, output):
        return Choice(ids=output[1], weights=None)

    gate = Matcher("mine", module="MyGate", where="output", read=read)
    with RoutingRecorder(model, matchers=[gate]) as recorder: ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from mindvl.routing import choices
from mindvl.routing.choices import Reader

Where = Literal["input", "output", "inside"]

_COUNTS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "moe_num_experts",
    "total_experts",
    "num_routed_experts",
)
_SHARED_COUNTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED = re.compile(r"shared_(experts?|mlp)")
_ROUTER_NAME = re.compile(r"gate|gating|.*(router|moe|experts?).*", re.IGNORECASE)
_ROUTER_CLASS = re.compile(r".*(Gate|Gating|Router|MoE|Moe|Experts?)$")


@dataclass(frozen=True)
class Matcher:
    """Where a family's choice is visible."""

    family: str
    """For messages and the table."""
    module: str
    """Pattern that the class name of the hooked module matches in full."""
    where: Where = "input"
    """Read the module's inputs or its output, or watch it from within while it runs."""
    read: Reader | None = None
    """Makes a Choice of what passes; None passes the module over. Not used with where="inside"."""
    watch: Literal["topk", "concat"] = "topk"
    """With where="inside": the torch function whose result is the choice."""
    path: str = ".*"
    """Pattern that the module's path in the model matches in full, where the class name says too little."""
    child: str | None = None
    """A class name that one of its direct children must have; tells namesakes apart."""
    num_experts: int | None = None
    """Routed experts, where the module and its surroundings do not say."""

    def fits(self, path: str, module: nn.Module) -> bool:
        return (
            re.fullmatch(self.module, type(module).__name__) is not None
            and re.fullmatch(self.path, path) is not None
            and (self.child is None or self.child in {type(child).__name__ for child in module.children()})
        )


@dataclass(frozen=True)
class MoELayer:
    """A MoE layer of a model."""

    name: str
    """Path of the hooked module, e.g. "model.layers.3.mlp.experts"."""
    module: nn.Module
    matcher: Matcher
    part: str
    num_experts: int
    shared_experts: int


MATCHERS: tuple[Matcher, ...] = (
    Matcher("Switch", r"SwitchTransformersExperts", read=choices.one_hot_input),
    Matcher("NLLB-MoE", r"NllbMoeTop2Router", "output", choices.top_two_gates),
    Matcher("NLLB-MoE", r"NllbMoeExperts"),  # read at the router
    Matcher("JetMoE", r"JetMoeTopKGating", "output", choices.sorted_by_expert, path=r".*mlp\.router"),
    Matcher("JetMoE", r"JetMoeParallelExperts"),  # read at the router
    Matcher("Llama 4", r"Llama4Router", "output", choices.dense_scores),
    Matcher("Llama 4", r"Llama4TextExperts"),  # read at the router
    Matcher("Zaya", r"ZayaExperts", read=choices.experts_input_with_skips),
    Matcher("Inkling", r"InklingSharedExperts"),  # every token uses them
    Matcher("OpenMoE", r"HFOpenMoeTop2Router", "output", choices.dispatch_mask),
    Matcher("DeepSeek", r"MoEGate", "output", choices.ids_first),
    Matcher("LLaMA-MoE v1", r"TopKBalancedNoisyGate", "output", choices.named_ids),
    Matcher("LLaMA-MoE v1", r"LinearGLUExperts"),  # read at the gate
    Matcher("GRIN", r"GRINMoESparseMoeBlock|PhiMoESparseMoeBlock", "inside", watch="concat", child="Linear"),
    Matcher(
        "linear gate, top-k in the block",
        r"YuanMoeLayer|XverseMoEMLP|MiniCPMMoE|(Mixtral|Qwen2Moe|Qwen3Moe|Olmoe|Jamba)SparseMoeBlock",
        "inside",
        child="ModuleList",
    ),
    Matcher("stacked experts", r"\w+Experts", read=choices.experts_input),
)
"""In order of precedence; those that a user gives come before them."""


def find_moe_layers(model: nn.Module, matchers: Sequence[Matcher] = (), *, only: str | None = None) -> list[MoELayer]:
    """MoE layers of a model in its own order.

    Raises ValueError when there is none (with the modules that look like routers, and how to name one), when `only`, a
    pattern that is searched for in the layers' paths, leaves none over, and when layers of one part disagree on the
    number of experts.
    """
    config = getattr(model, "config", None)
    is_two_stacks = bool(getattr(config, "is_encoder_decoder", False))
    parents = {child: parent for parent in model.modules() for child in parent.children()}
    layers = []
    for path, module in model.named_modules():
        matcher = next((each for each in (*matchers, *MATCHERS) if each.fits(path, module)), None)
        if matcher is None or (matcher.read is None and matcher.where != "inside"):
            continue
        block = module if matcher.where == "inside" else parents.get(module, module)
        part = _part(path) if is_two_stacks else "model"
        num_experts = matcher.num_experts or _num_experts(path, module, block, config)
        around = (block, parents.get(block, block))
        layers.append(MoELayer(path, module, matcher, part, num_experts, _shared_experts(around, config)))
    if not layers:
        raise ValueError(_nothing_found(model))
    kept = [layer for layer in layers if only is None or re.search(only, layer.name)]
    if not kept:
        raise ValueError(
            f"only={only!r} matches none of the {len(layers)} MoE layers: {layers[0].name} ... {layers[-1].name}"
        )
    for part in dict.fromkeys(layer.part for layer in kept):
        refuse_unequal({layer.name: layer.num_experts for layer in kept if layer.part == part}, "experts")
    return kept


def refuse_unequal(numbers: dict[str, int], what: str) -> None:
    """Layers that differ do not share one array: name a layer of each kind and how to choose."""
    first_of: dict[int, str] = {}
    for name, number in numbers.items():
        first_of.setdefault(number, name)
    if len(first_of) > 1:
        words = ", ".join(f"{name} has {number}" for number, name in first_of.items())
        raise ValueError(f"layers differ in their number of {what}: {words}; record one kind at a time with only='...'")


def _part(path: str) -> str:
    return "encoder" if re.search(r"(^|\.)encoder\.", path) else "decoder"


def _num_experts(path: str, module: nn.Module, block: nn.Module, config: Any) -> int:
    for owner in (module, block):
        for name in _COUNTS:
            if isinstance(number := getattr(owner, name, None), int):
                return number
        experts = getattr(owner, "experts", None)
        if isinstance(experts, nn.ModuleList):
            return len(experts)
    for name in _COUNTS:
        if isinstance(number := getattr(config, name, None), int):
            return number
    raise ValueError(f"{path} does not say how many experts it has; give Matcher(num_experts=...)")


def _shared_experts(around: tuple[nn.Module, ...], config: Any) -> int:
    """As many as the config counts, or how many routed experts wide they are (Qwen1.5's one is four).

    `around`: the block and the layer that holds it, where Granite keeps its shared MLP.
    """
    if not any(_SHARED.fullmatch(name) for owner in around for name, _ in owner.named_children()):
        return 0
    counts = [getattr(owner, name, None) for owner in (*around, config) for name in _SHARED_COUNTS]
    wide = getattr(config, "shared_expert_intermediate_size", None)
    narrow = getattr(config, "moe_intermediate_size", None)
    if isinstance(wide, int) and isinstance(narrow, int):
        counts.append(wide // narrow)
    return next((count for count in counts if isinstance(count, int) and count > 0), 1)


def _nothing_found(model: nn.Module) -> str:
    """Paths and classes of modules that look like a router, indexes of layers joined."""
    candidates: dict[str, str] = {}
    for path, module in model.named_modules():
        name, kind = path.rpartition(".")[2], type(module).__name__
        if path and (_ROUTER_NAME.fullmatch(name) or _ROUTER_CLASS.fullmatch(kind)):
            candidates.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", path), kind)
    words = ", ".join(f"{path} ({kind})" for path, kind in list(candidates.items())[:8])
    seen = f"modules that may route: {words}" if words else "no module is called gate, router, expert or MoE"
    return (
        f"{type(model).__name__} has no MoE layer of a known family; {seen}. Name the one that shows its choice: "
        "RoutingRecorder(model, matchers=[Matcher('mine', module='ClassName', where='output', read=...)]), "
        "see mindvl.routing.choices"
    )
