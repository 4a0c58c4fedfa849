"""A hub id or a local folder -> a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DESCRIPTIONS = ["*.json", "*.jinja", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]
_PICKLES = ["*.bin", "*.pt", "*.pth"]


def folder_of(source: str | Path, *, weights: bool = True, pickles: bool = False, **download: Any) -> Path:
    """The folder itself, or a hub repository's snapshot: configuration and tokenizer, with `weights` those too.

    `download` is what the hub's client takes, as `revision`; a folder has no use for it. Code that a repository carries
    is never fetched. ValueError when there is neither such a folder nor such a repository, naming which was looked for.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ValueError(f"{source} is a file; a model is the folder that holds it beside its config.json")
    if not _HUB_ID.fullmatch(str(source)):
        raise ValueError(f"{source}: there is no such folder, and a hub id looks like Qwen/Qwen3-8B")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_DESCRIPTIONS, *(_WEIGHTS if weights else []), *(_PICKLES if weights and pickles else [])]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **download))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{source}: there is no such folder, and as a hub id it cannot be fetched: {first}") from error
