"""Opens whatever holds recorded routing: a trace of ours, saved vLLM output, or Megatron-Core's JSONL.

    traces/olmoe/                    a folder with meta.json             ours
    traces/megatron/                 router_trace_rank0.jsonl, ...       Megatron-Core
    routing.npz, .npy, .json         arrays or responses                 vLLM
    routing.jsonl                    "top_indices" in its first line     Megatron-Core, otherwise vLLM

Ours says how many experts there are; the others do not and have to be told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mindvl.routing.sample import Routings
from mindvl.routing.trace import Trace
from mindvl.routing.trace_readers import read_megatron, read_vllm


def open_routing(
    path: str | Path,
    *,
    num_experts: int | None = None,
    moe_layers: Sequence[int] | None = None,
    micro_batch_size: int = 1,
    partial: bool = False,
) -> Routings:
    """Recorded routing at a path.

    Args:
        num_experts: routed experts of a layer; needed for foreign traces only.
        moe_layers: of vLLM's arrays, which entries of the layer axis are MoE layers; all when left out.
        micro_batch_size: of Megatron-Core's traces.
        partial: read a trace of ours that was cut up to its last whole sample.

    Raises:
        ValueError: for a path that holds no trace, a cut one, or a foreign one without `num_experts`.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no trace at {path}")
    if path.is_dir() and (path / "meta.json").is_file():
        return Trace(path, partial=partial)
    parts = [name for name in ("encoder", "decoder") if (path / name / "meta.json").is_file()]
    if parts:
        raise ValueError(f"{path} holds two traces, {' and '.join(parts)}: name one, such as {path / parts[0]}")
    if path.is_dir() and not list(path.glob("router_trace_rank*.jsonl")):
        raise ValueError(f"{path} holds no routing trace: neither meta.json nor router_trace_rank<N>.jsonl")
    if path.is_file() and path.suffix not in (".npz", ".npy", ".json", ".jsonl"):
        raise ValueError(f"{path} is no routing trace: a folder, or a file of .npz, .npy, .json or .jsonl")
    if num_experts is None:
        raise ValueError(f"{path} is a foreign trace, which does not say how many experts a layer has: --num-experts N")
    if path.is_dir() or _is_megatron(path):
        return read_megatron(path, num_experts=num_experts, micro_batch_size=micro_batch_size, model=path.stem)
    return read_vllm(path, num_experts=num_experts, moe_layers=moe_layers)


def _is_megatron(path: Path) -> bool:
    """Whether the first line is a record of Megatron-Core's."""
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        line = next((line for line in file if line.strip()), b"{}")
    try:
        record = json.loads(line)
    except ValueError:
        return b'"top_indices"' in line  # cut: the reader says where
    return isinstance(record, dict) and "top_indices" in record
