"""Routing that other programs wrote: vLLM's returned experts and Megatron-Core's routing traces, as recordings.

vLLM (`--enable-return-routed-experts`; read in November 2026 from `vllm/outputs.py` at commit 003d3ee2 and the
response models of its OpenAI server). `CompletionOutput.routed_experts` is an array (tokens, layers, k), and
`RequestOutput.prompt_routed_experts`, where a version has it, holds the prompt's part. The server returns both under
these names, `routed_experts` in each choice, as base64 of a .npy file or, in older versions, as nested lists. The
last generated token was never read by the model and has no row. Ids are int16 or int32, in newer versions uint8 or
uint16. Versions whose second axis counts all hidden layers leave dense ones at zero.

Megatron-Core (`--moe-routing-trace-path`; read in November 2026 from
`megatron/core/transformer/moe/router_trace.py` at commit 4addead2). One `router_trace_rank<N>.jsonl` per rank, one
record per layer and step: "step", "layer", "rank", "num_tokens", "topk", "top_indices", and in newer versions "stage",
"block" ("decoder" or "mtp") and "mtp_idx". Records do not say which request a token belongs to. In training a
micro-batch is flattened with its samples interleaved (position first), and routers that return a map of booleans lose
the order of the experts: ids then rise.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mindvl.routing.sample import Recording, RoutingSample, TokenKind, TraceMeta, checked, id_dtype


def vllm_recording(
    arrays: Iterable[np.ndarray],
    *,
    num_experts: int,
    moe_layers: Sequence[int] | None = None,
    prompt_tokens: Sequence[int | None] | None = None,
    keys: Sequence[str] | None = None,
    model: str = "vllm",
) -> Recording:
    """A recording of vLLM's arrays (tokens, layers, k), one per request.

    Args:
        num_experts: of the model; vLLM does not say.
        moe_layers: which entries of the second axis are MoE layers; all when left out.
        prompt_tokens: leading tokens of each request that were read, not written; None where that is not known.
        keys: names of the requests.
        model: name for the recording.

    Raises ValueError, with the request, for arrays of other shapes or sizes, ids that the model does not have, an
    expert listed twice for one token (a row that was never captured), and layers that hold only zeros (dense ones).
    """
    samples, shape, names = [], None, [] if keys is None else list(keys)
    for number, array in enumerate(arrays):
        key = names[number] if number < len(names) else f"request {number}"
        ids = np.asarray(array)
        if ids.ndim != 3 or ids.dtype.kind not in "iu":
            raise ValueError(f"{key}: routed experts are integers (tokens, layers, k), got {ids.dtype} {ids.shape}")
        if moe_layers is not None:
            if max(moe_layers) >= ids.shape[1]:
                raise ValueError(f"{key}: layer {max(moe_layers)} was asked for, the array has {ids.shape[1]} layers")
            ids = ids[:, list(moe_layers)]
        shape = shape or ids.shape[1:]
        if ids.shape[1:] != shape:
            raise ValueError(f"{key} has {ids.shape[1]} layers and k = {ids.shape[2]}, requests before it had {shape}")
        _refuse_uncaptured(key, ids)
        known = None if prompt_tokens is None else prompt_tokens[number]
        kinds = np.full(len(ids), TokenKind.TEXT, np.uint8)
        if known is not None:
            kinds[known:] = TokenKind.GENERATED
        samples.append(RoutingSample(ids, kinds, key))
    if shape is None:
        raise ValueError("no request with routed experts: was the server started with --enable-return-routed-experts?")
    numbers = range(shape[0]) if moe_layers is None else moe_layers
    layers = tuple(f"layers.{number}" for number in numbers)
    meta = TraceMeta(model, num_experts, layers, shape[1])
    return Recording(meta, list(checked(samples, meta)))


def read_vllm(
    path: str | Path, *, num_experts: int, moe_layers: Sequence[int] | None = None, model: str | None = None
) -> Recording:
    """Read saved vLLM output: .npy (one request), .npz (one per entry), .json or .jsonl (responses of the server).

    Responses need `choices[i].routed_experts`; `prompt_routed_experts` is put before it, and prompt tokens are told
    from generated ones by its length or by `usage.prompt_tokens`. Arguments and errors as in `vllm_recording`.
    """
    path = Path(path)
    keys: list[str]
    prompts: list[int | None]
    if path.suffix == ".npy":
        arrays, keys, prompts = [np.load(path, allow_pickle=False)], [path.stem], [None]
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            keys = list(stored.files)
            arrays, prompts = [stored[key] for key in keys], [None] * len(keys)
    elif path.suffix in (".json", ".jsonl"):
        requests = [each for number, response in _responses(path) for each in _choices(path, number, response)]
        keys, arrays, prompts = ([each[column] for each in requests] for column in range(3))  # type: ignore[assignment]
    else:
        raise ValueError(f"{path}: vLLM output is read from .npy, .npz, .json or .jsonl")
    try:
        return vllm_recording(
            arrays,
            num_experts=num_experts,
            moe_layers=moe_layers,
            prompt_tokens=prompts,
            keys=keys,
            model=model or path.stem,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_uncaptured(key: str, ids: np.ndarray) -> None:
    if len(ids) == 0 or ids.shape[2] < 2:
        return
    dense = np.flatnonzero((ids == 0).all((0, 2)))
    if len(dense):
        raise ValueError(
            f"{key}: layers {dense.tolist()} hold only zeros: they are dense or were not captured; "
            "name the MoE layers with moe_layers"
        )
    ordered = np.sort(ids, axis=-1)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(-1)
    if twice.any():
        token, layer = np.argwhere(twice)[0]
        raise ValueError(f"{key}: token {token} lists an expert twice in layer {layer}: {ids[token, layer].tolist()}")


def _responses(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, response) of a file that holds one response, a list of them, or one per line."""
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
        return
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no whole JSON: {error}") from error
    yield from enumerate(loaded if isinstance(loaded, list) else [loaded], 1)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                cut = "" if line.endswith(b"\n") else ", the file ends inside it"
                raise ValueError(f"{path}: line {number} is no whole JSON record{cut}: {error}") from error


def _choices(path: Path, number: int, response: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, int | None]]:
    """(key, ids, prompt tokens) of each choice of a response."""
    prompt = response.get("prompt_routed_experts")
    for choice in response.get("choices", []):
        key = f"{response.get('id', number)}/{choice.get('index', 0)}"
        if choice.get("routed_experts") is None:
            raise ValueError(f"{path}: {key} has no routed_experts")
        ids = _array(f"{path}: {key}", choice["routed_experts"])
        known = response.get("usage", {}).get("prompt_tokens")
        if prompt is not None:
            before = _array(f"{path}: {key}", prompt)
            known, ids = len(before), np.concatenate([before, ids])
        elif known is not None and known > len(ids):
            known = None  # the prompt is not in the array, or in part
        yield key, ids, known


def _array(key: str, value: str | list) -> np.ndarray:
    """Base64 of a .npy file, or nested lists."""
    if isinstance(value, list):
        try:
            return np.array(value, dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"{key}: tokens differ in their layers or experts: {error}") from error
    try:
        return np.load(io.BytesIO(base64.b64decode(value, validate=True)), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{key}: routed_experts is no base64 of a .npy file: {error}") from error


def read_megatron(
    path: str | Path,
    *,
    num_experts: int,
    micro_batch_size: int = 1,
    block: Literal["decoder", "mtp"] = "decoder",
    one_sequence: bool = False,
    model: str = "megatron",
) -> Recording:
    """Read a Megatron-Core trace: one file, or a folder with a file per rank.

    A sample is what one micro-batch of a step saw. Key: `rank<r>/step<s>/<micro-batch>.<row>`. Ranks of one pipeline
    hold different layers: read their files one by one. Recomputed layers speak again in backward, and nothing in the
    trace tells: trace without activation recomputation.

    Args:
        num_experts: of the model; the trace does not say.
        micro_batch_size: rows whose tokens are interleaved in a training step.
        block: "mtp" reads the multi-token-prediction heads instead of the decoder.
        one_sequence: steps of a rank continue one sequence (generation of one request at a time): the prompt, then a
            token per step. They are joined to one sample, whose one-token steps count as generated.
        model: name for the recording.

    Raises ValueError, with file and line or step, for a cut line, a record whose numbers disagree with each other, a
    step in which layers are missing, changing k, and ids that the model does not have.
    """
    path = Path(path)
    files = sorted(path.glob("router_trace_rank*.jsonl"), key=_rank_of) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no router_trace_rank<N>.jsonl")
    steps = [step for file in files for step in _megatron_steps(file, block, id_dtype(num_experts))]
    if not steps:
        raise ValueError(f"{path} has no record of the {block}")
    layers = sorted({layer for _, _, _, record in steps for layer in record})
    samples: list[RoutingSample] = []
    open_rank: int | None = None
    for rank, step, micro_batch, record in steps:
        name = f"rank{rank}/step{step}/{micro_batch}"
        missing = sorted(set(layers) - set(record))
        if missing:
            raise ValueError(f"{path}: {name} has no record of layers {missing}, other steps have {layers}")
        shapes = {record[layer].shape for layer in layers}
        if len(shapes) > 1:
            raise ValueError(f"{path}: layers of {name} have different numbers of tokens or k: {sorted(shapes)}")
        ids = np.stack([record[layer] for layer in layers], axis=1)
        if len(ids) % micro_batch_size:
            raise ValueError(f"{path}: {name} has {len(ids)} tokens, no multiple of {micro_batch_size} rows")
        for row in range(micro_batch_size):
            kind = TokenKind.GENERATED if one_sequence and len(ids) == 1 and open_rank == rank else TokenKind.TEXT
            part = ids[row::micro_batch_size]
            sample = RoutingSample(part, np.full(len(part), kind, np.uint8), f"{name}.{row}")
            if one_sequence and open_rank == rank:
                last = samples.pop()
                kinds = np.concatenate([last.kinds, sample.kinds])
                sample = RoutingSample(np.concatenate([last.ids, part]), kinds, last.key)
            samples.append(sample)
        open_rank = rank
    prefix = "decoder.layers" if block == "decoder" else "mtp.layers"
    names = tuple(f"{prefix}.{'.'.join(str(number) for number in layer)}" for layer in layers)
    meta = TraceMeta(model, num_experts, names, int(samples[0].ids.shape[2]))
    try:
        return Recording(meta, list(checked(samples, meta)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


_Record = dict[tuple[int, ...], np.ndarray]


def _megatron_steps(file: Path, block: str, dtype: np.dtype) -> Iterator[tuple[int, int, int, _Record]]:
    """(rank, step, micro-batch, {layer: (tokens, k)}) in the order of the file.

    The n-th time that a layer speaks within a step is its n-th micro-batch; this holds for interleaved pipeline
    stages too, which run all micro-batches through their first layers before the next ones.
    """
    now: tuple[int, int] | None = None
    spoken: dict[tuple[int, ...], list[np.ndarray]] = {}
    for number, line in _json_lines(file):
        if line.get("block", "decoder") != block:
            continue
        try:
            step, rows = (int(line["rank"]), int(line["step"])), line["top_indices"]
            layer = (*((int(line["mtp_idx"]),) if "mtp_idx" in line else ()), int(line["layer"]))
            stated = (int(line["num_tokens"]), int(line["topk"]))
        except KeyError as error:
            raise ValueError(f"{file}: line {number} has no {error}") from error
        try:
            ids = np.array(rows, dtype=np.int64).reshape(len(rows), -1 if rows else stated[1])
        except ValueError as error:
            raise ValueError(f"{file}: line {number} lists different numbers of experts per token") from error
        if ids.shape != stated:
            raise ValueError(f"{file}: line {number} says {stated} tokens and experts, top_indices are {ids.shape}")
        if step != now:
            yield from _micro_batches(now, spoken)
            now, spoken = step, {}
        fits = ids.size == 0 or ids.max() <= np.iinfo(dtype).max  # what does not fit is refused by number later
        spoken.setdefault(layer, []).append(ids.astype(dtype) if fits else ids)
    yield from _micro_batches(now, spoken)


def _micro_batches(
    step: tuple[int, int] | None, spoken: dict[tuple[int, ...], list[np.ndarray]]
) -> Iterator[tuple[int, int, int, _Record]]:
    if step is not None:
        for number in range(max(len(records) for records in spoken.values())):
            here = {layer: records[number] for layer, records in spoken.items() if number < len(records)}
            yield (*step, number, here)


def _rank_of(path: Path) -> int:
    match = re.search(r"(\d+)\.jsonl$", path.name)
    return int(match[1]) if match else -1
