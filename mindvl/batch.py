"""The words that every room of the house shares: what a packed batch is, and what its axes are called.

Axis legend, used in every type annotation of the project:

    tokens      positions of one pack, text and visual tokens together
    docs        documents (conversations) in the pack; a document attends only to itself
    supervised  positions whose next token is a target of the loss
    images      pictures and videos in the pack
    patches     14x14-pixel squares of all pictures, in the order of 2x2 merge blocks; of a video, of two frames each
    merged      visual tokens: `patches / merge**2`
    windows     windows of the vision tower's local attention
    pixels      values of one patch: channels x patch x patch, or x 2 frames in a pack that holds a video
    heads, head_dim, dim

A toy pack: two documents, "<img><img>a?b" and "c?d", the first with a picture of 2x4 patches (two visual tokens):

    input_ids         [ v  v  a  ?  b | c  ?  d ]
    position_ids      [ 0  1  2  3  4 | 0  1  2 ]
    doc_lengths       (5, 3)          cu_seqlens [0, 5, 8]
    image_index       [ 0  1 ]        where the two visual tokens go
    supervised_index  [ 3, 6 ]        positions that must predict ...
    targets           [ b, d ]        ... these tokens
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
"""Tokens around a picture or a video, by their names in Qwen's vocabulary ..."""
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
"""... and the placeholders of which the language model sees one per visual token."""


@dataclass(frozen=True)
class ImageGrid:
    """A picture is a grid of patches, `height` x `width`; a video of n frames is (n + 1) // 2 such grids, `frames`."""

    frames: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        return self.frames * self.height * self.width

    def merged(self, merge: int = 2) -> int:
        """Visual tokens that the language model sees after `merge` x `merge` patches became one."""
        return self.patches // merge**2


@dataclass
class VisionInputs:
    """Pictures and videos of a pack with all metadata that the tower needs, made in the data workers.

    Lengths are Python ints: the forward pass never asks the device how long a segment is.
    """

    patches: UInt8[Tensor, "patches pixels"] | Float[Tensor, "patches pixels"]
    grid_thw: Int[Tensor, "images 3"]
    position_ids: Int[Tensor, "patches 2"]
    """Row and column of each patch inside its picture, for the 2-D rotary embedding."""
    window_index: Int[Tensor, " padded_merged"]
    """Order in which visual tokens are laid out so that each attention window is contiguous, padding after them."""
    restore_index: Int[Tensor, " merged"]
    """The inverse permutation of `window_index`, without the padding of a pack of fixed shape."""
    image_lengths: tuple[int, ...]
    """Patches of each full-attention segment: one picture, or two frames of a video."""
    window_lengths: tuple[int, ...]
    """Patches of each attention window, in window order."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> VisionInputs:
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> VisionInputs:
        return _map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class SkippedSample:
    """A sample that a data worker could not use; a hole of the same length took its place in the pack."""

    source: str
    shard: str
    key: str
    reason: str
    row: int | None = None
    """Its row in the data module's table of samples."""


@dataclass
class PackedBatch:
    """One pack: documents laid end to end, with explicit bounds. Nobody infers bounds from position ids."""

    input_ids: Int[Tensor, " tokens"]
    position_ids: Int[Tensor, " tokens"]
    """Restart at 0 with each document."""
    cu_seqlens: Int[Tensor, " docs_plus_one"]
    doc_lengths: tuple[int, ...]
    supervised_index: Int[Tensor, " supervised"]
    targets: Int[Tensor, " supervised"]
    image_index: Int[Tensor, " merged"]
    vision: VisionInputs | None
    """None when the pack holds no picture."""
    num_tokens: int
    """Tokens of real documents; label-free holes and, in a pack of fixed shape, padding come after them."""
    num_supervised: int
    """Real targets; a pack of fixed shape pads `targets` with -100, which the loss leaves out."""
    num_patches: int
    """Patches of real pictures."""
    token_budget: int
    """Tokens that the pack could have held; `num_tokens / token_budget` is its fill."""
    keys: tuple[str, ...] = ()
    """Sample keys, in document order, for messages and the consumed-data record."""
    sources: tuple[str, ...] = ()
    skipped: tuple[SkippedSample, ...] = ()
    """Samples that the worker had to leave out of this pack."""
    hole_tokens: int = 0
    """Tokens of the holes that they left: label-free, after the documents and before any padding."""
    patch_budget: int | None = None
    """Patches that the pack could have held."""

    @property
    def num_images(self) -> int:
        return 0 if self.vision is None else self.vision.grid_thw.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedBatch:
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        return _map_tensors(self, lambda tensor: tensor.pin_memory())


def _map_tensors(batch, function):
    """A copy of the dataclass with `function` applied to its tensors, one level of nesting deep."""
    changes = {}
    for item in dataclasses.fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = function(value)
        elif isinstance(value, VisionInputs):
            changes[item.name] = _map_tensors(value, function)
    return dataclasses.replace(batch, **changes)
