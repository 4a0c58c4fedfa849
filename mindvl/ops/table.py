"""The operator table: for each operator its plain reference, its fast entries, and which of them runs here.

    operator            entries, best first
    packed_attention    varlen (CUDA) > fusion_tnd (NPU) > segments (CPU) > per_segment > reference
    cross_entropy       liger (CUDA, NPU) > chunked > reference

An operator asks `choose` with one of its tensors; the answer for a device and a dtype is worked out once, the first
entry that has no reason against it, and kept. All entries of an operator take the same arguments and agree with its
reference, forward and backward, to the tolerances that `tests/ops` states.

A choice can be forced, for the whole process, and is then never replaced in silence:

    MINDVL_OPS=packed_attention=per_segment,rms_norm=reference mindvl fit -c ...
    MINDVL_OPS=reference mindvl fit -c ...            # everything in plain fp32
    with using({"packed_attention": "reference"}): ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

ENVIRONMENT = "MINDVL_OPS"
REFERENCE = "reference"


@dataclass(frozen=True)
class Entry:
    """One way to compute an operator; both strings are `module:function` below `mindvl.ops`, imported when needed."""

    name: str
    function: str
    why_not: str | None = None
    """Of `(device type, dtype)`: the reason why the entry cannot be used, or None. Without it, it always can."""


def _reference(function: str) -> Entry:
    return Entry(REFERENCE, function)


TABLE: dict[str, tuple[Entry, ...]] = {
    "packed_attention": (
        Entry("varlen", "backends.cuda:varlen_attention", "backends.cuda:why_not_varlen"),
        Entry("fusion_tnd", "backends.npu:fusion_attention", "backends.npu:why_not"),
        Entry("segments", "attention:segments_attention", "attention:why_not_segments"),
        Entry("per_segment", "attention:per_segment_attention"),
        _reference("attention:packed_attention_reference"),
    ),
    "patch_embed": (
        Entry("matmul", "patch_embed:matmul_patch_embed"),
        _reference("patch_embed:patch_embed_reference"),
    ),
    "rms_norm": (
        Entry("npu_rms_norm", "backends.npu:rms_norm", "backends.npu:why_not"),
        Entry("liger", "backends.liger:rms_norm", "backends.liger:why_not"),
        Entry("by_hand", "rms_norm:rms_norm_by_hand"),
        _reference("rms_norm:rms_norm_reference"),
    ),
    "rotary": (
        Entry("npu_rotary_mul", "backends.npu:rotary", "backends.npu:why_not"),
        Entry("halves", "rotary:rotary_by_halves"),
        _reference("rotary:rotary_reference"),
    ),
    "swiglu": (
        Entry("npu_swiglu", "backends.npu:swiglu", "backends.npu:why_not"),
        Entry("liger", "backends.liger:swiglu", "backends.liger:why_not"),
        Entry("recomputing", "swiglu:recomputing_swiglu"),
        _reference("swiglu:swiglu_reference"),
    ),
    "linear": (
        Entry("onednn", "linear:onednn_linear", "linear:why_not_onednn"),
        Entry("torch", "linear:torch_linear"),
        _reference("linear:linear_reference"),
    ),
    "grouped_experts": (
        Entry("npu_grouped_matmul", "backends.npu:grouped_matmul", "backends.npu:why_not"),
        Entry("per_expert", "experts:per_expert_matmul", "experts:why_not_per_expert"),
        Entry("grouped_mm", "experts:torch_grouped_matmul", "backends.cuda:why_not_grouped_mm"),
        _reference("experts:grouped_matmul_reference"),
    ),
    "cross_entropy": (
        Entry("liger", "backends.liger:cross_entropy", "backends.liger:why_not"),
        Entry("chunked", "loss:chunked_cross_entropy"),
        _reference("loss:cross_entropy_reference"),
    ),
}
"""Operator -> entries in order of preference; the last one is the reference."""


def choose(operator: str, tensor: Tensor) -> Callable[..., Tensor]:
    """The entry of an operator for tensors like this one. Raises ValueError when a forced one cannot be used."""
    return _chosen(operator, tensor.device.type, tensor.dtype)


@lru_cache(maxsize=512)
def _chosen(operator: str, device: str, dtype: torch.dtype) -> Callable[..., Tensor]:
    return _load(entry_for(operator, device, dtype).function)


def entry_for(operator: str, device: str, dtype: torch.dtype) -> Entry:
    """What `choose` picks for a device type and a dtype."""
    forced = _forced().get(operator)
    if forced is None:
        return next(entry for entry, reason in reasons(operator, device, dtype) if reason is None)
    entry = next(entry for entry in TABLE[operator] if entry.name == forced)
    reason = _reason(entry, device, dtype)
    if reason is not None:
        usable = ", ".join(entry.name for entry, why in reasons(operator, device, dtype) if why is None)
        raise ValueError(f"operator {operator}: {forced} was asked for, but {reason}; here there are {usable}")
    return entry


def reasons(operator: str, device: str, dtype: torch.dtype) -> list[tuple[Entry, str | None]]:
    """Every entry of an operator, best first, with the reason why it cannot be used on such tensors."""
    return [(entry, _reason(entry, device, dtype)) for entry in TABLE[operator]]


def _reason(entry: Entry, device: str, dtype: torch.dtype) -> str | None:
    return None if entry.why_not is None else _load(entry.why_not)(device, dtype)


def _load(where: str) -> Callable:
    module, _, name = where.partition(":")
    return getattr(import_module(f"mindvl.ops.{module}"), name)


# Forced choices.


def is_forced(operator: str) -> bool:
    """Whether an entry of this operator was asked for by name."""
    return operator in _forced()


_choices: dict[str, str] | None = None
"""Operator -> entry that must be used; None until the environment has been read."""


def _forced() -> dict[str, str]:
    global _choices
    if _choices is None:
        _choices = parse_choices(os.environ.get(ENVIRONMENT, ""))
    return _choices


def parse_choices(text: str) -> dict[str, str]:
    """`packed_attention=segments,swiglu=reference`, or `reference` for every operator, or `auto` for none.

    Raises ValueError for an operator or an entry that is not in the table.
    """
    choices: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        operator, separator, name = (word.strip() for word in part.partition("="))
        if separator:
            choices[operator] = name
        elif operator == REFERENCE:
            choices |= dict.fromkeys(TABLE, REFERENCE)
        elif operator != "auto":
            raise ValueError(f"{part!r} is neither operator=entry nor reference nor auto; see `mindvl ops`")
    _check(choices)
    return choices


def _check(choices: Mapping[str, str]) -> None:
    for operator, name in choices.items():
        if operator not in TABLE:
            raise ValueError(f"there is no operator {operator!r}; the table has {', '.join(TABLE)}")
        names = [entry.name for entry in TABLE[operator]]
        if name not in names:
            raise ValueError(f"operator {operator} has no entry {name!r}; it has {', '.join(names)}")


def force(choices: Mapping[str, str]) -> None:
    """From now on use these entries, in the whole process, in place of all earlier forced choices."""
    global _choices
    _check(choices)
    _choices = dict(choices)
    _chosen.cache_clear()


@contextmanager
def using(choices: Mapping[str, str]) -> Iterator[None]:
    """Force these entries inside a block, on top of those that are forced already.

    The choice is the process's, not the thread's: backward passes that recompute run on threads of their own.
    """
    before = dict(_forced())
    force({**before, **choices})
    try:
        yield
    finally:
        force(before)
