"""Activations of a training step, and what ranks exchange within layers, by running a miniature without memory.

The miniature's own code runs forward and backward on fake tensors of a full pack, cut by context, tensor and expert
parallelism and recomputing as the plan says. Each of its layers leaves a stretch of the record
(`mindvl.parallel.memory_trace`). Laid end to end in the order of the whole model's layers, they give the course of
memory over the whole model's step; its highest point is what a rank needs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from mindvl.parallel.memory_trace import REST, MemoryTrace, Stretch
from mindvl.phases.miniature import Miniature

if TYPE_CHECKING:
    from mindvl.batch import PackedBatch
    from mindvl.model.mindvl import MindVL
    from mindvl.parallel.strategy import MindVLStrategy

TOWER, PROJECTOR, WORDS, LAYERS, EXPERTS = "tower", "projector", "embeddings, head", "dense layers", "experts"
OWNERS = (TOWER, PROJECTOR, WORDS, LAYERS, EXPERTS)


def owner_of(parameter_name: str) -> str:
    """The row of a plan's table that a parameter of `MindVL` counts in. Shared experts count as dense."""
    from mindvl.model.parts import part_of

    part = part_of(parameter_name)
    if part != "language":
        return TOWER if part == "vision" else PROJECTOR
    if ".layers." not in parameter_name:
        return WORDS
    return EXPERTS if ".experts." in parameter_name else LAYERS


@dataclass
class Course:
    """A step of the whole model on one rank."""

    most: Counter[str] = field(default_factory=Counter)
    """Bytes at the fullest moment, by owner."""
    exchanged: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """Bytes sent within layers for one pack, by collective, ranks and their span."""
    backward: frozenset[str] = frozenset()
    """Chains ("tower", "language") that have a backward pass: those that train, or lie behind what does."""


def course(small: Miniature, pack: PackedBatch, strategy: MindVLStrategy, *, on_accelerator: bool) -> Course:
    """Run a miniature that nobody has cut yet, in the world that the strategy has joined.

    `on_accelerator`: attention is one call per pack that keeps its arguments and result, and the loss takes large
    blocks; a CPU reorders segments first, and takes blocks that fit its cache.
    """
    return lay_out(trace(small.model, pack, strategy, on_accelerator=on_accelerator), small.tower, small.language)


def trace(model: MindVL, pack: PackedBatch, strategy: MindVLStrategy, *, on_accelerator: bool) -> list[Stretch]:
    """The stretches of one step of a model that is on meta; afterwards it is of fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from mindvl.model.sharing import own_share
    from mindvl.ops import experts as experts_of
    from mindvl.ops import loss
    from mindvl.ops.table import using
    from mindvl.parallel.plans import apply_plans
    from mindvl.parallel.pretend import even_exchanges
    from mindvl.parallel.recompute import recompute

    language, sizes = model.language_model, strategy.meshes.sizes
    dtype = strategy.precision_plugin.compute_dtype
    if dtype is not None:
        model.to(dtype)
    experts = apply_plans(language, strategy.meshes) or [
        module for name, module in model.named_modules() if name.endswith(".experts")
    ]
    recompute([*model.vision.blocks, *language.base_model.layers], strategy.recompute)
    pack = _one_segment(pack) if on_accelerator else pack
    if sizes.context > 1:
        # A share of it, as the model itself would take one; which part that is, fake tensors could not tell.
        pack = own_share(pack, strategy.meshes.context.get_group(), merge=model.merge)
    pairs = len(pack.input_ids) * (getattr(language.config, "num_experts_per_tok", None) or 1)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    attention = {"packed_attention": "per_segment"} if on_accelerator else {}
    blocks = mock.patch.object(loss, "_CACHED_BYTES", loss.CHUNK_BYTES if on_accelerator else loss._CACHED_BYTES)
    products = mock.patch.object(
        experts_of, "torch_grouped_matmul", _evenly if dtype is None else experts_of.torch_grouped_matmul
    )
    with fake, blocks, products, even_exchanges(pairs // sizes.tensor), using(attention):
        model.to_empty(device="cpu")
        model.tie_weights()
        inputs = _fake(pack, fake)
        with MemoryTrace(model, _tensors(inputs)) as record:
            for number, block in enumerate(model.vision.blocks):
                record.around(block, f"tower {number}", owner=TOWER)
            for number, layer in enumerate(language.base_model.layers):
                record.around(layer, f"language {number}", owner=LAYERS)
            record.inside(model.vision.merger, owner=PROJECTOR)
            for module in experts:
                record.inside(module, owner=EXPERTS)
            model.train()(packed=inputs).loss.backward(
                torch.tensor(1.0)
            )  # of a constant, whose value fake tensors know
    return record.stretches()


def _evenly(rows: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Products per expert of as many rows each; PyTorch's grouped ones know no sizes in fp32 without memory."""
    from mindvl.ops.experts import _PerExpert

    ends = tuple(len(rows) * (number + 1) // len(weights) for number in range(len(weights)))
    return _PerExpert.apply(rows, weights, ends)


def _one_segment(pack: PackedBatch) -> PackedBatch:
    """The same sizes with one segment: what flash attention keeps does not depend on bounds."""
    vision = pack.vision
    if vision is not None:
        whole = (sum(vision.image_lengths),)
        vision = dataclasses.replace(vision, image_lengths=whole, window_lengths=whole)
    return dataclasses.replace(pack, doc_lengths=(sum(pack.doc_lengths),), vision=vision)


def _fake(batch: Any, fake: Any) -> Any:
    """The batch with fake tensors of the same sizes."""
    changes = {}
    for item in dataclasses.fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = fake.from_tensor(value)
        elif dataclasses.is_dataclass(value):
            changes[item.name] = _fake(value, fake)
    return dataclasses.replace(batch, **changes)


def _tensors(batch: Any) -> Iterator[Tensor]:
    for item in dataclasses.fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from _tensors(value)


def lay_out(stretches: Sequence[Stretch], tower: Sequence[int], language: Sequence[int]) -> Course:
    """The course of the whole model from the stretches of its miniature; kinds of layers as in `Miniature`."""
    kinds = {"tower": tower, "language": language}
    found, live = Course(), Counter[str]()
    backward = set()
    for stretch in _whole(stretches, kinds):
        here = live + Counter()
        here.update(stretch.most)
        if here.total() > found.most.total():
            found.most = Counter({owner: max(0, size) for owner, size in here.items()})
        live.update(stretch.grown)
        found.exchanged.update(stretch.exchanged)
        if stretch.during == "backward" and stretch.name != REST:
            backward.add(stretch.name.split()[0])
    found.backward = frozenset(backward)
    return found


def _whole(stretches: Sequence[Stretch], kinds: dict[str, Sequence[int]]) -> Iterator[Stretch]:
    """Stretches in the order of the whole model: where a chain begins, all of it, one stretch per layer."""
    by_layer = {(each.name, each.during): each for each in stretches if each.name != REST}
    begun = set()
    for stretch in stretches:
        chain = stretch.name.split()[0]
        if stretch.name == REST:
            yield stretch
        elif (chain, stretch.during) not in begun:
            begun.add((chain, stretch.during))
            order = kinds[chain] if stretch.during == "forward" else reversed(kinds[chain])
            for kind in order:
                found = by_layer.get((f"{chain} {kind}", stretch.during))
                if found is not None:
                    yield found
