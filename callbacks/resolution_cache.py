"""Scores that outlive the run that paid for them: one line of JSON each, under the fingerprint of the model.

    cache/3f9c.../scores-0.jsonl      ["[\"docvqa\",\"page 7\",[[14,11]]]", 0.9]

A search that was interrupted reads them and goes on. The line that it was writing may be torn; it is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn


class ScoreCache:
    """Known scores of one model, in a folder of their own.

    Every rank writes a file and reads those that are its by number, so that a search may go on with more or fewer
    ranks, on one disk or on several.

    Args:
        folder: of the caches of all models.
        fingerprint: of the model and of all else that decides a score: prompt, metric, length of answers.
    """

    def __init__(self, folder: str | Path, fingerprint: str, *, rank: int = 0, world_size: int = 1):
        if not fingerprint or not fingerprint.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a fingerprint names a folder; {fingerprint!r} must be letters, digits, - and _")
        self.folder, self.rank, self.world_size = Path(folder) / fingerprint, rank, world_size

    def read(self) -> dict[str, float]:
        """Scores that this rank knows of, by cell; of a cell that comes twice, the later line."""
        scores: dict[str, float] = {}
        for file in sorted(self.folder.glob("scores-*.jsonl")):
            number = file.stem.removeprefix("scores-")
            if number.isdigit() and int(number) % self.world_size == self.rank:
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                    try:
                        cell, score = json.loads(line)
                        scores[str(cell)] = float(score)
                    except (ValueError, TypeError):
                        continue  # torn
        return scores

    def add(self, scores: Mapping[str, float]) -> None:
        """Append scores; they are on the disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"scores-{self.rank}.jsonl"
        lines = [json.dumps([cell, score]) + "\n" for cell, score in scores.items()]
        with file.open("ab+") as stream:
            if stream.seek(0, 2) > 0:
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    lines = ["\n", *lines]  # an interrupted run left half a line
            stream.write("".join(lines).encode())


def module_fingerprint(module: nn.Module) -> str:
    """Hash of a module's state: names, shapes, types and all values (of a sharded tensor, this rank's part)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        if not hasattr(value, "detach"):
            digest.update(f"{name} {value!r}".encode())
            continue
        tensor = value.detach()
        tensor = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()
