"""What a run would take of each rank: memory by part of the model, bytes sent, arithmetic, and the time that bounds it.

The model is built on meta and cut by the strategy's own code in a pretended world: one layer of each kind
(`mindvl.phases.miniature`), counted as often as the model has it. Activations come from the same miniature's forward
and backward pass on fake tensors (`mindvl.phases.activations`).

    tower, projector ...    parameters + gradients + optimizer    for the whole run
                            activations, gathered                 at the fullest moment of a step

The bound is the longest of three times, as if each hid the others and nobody ever waited: arithmetic at the device's
peak, bytes over the network, and bytes over the links of a node (`mindvl.parallel.bound`). Rows go to experts evenly.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from mindvl.parallel.bound import Exchange, crossings
from mindvl.parallel.gathering import Gathered, Slices, slices_of
from mindvl.phases.activations import LAYERS, OWNERS, PROJECTOR, TOWER, WORDS, Course, course, owner_of
from mindvl.phases.miniature import Miniature, miniature

if TYPE_CHECKING:
    from mindvl.batch import PackedBatch
    from mindvl.model.mindvl import MindVL
    from mindvl.parallel.device_types import DeviceType
    from mindvl.parallel.strategy import MindVLStrategy


@dataclass
class Footprint:
    """One rank's share of a run. Counters are bytes by owner (`mindvl.phases.activations.OWNERS`)."""

    parameters: Counter[str] = field(default_factory=Counter)
    gradients: Counter[str] = field(default_factory=Counter)
    optimizer: Counter[str] = field(default_factory=Counter)
    activations: Counter[str] = field(default_factory=Counter)
    gathered: Counter[str] = field(default_factory=Counter)
    """Whole parameters and gradients of the layers at work and of the root, beside the slices."""
    sent: Counter[Exchange] = field(default_factory=Counter)
    """Bytes per optimizer step."""
    model_flops: float = 0.0
    """Of an optimizer step over all ranks, without what is computed twice."""
    rank_flops: float = 0.0
    """Of an optimizer step on one rank, with it."""
    tokens: int = 0
    """Of an optimizer step over all ranks."""
    num_parameters: int = 0
    """Of the whole model."""

    @property
    def columns(self) -> dict[str, Counter[str]]:
        names = ("parameters", "gradients", "optimizer", "activations", "gathered")
        return {name: getattr(self, name) for name in names}

    @property
    def total_bytes(self) -> int:
        return sum(column.total() for column in self.columns.values())

    def times_s(self, device: DeviceType) -> dict[str, float]:
        """What an optimizer step takes of each resource at least."""
        moved = crossings(self.sent, device)
        return {
            "arithmetic": self.rank_flops / device.flops,
            "network": moved.network_s(device),
            "links": moved.links_s(device),
        }

    def bound_s(self, device: DeviceType) -> float:
        """No step is faster on such devices."""
        return max(self.times_s(device).values())


def footprint(
    model: MindVL, pack: PackedBatch, strategy: MindVLStrategy, *, packs_per_rank: int, on_accelerator: bool
) -> Footprint:
    """Of a model on meta whose trained parts are set, with AdamW, under a strategy that has joined its world.

    `packs_per_rank` are accumulated before each optimizer step. Uses the model up.
    """
    from mindvl.model.flops import forward_flops, training_flops

    sizes = strategy.meshes.sizes
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    step_flops, forward = training_flops(model, pack), forward_flops(model, pack)
    head_flops = 2 * pack.num_supervised * model.get_output_embeddings().weight.numel()
    small = miniature(model)
    run = course(
        Miniature(copy.deepcopy(small.model), small.tower, small.language),
        pack,
        strategy,
        on_accelerator=on_accelerator,
    )
    found = sharded(small, strategy, run, packs_per_rank=packs_per_rank)
    found.num_parameters = num_parameters
    packs = sizes.data * packs_per_rank
    found.tokens, found.model_flops = packs * pack.token_budget, packs * step_flops
    again = 0.0
    if strategy.recompute == "full":
        again += sum(forward["vision"].values()) if "tower" in run.backward else 0.0
        again += sum(forward["language"].values()) - head_flops if "language" in run.backward else 0.0
    found.rank_flops = packs_per_rank * (step_flops + again) / sizes.pack
    return found


def sharded(small: Miniature, strategy: MindVLStrategy, run: Course, *, packs_per_rank: int) -> Footprint:
    """Cut a miniature, and count what a rank holds and sends; activations and exchanges within layers are `run`'s."""
    from mindvl.model.moe import routers_of
    from mindvl.phases.placing import place

    model = small.model
    place(model, strategy)
    language = model.language_model
    owners = {id(parameter): owner_of(name) for name, parameter in model.named_parameters()}
    exact = list(routers_of(language).values())

    def groups_of(module: nn.Module) -> list[Slices]:
        return slices_of(
            module,
            owner=lambda parameter: owners[id(parameter)],
            compute_dtype=strategy.precision_plugin.compute_dtype,
            exact=exact,
        )

    blocks = [_unit(block, groups_of) for block in model.vision.blocks]
    layers = [_unit(layer, groups_of) for layer in language.base_model.layers]
    chains = {"tower": [blocks[kind] for kind in small.tower], "language": [layers[kind] for kind in small.language]}
    alone = [_unit(model.vision.merger, groups_of)]
    root = groups_of(model)
    found = Footprint(activations=_named(run.most))
    times = _times(small)
    for parameter in model.parameters():
        number, owner = times.get(id(parameter), 1), owners[id(parameter)]
        local = parameter.to_local()
        size = number * local.numel() * local.element_size()
        found.parameters[owner] += size
        if parameter.requires_grad:
            found.gradients[owner] += size
            found.optimizer[owner] += 2 * size
    found.gathered = _fullest(chains, root, run, prefetch=strategy.prefetch)
    sent = Counter(run.exchanged)
    for name, chain in {**chains, "alone": alone}.items():
        for group in (group for unit in chain for group in unit):
            sent.update(group.sent(again=name == "alone" or name in run.backward))
    for group in root:
        sent.update(group.sent(again=False))
    found.sent = Counter({key: size * packs_per_rank for key, size in sent.items() if size})
    return found


def _unit(module: nn.Module, groups_of) -> list[Slices]:
    """All groups that are gathered for a layer: its own, and those of modules inside it."""
    from torch.distributed.fsdp import FSDPModule

    return [group for child in module.modules() if isinstance(child, FSDPModule) for group in groups_of(child)]


def _times(small: Miniature) -> dict[int, int]:
    """How many of the whole model's parameters one of the miniature's stands for; 1 where it is not in here."""
    found: dict[int, int] = {}
    layers = (small.model.vision.blocks, small.tower), (small.model.language_model.base_model.layers, small.language)
    for chain, kinds in layers:
        for kind, module in enumerate(chain):
            found |= {id(parameter): kinds.count(kind) for parameter in module.parameters()}
    return found


def _fullest(
    chains: dict[str, list[list[Slices]]], root: Sequence[Slices], run: Course, *, prefetch: bool
) -> Counter[str]:
    """Bytes beside the slices while the most demanding layer computes; the root's are there all the time.

    In backward a layer's whole gradient is beside it, and the reduction of the layer after is under way.
    """
    most: Counter[str] = Counter()
    for name, chain in chains.items():
        for here, before in _neighbours(chain):
            unit = here.whole + (before.whole if prefetch else Counter())
            if name in run.backward:
                unit = unit + here.gradient + here.reduction
            most = max(most, unit, key=Counter.total)
    whole = _sum(root)
    return most + whole.whole + whole.gradient


def _neighbours(chain: list[list[Slices]]) -> Iterator[tuple[Gathered, Gathered]]:
    """Each layer with the one before it."""
    units = [_sum(groups) for groups in chain]
    yield from zip(units, [Gathered(), *units], strict=False)


def _sum(groups: Sequence[Slices]) -> Gathered:
    total = Gathered()
    for group in groups:
        total = total + group.gathered
    return total


def _named(most: Counter[str]) -> Counter[str]:
    """What no module owns (embedded words, hidden states on their way to the loss) counts for embeddings and head."""
    return Counter({owner: most[owner] + (most["rest"] if owner == WORDS else 0) for owner in OWNERS})


def advice(found: Footprint, strategy: MindVLStrategy) -> tuple[str, str, str]:
    """The largest entry of the table, as column and part, and what would make it smaller."""
    column, part = max(
        ((column, part) for column, parts in found.columns.items() for part in parts),
        key=lambda place: found.columns[place[0]][place[1]],
    )
    return column, part, "; ".join(_remedies(column, part, strategy))


def _remedies(column: str, part: str, strategy: MindVLStrategy) -> list[str]:
    sizes = strategy.meshes.sizes
    if column == "activations":
        help_ = [] if strategy.recompute == "full" else ["trainer.strategy.init_args.recompute=full"]
        help_ += ["a shorter data.init_args.sequence_length"]
        return help_ + (["a smaller data.init_args.patch_budget"] if part in (TOWER, PROJECTOR) else [])
    help_ = [] if sizes.replicate == 1 else ["trainer.strategy.init_args.replicate=1, which shards over all ranks"]
    if column == "gathered":
        within = "expert" if part not in (TOWER, PROJECTOR, WORDS, LAYERS) else "tensor"
        return [*help_, f"a larger trainer.strategy.init_args.{within}", "trainer.precision=bf16-mixed"]
    return [*help_, "more devices to shard over", "trainer.precision=bf16-true, at a loss of precision"]
