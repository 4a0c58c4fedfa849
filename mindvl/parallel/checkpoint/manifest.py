"""The list of a checkpoint's files, written last: bytes and checksum of each.

    {"format": 1, "step": 400, "ranks": 2, "mesh": {"shard": 2, ...}, "optimizer": true,
     "versions": {"mindvl": "0.1.0", "torch": "2.13.0"},
     "files": {"__0_0.distcp": {"bytes": 4193280, "xxh3": "9f0c5a..."}, ...}}

PyTorch's own format has no checksum: a flipped bit in it loads without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import xxhash

MANIFEST = "manifest.json"
FORMAT = 1

_BLOCK_BYTES = 1 << 20  # which the processor's cache holds


@dataclass(frozen=True)
class FileFacts:
    """A file as it was written; `xxh3` is the 128-bit hash in hexadecimal."""

    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself before anything in it is opened."""

    step: int
    """Optimizer steps that the run had taken."""
    ranks: int
    mesh: Mapping[str, int]
    optimizer: bool
    """Whether it holds optimizer state, without which a run cannot go on."""
    files: Mapping[str, FileFacts]
    versions: Mapping[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("mindvl", "torch", "lightning")}
    )

    def text(self) -> str:
        """As it is written."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint. ValueError where it lacks one, or has one that this version cannot read."""
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise ValueError(f"{folder} is no directory of a checkpoint that strategy mindvl has written")
        raise ValueError(
            f"{folder} has no {MANIFEST}: it was not written to its end, or not by MindVLStrategy; go on from another"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(
                f"{path} is in a format that mindvl {version('mindvl')} cannot read; mindvl "
                f"{content['versions']['mindvl']} has written it"
            )
        files = {name: FileFacts(**facts) for name, facts in content.pop("files").items()}
        outside = [name for name in files if Path(name).name != name]
        if outside:
            raise ValueError(f"{path} names {outside[0]}, outside its folder")
        return Manifest(**content, files=files)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def find_damage(
    folder: Path, manifest: Manifest, *, share: tuple[int, int] = (0, 1), hashes: bool = True
) -> str | None:
    """What is wrong with the first damaged file, or None; every n-th file from the k-th for a share of (k, n).

    Without `hashes` no file is read, only sizes are compared.
    """
    number, count = share
    for name in sorted(manifest.files)[number::count]:
        path, facts = folder / name, manifest.files[name]
        if not path.is_file():
            return f"{path} is missing; the checkpoint cannot be used"
        size_bytes = path.stat().st_size
        if size_bytes != facts.bytes:
            return f"{path} has {size_bytes} bytes, {facts.bytes} were written; the checkpoint cannot be used"
        if hashes and (found := _hash(path)) != facts.xxh3:
            return f"{path} is damaged: its checksum is {found}, {facts.xxh3} was written"
    return None


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while size_bytes := file.readinto(block):
            digest.update(block[:size_bytes])
    return digest.hexdigest()
