"""Checkpoints on disk become their mean on disk: a safetensors folder with a record of what went into it.

    average_checkpoints(["1k/model", "2k/model", "4k/last.ckpt"], "mean")

    mean/config.json, tokenizer.json ...    as in the first folder among the sources
    mean/model.safetensors                  or model-00001-of-00003.safetensors ... and an index, 5 GB each
    mean/averaging.json                     sources with weights, steps and checksums; CRC-32 of every tensor

Tensors go through one at a time, so memory does not grow with the model. The result is read again and compared with
what was written, and a few of its values are computed anew the slow way, before it takes its name.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .averaging_files import FlushBehind, plan_files, worker_threads, write_index, write_means
from .averaging_format import TensorFacts
from .averaging_mean import (
    AVERAGED,
    BLOCK_ELEMENTS,
    Shares,
    TensorSums,
    check_alike,
    check_averageable,
    facts_of_mean,
    shares_of,
)
from .averaging_opening import INDEX, RECORD, open_checkpoint
from .averaging_reading import BlockReader, Checkpoint
from .averaging_target import check_target, new_folder

NOT_CARRIED = (
    "*.safetensors",
    "*.index.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    RECORD,
    "checkpoint-*",
    "global_step*",
)
"""Weights, optimizer states and other checkpoints stay with the source."""


def average_checkpoints(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] | None = None,
    dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
    prefix: str = "",
    files_from: str | Path | None = None,
    overwrite: bool = False,
    max_file_bytes: int = 5_000_000_000,
    notes: Mapping[str, Any] | None = None,
    minimum: int = 2,
    newest_integers: bool = False,
) -> dict[str, Any]:
    """Write the weighted mean of checkpoints as a safetensors folder; returns its record, which is `averaging.json`.

    Args:
        paths: safetensors folders or files, Lightning or other torch.save files, sharded directories, in any mixture.
        out: folder of the result; it appears whole or not at all.
        weights: one number per checkpoint, normalised to add up to 1; by default all are equal.
        dtype: of the mean, or of each of its tensors; by default those of the sources, which then must be the same.
        prefix: average only keys that begin with it, and take it off (`model.` of a Lightning checkpoint).
        files_from: folder whose config and tokenizer are carried over; by default the first folder among `paths`.
        overwrite: replace `out` when it is a saved model.
        max_file_bytes: a larger result is split, with an index.
        notes: further entries of the record.
        minimum: fewer checkpoints are refused.
        newest_integers: take integer buffers from the last checkpoint; by default they must agree.

    Raises:
        ValueError: naming checkpoint and tensor, when one is given twice (also as a copy), keys, shapes or dtypes
            differ, a value is not finite, integer buffers disagree, or a file is damaged; or about `out` and the disk.
    """
    out = Path(out)
    checkpoints = open_alike(paths, prefix=prefix, any_float=dtype is not None, minimum=minimum)
    shares = shares_of(weights, len(checkpoints))
    check_target(out, overwrite=overwrite, sources=tuple(file for each in checkpoints for file in each.files))
    first = checkpoints[0]
    if files_from is not None and not Path(files_from).is_dir():
        raise ValueError(f"{files_from} is no folder to take config and tokenizer from")
    folder = Path(files_from) if files_from is not None else next((c.folder for c in checkpoints if c.folder), None)
    if folder is not None and folder.resolve() in out.resolve().parents:
        raise ValueError(f"{out} lies in {folder}, whose files it would take over; choose another folder")
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(first.tensors, dtype)
    facts = {key: facts_of_mean(its, dtypes[key]) for key, its in first.tensors.items()}
    tied = {name: owner for each in checkpoints for name, owner in each.tied.items()}
    files = plan_files(facts, tied, max_file_bytes)
    needs_bytes = sum(layout.size_bytes for _, layout in files.values())
    with new_folder(out, needs_bytes=needs_bytes) as temporary, FlushBehind() as disk:
        if folder is not None:
            _carry_over(folder, temporary, dtype if isinstance(dtype, torch.dtype) else None)
        sums = write_means(checkpoints, shares, facts, files, temporary, disk, newest_integers)
        digests = _check_sources(checkpoints, sums)
        if len(files) > 1:
            write_index(temporary / INDEX, files)
        record = {
            "method": "uniform mean" if len(set(shares.scales)) == 1 else "weighted mean",
            "sources": [
                {"path": each.name, "weight": scale / shares.divisor, **each.facts, "word_sums_sha256": digest}
                for each, scale, digest in zip(checkpoints, shares.scales, digests, strict=True)
            ],
            "prefix": prefix,
            "dtypes": sorted({str(its.dtype) for its in facts.values()}),
            "files_from": str(folder) if folder is not None else None,
            "tied": tied,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **(notes or {}),
            "crc32": {key: f"{sums[key].crc:08x}" for key in sorted(sums)},
        }
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        verify(temporary, facts, sums, checkpoints, shares)
    return record


def open_alike(
    paths: Sequence[str | Path], *, prefix: str = "", any_float: bool = False, minimum: int = 2
) -> list[Checkpoint]:
    """Open checkpoints that have a mean; ValueError naming those that are given twice or differ."""
    if len(paths) < minimum:
        raise ValueError(f"{len(paths)} checkpoint given, an average needs at least {minimum}")
    checkpoints: list[Checkpoint] = []
    seen: dict[tuple[int, int], Checkpoint] = {}
    for path in paths:
        checkpoint = open_checkpoint(path, prefix=prefix)
        for file in checkpoint.files:
            status = file.stat()
            before = seen.setdefault((status.st_dev, status.st_ino), checkpoint)
            if before is not checkpoint:
                raise ValueError(f"a checkpoint is given twice: {before.name} and {checkpoint.name} are one file")
        check_averageable(checkpoint)
        if checkpoints:
            check_alike(checkpoints[0], checkpoint, any_float=any_float)
        checkpoints.append(checkpoint)
    return checkpoints


def verify(
    folder: Path,
    facts: Mapping[str, TensorFacts],
    sums: Mapping[str, TensorSums],
    checkpoints: Sequence[Checkpoint],
    shares: Shares,
) -> None:
    """Read a result again: its layout, the sum of every block, and a block of three tensors against a mean in fp64."""
    result = open_checkpoint(folder)
    if dict(result.tensors) != dict(facts):
        raise ValueError(f"{folder}: the files do not hold what was written")
    with worker_threads() as pool:
        for key, start in zip(facts, pool.map(lambda key: _first_change(result, key, sums[key]), facts), strict=True):
            if start is not None:
                raise ValueError(f"{folder}: {key} does not read as it was written, from element {start} on")
    averaged = [key for key, its in facts.items() if its.dtype in AVERAGED and its.num_elements]
    for key in {averaged[0], averaged[len(averaged) // 2], averaged[-1]} if averaged else ():
        readers = [BlockReader(checkpoint, key) for checkpoint in checkpoints]
        stop = min(facts[key].num_elements, BLOCK_ELEMENTS)
        stack = torch.stack([reader.read(0, stop).values.double() for reader in readers])
        expected = torch.tensor(shares.scales, dtype=torch.float64) @ stack / shares.divisor
        bound = (
            stack.abs().amax(0) * (2 * torch.finfo(facts[key].dtype).eps + 1e-6) + torch.finfo(facts[key].dtype).tiny
        )
        wrong = (BlockReader(result, key).read(0, stop).values.double() - expected).abs() > bound
        if wrong.any():
            raise ValueError(f"{folder}: {key} differs from the mean at {int(wrong.sum())} of {stop} elements")


def _first_change(result: Checkpoint, key: str, sums: TensorSums) -> int | None:
    """The element at which the first block begins that is not the one of these sums."""
    reader = BlockReader(result, key)
    num_elements = reader.facts.num_elements
    for start, expected in zip(range(0, num_elements, sums.block), sums.block_sums, strict=True):
        if reader.read(start, min(start + sums.block, num_elements)).word_sum() != expected:
            return start
    return None


def crc_of(checkpoint: Checkpoint, key: str) -> int:
    """CRC-32 of a tensor's row-major bytes."""
    reader, crc = BlockReader(checkpoint, key), 0
    for start in range(0, reader.facts.num_elements, BLOCK_ELEMENTS):
        crc = zlib.crc32(reader.read(start, min(start + BLOCK_ELEMENTS, reader.facts.num_elements)).raw, crc)
    return crc


def _check_sources(checkpoints: Sequence[Checkpoint], sums: Mapping[str, TensorSums]) -> list[str]:
    """Compare what was read with the checksums that a source came with; returns a digest of each source's values."""
    digests: list[str] = []
    for number, checkpoint in enumerate(checkpoints):
        for key, its in sums.items():
            crc = its.source_crcs[number]
            if crc is not None and crc != checkpoint.checksums[key]:
                raise ValueError(
                    f"{checkpoint.name}: {key} reads as {crc:08x}, its record says {checkpoint.checksums[key]:08x}"
                )
        lines = [
            f"{key} {checkpoint.tensors[key]} {sums[key].word_sums[number] % 2**64:016x}\n" for key in sorted(sums)
        ]
        digests.append(hashlib.sha256("".join(lines).encode()).hexdigest())
        for before, digest in zip(checkpoints[:number], digests, strict=False):
            if digest == digests[-1] and all(crc_of(before, key) == crc_of(checkpoint, key) for key in sums):
                raise ValueError(
                    f"a checkpoint is given twice: {before.name} and {checkpoint.name} hold the same values"
                )
    return digests


def _carry_over(folder: Path, temporary: Path, dtype: torch.dtype | None) -> None:
    shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns(*NOT_CARRIED), dirs_exist_ok=True)
    config = temporary / "config.json"
    if dtype is None or not config.is_file():
        return
    settings = json.loads(config.read_text(encoding="utf-8"))
    for name in {"dtype", "torch_dtype"} & settings.keys():
        settings[name] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
